"""MADE: an autoencoder that masks its weights to be an autoregressive model of binary pixels.

Germain, Gregor, Murray and Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", ICML
2015. Output d is the conditional probability y_d of pixel d, so the likelihood is exact:

    p(x) = prod_d p(x_d | x_<d),    p(x_d = 1 | x_<d) = y_d                       (1)
    -log p(x) = sum_d [-x_d log y_d - (1 - x_d) log(1 - y_d)]                     (2)
    hidden mask: 1 where degree(out) >= degree(in)                                (3)
    output mask: 1 where degree(out) > degree(in)                                 (4)

Symbols: x_d `x[:, d]`, a pixel in {0, 1} · y_d `self(x)[:, d].sigmoid()` · D, the number of pixels.
The degree of a unit is the maximum number of inputs that the unit may depend on.

Input d has degree d + 1. A hidden unit of degree m depends on the inputs 0 .. m - 1 only (Eq. 3).
Output d is connected to units of degree at most d, so it depends on pixels 0 .. d - 1 only (Eq. 4).
One forward pass computes all D conditional probabilities; sampling takes D passes, one per pixel.

| | paper | here |
|---|---|---|
| degrees of hidden units | sampled uniformly, resampled in training | evenly spread, fixed |
| order of the pixels | resampled at each update; average of several in the test | row by row |
| optimizer | Adagrad or Adadelta, chosen on validation data | Adam |

The paper also reports a model with a single mask and order, like the model here.
"""

import itertools
from math import prod
from typing import Any

import torch
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.networks import ExportedNetwork, Method


class MaskedLinear(nn.Linear):
    """Linear layer whose weights are multiplied by a constant mask.

    Args:
        mask: Mask of zeros and ones, shape (outputs, inputs).
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        outputs, inputs = mask.shape
        super().__init__(inputs, outputs)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mask * self.weight, self.bias)


def spread_degrees(dims: int, width: int) -> Tensor:
    """Return the degrees (width,) of hidden units, evenly spread over 1 .. dims - 1."""
    if width < dims - 1:
        return torch.linspace(1, dims - 1, width).round().long()
    return torch.arange(width) % (dims - 1) + 1


def autoregressive_masks(dims: int, hidden: list[int]) -> list[Tensor]:
    """Return masks that make output d depend on the inputs 0 .. d - 1 only (Eq. 3 and 4).

    Args:
        dims: Number of inputs and of outputs, at least 2.
        hidden: Number of units in each hidden layer.

    Returns:
        One mask (outputs, inputs) for each of the `len(hidden) + 1` layers.

    Raises:
        UserError: If `dims` is less than 2, because no degree 1 .. dims - 1 then exists for hidden
            units.
    """
    if dims < 2:
        raise UserError(f"MADE needs images of at least 2 pixels (got {dims}); choose other data")
    inputs = torch.arange(1, dims + 1)
    degrees = [inputs, *(spread_degrees(dims, width) for width in hidden)]
    masks = [after[:, None] >= before for before, after in itertools.pairwise(degrees)]  # Eq. 3
    masks.append(inputs[:, None] > degrees[-1])  # Eq. 4
    return [mask.float() for mask in masks]


class MADE(GenerativeModule):
    """Masked autoencoder that estimates the distribution of binary images.

    Args:
        Data:
        image_shape: Shape (C, H, W) of an image, supplied by the data module.
        Network:
        hidden: Number of units in each hidden layer.
        Optimizer:
        learning_rate: Learning rate of Adam.
    """

    monitor = ("val/nll", "min")

    def __init__(
        self,
        image_shape: list[int],
        hidden: list[PositiveInt] = [500, 500],  # noqa: B006  # read only
        learning_rate: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        masks = autoregressive_masks(prod(image_shape), hidden)
        layers: list[nn.Module] = [MaskedLinear(masks[0])]
        for mask in masks[1:]:
            layers += [nn.ReLU(), MaskedLinear(mask)]
        self.network = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, D) of p(x_d = 1 | x_<d) for pixels x (N, D) in {0, 1}."""
        return self.network(x)

    def networks(self) -> dict[str, ExportedNetwork]:
        pixels = torch.zeros(2, prod(self.hparams.image_shape))
        return {
            "network": ExportedNetwork(
                Method(self.network, self.forward), {"pixels": pixels}, ("logits",)
            )
        }

    def nll(self, image: Tensor) -> Tensor:
        """Return the negative log-likelihood (N,) in nats of images (N, C, H, W) in [-1, 1].

        Pixel values above 0 count as 1, all others as 0.
        """
        x = (image > 0).float().flatten(1)  # (N, D)
        return F.binary_cross_entropy_with_logits(self(x), x, reduction="none").sum(1)  # Eq. 2

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"loss": self.nll(batch["image"]).mean()}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        nll = self.nll(batch["image"])
        self.log("val/nll", nll.mean(), batch_size=len(nll), sync_dist=True)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        nll = self.nll(batch["image"])
        self.log("test/nll", nll.mean(), batch_size=len(nll), sync_dist=True)
        self.signatures["test/nll"] = "nll[exact|pixels=binary]"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.hparams.learning_rate, fused=True)

    @sampling
    def sample(self, seeds: list[int], *, temperature: PositiveFloat = 1.0) -> Tensor:
        """Sample images pixel by pixel, with one forward pass per pixel.

        Args:
            seeds: One seed per image; image i depends on `seeds[i]` alone.
            temperature: Divisor of the logits. Values below 1 make samples less diverse.

        Returns:
            Images (N, C, H, W) with values -1 and 1.
        """
        shape = self.hparams.image_shape
        # Noise is sampled on the CPU, so that a seed gives the same noise on every device.
        rows = [
            torch.rand(prod(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds
        ]
        noise = torch.stack(rows).to(self.device)  # (N, D)
        x = torch.zeros_like(noise)
        for d in range(prod(shape)):  # Eq. 1
            probability = (self(x)[:, d] / temperature).sigmoid()
            x[:, d] = (noise[:, d] < probability).float()
        return (2 * x - 1).view(-1, *shape)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        return {"samples": self.sample(list(range(32)))}
