"""What adversarial systems share: losses on logits, penalties, spectral normalisation, and
augmentation of both sides.

The names of the losses are those of the literature; `real` and `fake` are the discriminator's
logits, of any shape.

| loss | discriminator minimises | generator minimises | source |
|---|---|---|---|
| minimax | softplus(-real) + softplus(fake) | -softplus(fake) = log(1 - D(G(z))) | Goodfellow et al. 2014, Eq. 1 |
| non_saturating | the same | softplus(-fake) = -log D(G(z)) | Goodfellow et al. 2014, section 3 |
| least_squares | ((real - 1)^2 + fake^2) / 2 | (fake - 1)^2 / 2 | Mao et al. 2017, Eq. 9 |
| wasserstein | fake - real | -fake | Arjovsky et al. 2017, Eq. 2 |
| hinge | relu(1 - real) + relu(1 + fake) | -fake | Lim and Ye 2017; Miyato et al. 2018, Eq. 16 and 17 |

Where the discriminator is sure (fake far below 0), the slope of the minimax loss is sigmoid(fake),
which vanishes; that of the non-saturating loss is sigmoid(fake) - 1, which does not. Neither value
says how good the pictures are; the Wasserstein estimate E[D(real)] - E[D(fake)] of a critic with a
bounded slope does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from common.errors import UserError


def logistic_discriminator_loss(real: Tensor, fake: Tensor, target: float = 1.0) -> Tensor:
    """Cross-entropy of real against fake; `target` below 1 is one-sided label smoothing (Salimans
    et al. 2016, section 3.4).
    """
    return (
        target * F.softplus(-real).mean()
        + (1 - target) * F.softplus(real).mean()
        + F.softplus(fake).mean()
    )


def least_squares_discriminator_loss(real: Tensor, fake: Tensor, target: float = 1.0) -> Tensor:
    """Mao et al. 2017, Eq. 9 with b = `target` and a = 0."""
    return ((real - target).square().mean() + fake.square().mean()) / 2


def wasserstein_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Minus the estimate of the Wasserstein distance, up to the critic's slope."""
    return fake.mean() - real.mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Zero once every real logit is above 1 and every fake one below -1."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def minimax_generator_loss(fake: Tensor) -> Tensor:
    """log(1 - D(G(z))): vanishes where the discriminator wins."""
    return -F.softplus(fake).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """-log D(G(z))."""
    return F.softplus(-fake).mean()


def least_squares_generator_loss(fake: Tensor) -> Tensor:
    """Mao et al. 2017, Eq. 9 with c = 1."""
    return (fake - 1).square().mean() / 2


def wasserstein_generator_loss(fake: Tensor) -> Tensor:
    """Minus the critic's value, also the generator's side of the hinge loss."""
    return -fake.mean()


class Loss(NamedTuple):
    """The two sides of an adversarial loss."""

    discriminator: Callable[..., Tensor]
    generator: Callable[[Tensor], Tensor]


LOSSES = {
    "minimax": Loss(logistic_discriminator_loss, minimax_generator_loss),
    "non_saturating": Loss(logistic_discriminator_loss, non_saturating_generator_loss),
    "least_squares": Loss(least_squares_discriminator_loss, least_squares_generator_loss),
    "wasserstein": Loss(wasserstein_discriminator_loss, wasserstein_generator_loss),
    "hinge": Loss(hinge_discriminator_loss, wasserstein_generator_loss),
}
SMOOTHABLE = (
    "minimax",
    "non_saturating",
    "least_squares",
)  # losses with a target that `label_smoothing` can lower


