"""Autoencoder: a network that must pass a picture through a code much smaller than the picture.

Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", Science 2006;
the denoising variant is Vincent et al., "Stacked Denoising Autoencoders", JMLR 2010.

    z = f(x),  y = g(z)                                                                          (1)
    L = sum_d [-x_d log y_d - (1 - x_d) log(1 - y_d)]                                            (2)
    L_denoising = L(x, g(f(x~))),  x~ ~ q(x~|x)                                                  (3)

Symbols: x `x` in [0, 1] · z `code` (N, D) · y `logits.sigmoid()` · x~ `corrupt(image)`.
L is a sum over pixels and a mean over the batch, in nats per picture.

The code is a representation: near codes are alike pictures, and 30 numbers keep a digit better than
its 30 principal components do. It is no generator: nothing makes the codes fill the space between
them, so a code drawn at random decodes to a picture of nothing (`sample`; the histograms against
N(0, 1) show why). The VAE mends just this.

Where this differs from the papers and the code released with the first:

| | paper | released code | here |
|---|---|---|---|
| start (2006) | restricted Boltzmann machines, layer by layer, 50 epochs each | the same, 10 epochs each | random weights |
| training (2006) | conjugate gradients | 200 epochs, 3 line searches for each batch of 1,000 | Adam, cosine schedule |
| hidden units (2006) | logistic | logistic | logistic, or ELU where the config says so |
| order (denoising) | each layer is trained on the codes of the layer below | | all layers at once |
| masking (denoising) | components of the input vector | | pixels, all channels together |
"""

from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.seeding import seeded_normal
from lightning_modules.nn.encoders import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from lightning_modules.optim.schedules import cosine
from metrics.likelihood import SquaredError


def corrupt(image: Tensor, corruption: str, level: float) -> Tensor:
    """x~ of Eq. 3: "masking" sets a share `level` of the pixels to black, "gaussian" adds noise of
    that deviation.

    A masked pixel is black in all channels. One channel's value alone could be read off the other
    two.
    """
    if corruption == "masking":
        return torch.where(torch.rand_like(image[:, :1]) < level, -1.0, image)
    if corruption == "gaussian":
        return image + 2 * level * torch.randn_like(image)  # pictures span 2, the paper's 1
    return image


class Autoencoder(GenerativeModule):
    """Deterministic autoencoder.

    Args:
        image_shape: (C, H, W), a fact of the data.
        network: fully connected ("mlp") or convolutional ("conv").
        hidden: widths of the encoder's layers, or its channels, from the picture inwards; the
            decoder mirrors them.
        activation: of the fully connected network; the code is linear.
        latent_dim: D, size of the code.
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
        latent_dim: int = 30,
        corruption: Literal["none", "masking", "gaussian"] = "none",
        corruption_level: float = 0.25,
        learning_rate: float = 1e-3,
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
        """Codes (N, D) of pictures in [-1, 1]."""
        return self.encoder(image)  # Eq. 1

    def decode(self, code: Tensor) -> Tensor:
        """Previews (N, C, H, W) in [-1, 1] of codes (N, D)."""
        return self.decoder(code).sigmoid() * 2 - 1  # Eq. 1

    embed = encode

    def reconstruct(self, image: Tensor) -> Tensor:
        """decode(encode(image))."""
        return self.decode(self.encode(image))

    def reconstruction_error(self, image: Tensor, seen: Tensor) -> Tensor:
        """Eq. 2 of clean pictures and what the encoder sees of them, in nats per picture."""
        x = (image + 1) / 2
        return F.binary_cross_entropy_with_logits(
            self.decoder(self.encoder(seen)), x, reduction="sum"
        ) / len(x)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = batch["image"]
        corrupted = corrupt(image, self.hparams.corruption, self.hparams.corruption_level)
        return {"loss": self.reconstruction_error(image, corrupted)}  # Eq. 3

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        image = batch["image"]
        self.log(
            "val/loss",
            self.reconstruction_error(image, image),
            batch_size=len(image),
            sync_dist=True,
        )
        self._judge("val/sse", image)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._judge("test/sse", batch["image"])

    def _judge(self, name: str, image: Tensor) -> None:
        self.squared_error.update((self.reconstruct(image) + 1) / 2, (image + 1) / 2)
        self.log_metric(name, self.squared_error)

    def configure_optimizers(self) -> Any:
        adam = torch.optim.Adam(self.parameters(), self.hparams.learning_rate, fused=True)
        return [adam], [cosine(adam, self.total_updates)]

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        mode: Literal["reconstruct", "holes"] = "reconstruct",
    ) -> Tensor:
        """Reconstruct unseen pictures, or decode codes drawn from N(0, I) to see the holes between
        the codes of pictures.

        Args:
            seeds: row i depends on `seeds[i]` alone.
            batch: unseen pictures, row i for seed i.
            mode: which of the two.

        Returns:
            Pairs (N, 2, C, H, W), or pictures (N, C, H, W), in [-1, 1].
        """
        if mode == "holes":
            return self.decode(seeded_normal(seeds, (self.latent_dim,), self.device))
        if batch is None:
            raise UserError("--mode reconstruct needs pictures: give the data they come from")
        image = batch["image"].to(self.device)
        return torch.stack([image, self.reconstruct(image)], 1)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        image = batch["image"]
        return {
            "reconstructions": torch.stack([image, self.reconstruct(image)]),
            "holes": self.sample(list(range(len(image))), mode="holes"),
        }
