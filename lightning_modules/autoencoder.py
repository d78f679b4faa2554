"""Autoencoder: a network that must pass a picture through a code much smaller than the picture.

Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", Science 2006;
the denoising variant is Vincent et al., "Stacked Denoising Autoencoders", JMLR 2010.

    z = f(x),  y = g(z)                                                                          (1)
    L = sum_d [-x_d log y_d - (1 - x_d) log(1 - y_d)]                                            (2)
    L_denoising = L(x, g(f(x~))),  x~ ~ q(x~|x)                                                  (3)

Symbols: x `x` in [0, 1] · z `z` (N, D) · y `logits.sigmoid()` · x~ `corrupt(image)`.
L is a sum over pixels and a mean over the batch, in nats per picture.

The code is a representation: near codes are alike pictures, and 30 numbers keep a digit better than
its 30 principal components do. It is no generator: nothing makes the codes fill the space between
them, so a code drawn at random decodes to a picture of nothing (`sample`; the histograms against
N(0, 1) show why). The VAE mends just this.

Departures from the papers, and from the code released with the first:

- Initial weights (2006): restricted Boltzmann machines, trained layer by layer for 50 epochs each
  (10 in the released code); random here.
- Training (2006): conjugate gradients, in the released code 200 epochs with 3 line searches for
  each batch of 1,000; Adam with a cosine schedule here.
- Hidden units (2006): logistic; here logistic, or ELU where the config says so.
- Denoising: the paper trains each layer on the codes of the layer below; here all layers at once.
- Masking: the paper masks components of the input vector; here pixels, in all channels together.
"""

import math
from math import prod
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.seeding import seeded_normal
from lightning_modules.nn.encoders import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from metrics.likelihood import SquaredError


def corrupt(image: Tensor, corruption: str, level: float) -> Tensor:
    """Corrupt the input of a denoising autoencoder, x~ of Eq. 3.

    A masked pixel is black in all channels: the value of one channel could be inferred from the
    other two.

    Args:
        image: Images (N, C, H, W) in [-1, 1].
        corruption: "masking" sets pixels to black, "gaussian" adds noise, "none" does nothing.
        level: Share of masked pixels, or standard deviation of the noise on the [0, 1] scale.
    """
    if corruption == "masking":
        return torch.where(torch.rand_like(image[:, :1]) < level, -1.0, image)
    if corruption == "gaussian":
        return image + 2 * level * torch.randn_like(image)  # images span 2 here, 1 in the paper
    return image


class Autoencoder(GenerativeModule):
    """Deterministic autoencoder.

    Args:
        image_shape: (C, H, W), a fact of the data.
        network: fully connected ("mlp") or convolutional ("conv").
        hidden: widths of the encoder's layers, or its channels, from the picture inwards; the
            decoder mirrors them.
        activation: of the fully connected network; the code is linear.
        latent_dim: D, number of values of z.
        corruption: what is done to the input in training.
        corruption_level: Share of masked pixels, or standard deviation of the Gaussian noise on the
            [0, 1] scale.
        learning_rate: Adam's step size, which falls to 0 on half a cosine.
    """

    has_latent_space = True
    monitor = ("val/sse", "min")

    def __init__(
        self,
        image_shape: list[int],
        network: Literal["mlp", "conv"] = "mlp",
        hidden: list[int] = [1000, 500, 250],  # noqa: B006  # read only; a list is what a YAML file can hold
        activation: Literal["sigmoid", "elu"] = "sigmoid",
        latent_dim: PositiveInt = 30,
        corruption: Literal["none", "masking", "gaussian"] = "none",
        corruption_level: NonNegativeFloat = 0.25,
        learning_rate: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.latent_dim = latent_dim
        self.encoder: nn.Module
        self.decoder: nn.Module
        if network == "conv":
            self.encoder = ConvEncoder(image_shape, hidden, latent_dim)
            self.decoder = ConvDecoder(image_shape, hidden, latent_dim)
        else:
            self.encoder = MLPEncoder(prod(image_shape), hidden, latent_dim, activation)
            self.decoder = MLPDecoder(latent_dim, hidden, image_shape, activation)
        self.squared_error = SquaredError()

    def encode(self, image: Tensor) -> Tensor:
        """Encode images (N, C, H, W) in [-1, 1] as z (N, D)."""
        return self.encoder(image)  # Eq. 1

    def decode(self, z: Tensor) -> Tensor:
        """Decode z (N, D) to images (N, C, H, W) in [-1, 1]."""
        return self.decoder(z).sigmoid() * 2 - 1  # Eq. 1

    embed = encode

    def reconstruct(self, image: Tensor) -> Tensor:
        """Encode images (N, C, H, W) and decode them again."""
        return self.decode(self.encode(image))

    def reconstruction_error(self, image: Tensor, corrupted: Tensor) -> Tensor:
        """Eq. 2 between images (N, C, H, W) and the reconstructions of corrupted ones, a scalar in
        nats per image.
        """
        x, logits = (image + 1) / 2, self.decoder(self.encoder(corrupted))
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = batch["image"]
        corrupted = corrupt(image, self.hparams.corruption, self.hparams.corruption_level)
        return {"loss": self.reconstruction_error(image, corrupted)}  # Eq. 3

    def configure_optimizers(self) -> Any:
        adam = torch.optim.Adam(self.parameters(), self.hparams.learning_rate, fused=True)
        total = self.total_updates

        def rate(update: int) -> float:
            """Factor of the learning rate: half a cosine to 0."""
            return 0.5 + 0.5 * math.cos(math.pi * min(1.0, update / max(1, total)))

        schedule = torch.optim.lr_scheduler.LambdaLR(adam, rate)
        return [adam], [{"scheduler": schedule, "interval": "step"}]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        image = batch["image"]
        loss = self.reconstruction_error(image, image)
        self.log("val/loss", loss, batch_size=len(image), sync_dist=True)
        self._log_squared_error("val/sse", image)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._log_squared_error("test/sse", batch["image"])

    def _log_squared_error(self, name: str, image: Tensor) -> None:
        self.squared_error.update((self.reconstruct(image) + 1) / 2, (image + 1) / 2)
        self.log_metric(name, self.squared_error)

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        mode: Literal["reconstruct", "holes"] = "reconstruct",
    ) -> Tensor:
        """Reconstruct images, or decode z from N(0, I) to show the holes between encoded images.

        Args:
            seeds: row i depends on `seeds[i]` alone.
            batch: Images to reconstruct, row i for seed i.
            mode: "reconstruct" or "holes".

        Returns:
            Pairs (N, 2, C, H, W), or images (N, C, H, W), in [-1, 1].
        """
        if mode == "holes":
            return self.decode(seeded_normal(seeds, (self.latent_dim,), self.device))
        if batch is None:
            raise UserError("--mode reconstruct needs images: give the data they come from")
        image = batch["image"].to(self.device)
        return torch.stack([image, self.reconstruct(image)], 1)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        image = batch["image"]
        return {
            "reconstructions": torch.stack([image, self.reconstruct(image)]),
            "holes": self.sample(list(range(len(image))), mode="holes"),
        }