def slope_norm(logits: Tensor, inputs: Tensor) -> Tensor:
    """(N,) norm of the gradient of each logit by its own input, itself differentiable."""
    (slope,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return slope.flatten(1).norm(dim=1)


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor
) -> Tensor:
    """E[(|slope of D at x^| - 1)^2], x^ anywhere on the lines from real to fake (Gulrajani et al.
    2017, Eq. 3).
    """
    share = torch.rand(len(real), *[1] * (real.dim() - 1), dtype=real.dtype, device=real.device)
    between = torch.lerp(real, fake.to(real), share).detach().requires_grad_()
    return (slope_norm(discriminator(between), between) - 1).square().mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """1/2 E[|slope of D at real pictures|^2] (Mescheder et al. 2018, Eq. 9)."""
    real = real.detach().requires_grad_()
    return slope_norm(discriminator(real), real).square().mean() / 2


def normalise_spectrally(network: nn.Module) -> nn.Module:
    """Divide every weight of `network` by its largest singular value, estimated by power iteration
    (Miyato et al. 2018).
    """
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            spectral_norm(part)
    return network


def has_batch_norm(network: nn.Module) -> bool:
    """Whether outputs depend on the other samples of a batch, which a penalty on each sample's own
    slope forbids.
    """
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())


def refuse_contradictions(given: Any, critic: nn.Module) -> None:
    """Check that a loss, its penalties and the discriminator's norm go together.

    Args:
        given: a system's hyper-parameters `loss`, `label_smoothing`, `spectral`, `penalty_weight`,
            `r1_weight`, `weight_clip`.
        critic: the discriminator.

    Raises:
        UserError: with the reason, if they do not.
    """
    wasserstein, slope = given.loss == "wasserstein", bool(given.penalty_weight or given.r1_weight)
    squashed = any(isinstance(part, nn.Sigmoid) for part in critic.modules())
    reasons = {
        "all losses here are of logits, and this discriminator ends in a sigmoid: remove that": squashed,
        "model.label_smoothing needs a loss with a target": given.label_smoothing
        and given.loss not in SMOOTHABLE,
        "model.penalty_weight and model.r1_weight hold the slope at each picture, which batch norm in the discriminator makes "
        "depend on the other pictures: take another norm or model.spectral instead": slope
        and has_batch_norm(critic),
        "model.penalty_weight and model.weight_clip belong to model.loss wasserstein": (
            given.penalty_weight or given.weight_clip
        )
        and not wasserstein,
        "model.loss wasserstein needs a bounded slope: model.penalty_weight, model.weight_clip or model.spectral": wasserstein
        and not (given.penalty_weight or given.weight_clip or given.spectral),
    }
    for reason, broken in reasons.items():
        if broken:
            raise UserError(f"{reason} (model.loss is {given.loss})")


@torch.no_grad()
def clip_weights(network: nn.Module, limit: float) -> None:
    """Clamp all parameters to [-limit, limit] (Arjovsky et al. 2017, Algorithm 1)."""
    for parameter in network.parameters():
        parameter.clamp_(-limit, limit)


def diff_augment(image: Tensor) -> Tensor:
    """Random colour, translation by up to 1/8 and a cut-out of half the side, differentiable (Zhao
    et al. 2020, "DiffAugment").

    Applied to real and fake pictures alike and only where the discriminator sees them, so that it
    cannot learn the training pictures by heart and the generator does not learn the augmentation.

    Args:
        image: (N, C, H, W) in [-1, 1].

    Returns:
        The same shape; colours may leave [-1, 1], what moves in and what is cut out is 0.
    """
    count, _, height, width = image.shape
    device = image.device

    def uniform() -> Tensor:
        return torch.rand(count, 1, 1, 1, device=device)

    image = image + uniform() - 0.5  # brightness
    image = torch.lerp(image.mean(1, keepdim=True), image, 2 * uniform())  # saturation
    image = torch.lerp(image.mean((1, 2, 3), keepdim=True), image, uniform() + 0.5)  # contrast

    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    reach = (height // 8, width // 8)
    down, right = (torch.randint(-r, r + 1, (count, 1, 1), device=device) for r in reach)
    padded = F.pad(
        image, (1, 1, 1, 1)
    )  # an index outside of the picture reads this border of zeros
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
    return image.masked_fill(hole[:, None], 0.0)
