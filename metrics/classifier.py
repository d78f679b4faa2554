"""A small convolutional classifier, trained with a fixed seed.

Generative models p(x|y)p(y) are compared with this discriminative model p(y|x). The penultimate
layer of the classifier is also a feature extractor for metrics that need no downloaded weights. The
signature of such a metric, a string that records its settings, includes a hash of the weights.
"""

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.progress import track

MAX_SIDE = 64  # larger images are resized to this side


def shrink(images: Tensor) -> Tensor:
    """Resize images (N, C, H, W) to 64x64 pixels if H and W are above 64.

    The values of uint8 images are rounded to the nearest integer.
    """
    if min(images.shape[2:]) <= MAX_SIDE:
        return images
    small = F.adaptive_avg_pool2d(images.float(), MAX_SIDE)
    return small.round().byte() if images.dtype == torch.uint8 else small


class Classifier(nn.Module):
    """Two convolutions with pooling and two linear layers, for images of at least 8x8 pixels.

    Images above 64x64 pixels are resized to it first.

    Args:
        channels: Number of channels of the images.
        num_classes: Number of classes.
        features: Width of the penultimate layer.
    """

    def __init__(self, channels: int, num_classes: int, features: int = 128) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, features),
            nn.ReLU(),
        )
        self.head = nn.Linear(features, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, C, H, W) in [-1, 1]."""
        return self.head(self.penultimate(image))

    def penultimate(self, image: Tensor) -> Tensor:
        """Return the outputs (N, features) of the penultimate layer for images in [-1, 1]."""
        return self.body(shrink(image))


def weights_hash(network: nn.Module) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of all weights of a network."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def train_classifier(
    images: Tensor, labels: Tensor, num_classes: int, *, epochs: int | None = None, seed: int = 0
) -> Classifier:
    """Train a `Classifier` without changing the state of the global random generator.

    The optimizer is Adam with learning rate 1e-3, cosine decay to 0 and batches of 128.

    Args:
        images: Training images (N, C, H, W), uint8.
        labels: Classes (N,) of the images.
        num_classes: Number of classes.
        epochs: Number of epochs. None selects the smallest number with at least 1,200 batches, but
            at most 20 epochs.
        seed: Random seed of the initial weights and of the order of the images.
    """
    size = min(128, len(images))
    batches = len(images) // size
    epochs = epochs or min(20, -(-1200 // batches))
    # Gradients are enabled because a validation, which disables them, may call this function.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would also seed GPUs
        model = Classifier(images.shape[1], num_classes)
        model = model.to(memory_format=torch.channels_last)  # 1.6 times as fast
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
        for _ in track(range(epochs), "epochs of the classifier"):
            for index in torch.randperm(len(images))[: batches * size].split(size):
                batch = (images[index].float() / 127.5 - 1).contiguous(
                    memory_format=torch.channels_last
                )
                loss = F.cross_entropy(model(batch), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.to(memory_format=torch.contiguous_format).eval()


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of uint8 images (N, C, H, W) whose most likely class is their label (N,)."""
    right = [
        (model(chunk.float() / 127.5 - 1).argmax(1) == label).sum()
        for chunk, label in zip(images.split(1000), labels.split(1000))
    ]
    return torch.stack(right).sum().item() / len(labels)
