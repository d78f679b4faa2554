"""Differentiable augmentation of real and generated images (Zhao et al. 2020, "DiffAugment")."""

import torch
from torch import Tensor
from torch.nn import functional as F


def diff_augment(image: Tensor, probability: float = 1.0) -> Tensor:
    """Randomly change colours, shift by up to 1/8 of the side, and cut out a box of half the side.

    The augmentation is differentiable and applied to all inputs of the discriminator, real and
    generated. The discriminator then overfits less. If every image is augmented, the augmentation
    can leak: generated images are themselves shifted, or have changed colours. With a probability
    below 0.8, leaks are unlikely (Karras et al. 2020, "Training Generative Adversarial Networks
    with Limited Data", section 2.2).

    Args:
        image: Images (N, C, H, W) in [-1, 1].
        probability: Probability of each of the three operations, chosen for each image; 1 in
            DiffAugment.

    Returns:
        Augmented images (N, C, H, W). Values may lie outside [-1, 1]. Pixels without a
        source after the shift and pixels in the box are 0.
    """
    count, _, height, width = image.shape
    device = image.device

    def uniform() -> Tensor:
        return torch.rand(count, 1, 1, 1, device=device)

    colour, shift, cut = (uniform() < probability for _ in range(3))  # each (N, 1, 1, 1)
    image = image + colour * (uniform() - 0.5)  # brightness
    # saturation and contrast: interpolation from grey, or from the mean, with a weight around 1
    image = torch.lerp(image.mean(1, keepdim=True), image, 1 + colour * (2 * uniform() - 1))
    image = torch.lerp(image.mean((1, 2, 3), keepdim=True), image, 1 + colour * (uniform() - 0.5))

    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    limits = (height // 8, width // 8)
    down, right = (
        torch.randint(-limit, limit + 1, (count, 1, 1), device=device) * shift[:, 0]
        for limit in limits
    )
    padded = F.pad(image, (1, 1, 1, 1))  # shifted-in pixels are taken from this border
    moved_rows = (rows - down + 1).clamp(0, height + 1)  # (N, H, 1)
    moved_columns = (columns - right + 1).clamp(0, width + 1)  # (N, 1, W)
    sample = torch.arange(count, device=device)[:, None, None]
    image = padded.permute(0, 2, 3, 1)[sample, moved_rows, moved_columns].permute(0, 3, 1, 2)

    top, left = (
        torch.randint(0, side + 1, (count, 1, 1), device=device) - side // 4
        for side in (height, width)
    )
    hole = (
        (rows >= top)
        & (rows < top + height // 2)
        & (columns >= left)
        & (columns < left + width // 2)
    )  # (N, H, W)
    return image.masked_fill(hole[:, None] & cut, 0.0)
