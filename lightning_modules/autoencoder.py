"""Autoencoder: a network that compresses each image to a short code and reconstructs the image.

Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", Science 2006.
The denoising variant is from Vincent et al., "Stacked Denoising Autoencoders", JMLR 2010.

    z = f(x),  y = g(z)                                                                          (1)
    L = sum_d [-x_d log y_d - (1 - x_d) log(1 - y_d)]                                            (2)
    L_denoising = L(x, g(f(x~))),  x~ ~ q(x~|x)                                                  (3)

Symbols: x `x` in [0, 1] · z (the code) `z` (N, D) · y `logits.sigmoid()` · x~ `corrupt(image)`.
L is summed over pixels and averaged over the batch, in nats per image.

The code z is a representation of the image: nearby codes decode to similar images. Digits are
reconstructed better from a code of 30 values than from 30 principal components. The model is not
generative, because the loss does not make the codes follow a known distribution. A code sampled
from N(0, I) usually lies far from the codes of images and decodes to no meaningful image (`sample`
with mode "holes"). The latent histograms compare the coordinates of the codes with N(0, 1). The VAE
(`vae.py`) adds a prior, a known distribution of the codes.

Departures from the papers and from the code released in 2006:

- Initial weights (2006): the paper uses the weights of restricted Boltzmann machines, trained layer
  by layer for 50 epochs each (10 in the released code). Here the initial weights are random.
- Optimizer (2006): conjugate gradients in the paper; the released code runs 200 epochs with 3 line
  searches per batch of 1,000 images. Here the optimizer is Adam with a cosine schedule.
- Hidden units (2006): logistic in the paper; logistic or ELU here (`activation`).
- Denoising (2010): the paper trains each layer on the outputs of the layer below; here all layers
  are trained together.
- Masking (2010): the paper masks components of the input vector; here a pixel is masked in all
  channels together.
"""

from math import prod
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.core.seeding import seeded_normal
from lightning_modules.nn.encoders import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from lightning_modules.optim.schedules import cosine
from metrics.likelihood import SquaredError


def corrupt(image: Tensor, corruption: str, level: float) -> Tensor:
    """Corrupt the inputs of a denoising autoencoder (x~ in Eq. 3).

    A masked pixel is black in all channels, because the other channels would reveal the value of a
    single masked channel.

    Args:
        image: Images (N, C, H, W) in [-1, 1].
        corruption: Type of corruption: "masking" sets pixels to black, "gaussian" adds noise,
            "none" changes nothing.
        level: Probability that a pixel is masked, or standard deviation of the noise for pixels in
            [0, 1].

    Returns:
        Corrupted images (N, C, H, W). With Gaussian noise, values may lie outside [-1, 1].
    """
    if corruption == "masking":
        return torch.where(torch.rand_like(image[:, :1]) < level, -1.0, image)
    if corruption == "gaussian":
        return image + 2 * level * torch.randn_like(image)  # `level` is for pixels in [0, 1]
    return image


class Autoencoder(GenerativeModule):
    """Deterministic autoencoder, optionally denoising.

    Args:
        Data:
        image_shape: Shape (C, H, W) of an image, supplied by the data module.
        Network:
        network: Architecture: fully connected ("mlp") or convolutional ("conv").
        hidden: Number of units ("mlp") or channels ("conv") in each hidden layer of the encoder.
            The decoder has the same layers in reverse order.
        activation: Activation of the hidden layers of the "mlp" network. The layer that outputs the
            code has no activation.
        latent_dim: Size D of the code z, the vector to which an image is compressed.
        Objective:
        corruption: Corruption of the training inputs: "masking" sets pixels to black, "gaussian"
            adds noise, "none" changes nothing.
        corruption_level: Probability that a pixel is masked ("masking"), or standard deviation of
            the noise for pixels in [0, 1] ("gaussian").
        Optimizer:
        learning_rate: Initial learning rate of Adam. It decays to 0 along half a cosine.

    Raises:
        UserError: If `corruption` is "masking" and `corruption_level` is above 1.
    """

    has_latent_space = True
    monitor = ("val/sse", "min")

    def __init__(
        self,
        image_shape: list[int],
        network: Literal["mlp", "conv"] = "mlp",
        hidden: list[PositiveInt] = [1000, 500, 250],  # noqa: B006  # read only
        activation: Literal["sigmoid", "elu"] = "sigmoid",
        latent_dim: PositiveInt = 30,
        corruption: Literal["none", "masking", "gaussian"] = "none",
        corruption_level: NonNegativeFloat = 0.25,
        learning_rate: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if corruption == "masking" and corruption_level > 1:
            raise UserError(
                "model.corruption_level is a probability for model.corruption masking: give at "
                f"most 1 (got {corruption_level})"
            )
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
        """Encode images (N, C, H, W) in [-1, 1] as codes z (N, D)."""
        return self.encoder(image)  # Eq. 1

    def decode(self, z: Tensor) -> Tensor:
        """Decode codes z (N, D) to images (N, C, H, W) in [-1, 1]."""
        return self.decoder(z).sigmoid() * 2 - 1  # Eq. 1

    embed = encode

    def networks(self) -> dict[str, ExportedNetwork]:
        image = torch.zeros(2, *self.hparams.image_shape)
        z = torch.zeros(2, self.latent_dim)
        return {
            "encoder": ExportedNetwork(Method(self.encoder, self.encode), {"image": image}, ("z",)),
            "decoder": ExportedNetwork(Method(self.decoder, self.decode), {"z": z}, ("image",)),
        }

    def reconstruct(self, image: Tensor) -> Tensor:
        """Encode images (N, C, H, W) in [-1, 1] and decode the codes to images."""
        return self.decode(self.encode(image))

    def reconstruction_error(self, image: Tensor, corrupted: Tensor) -> Tensor:
        """Return the cross-entropy between images and reconstructions of corrupted images (Eq. 2).

        Args:
            image: Target images (N, C, H, W) in [-1, 1].
            corrupted: Corrupted images (N, C, H, W), the inputs of the encoder.

        Returns:
            Scalar loss in nats per image, averaged over the batch.
        """
        x, logits = (image + 1) / 2, self.decoder(self.encoder(corrupted))
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = batch["image"]
        corrupted = corrupt(image, self.hparams.corruption, self.hparams.corruption_level)
        return {"loss": self.reconstruction_error(image, corrupted)}  # Eq. 3

    def configure_optimizers(self) -> Any:
        adam = torch.optim.Adam(self.parameters(), self.hparams.learning_rate, fused=True)
        return [adam], [cosine(adam, self.total_updates)]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        image, loss = batch["image"], self.loss(batch)["loss"]
        self.log("val/loss", loss, batch_size=len(image), sync_dist=True)
        self._log_squared_error("val/sse", image)  # without corruption

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
        """Reconstruct images, or decode codes sampled from N(0, I).

        Args:
            seeds: One seed per returned pair or image. In mode "holes", the random code of image i
                depends on `seeds[i]` alone.
            batch: Batch with the images to reconstruct, one per seed; unused in mode "holes".
            mode: Sampling mode: "reconstruct" pairs images with their reconstructions. "holes"
                decodes codes from N(0, I), most of which lie far from the codes of images.

        Returns:
            Pairs (N, 2, C, H, W) for "reconstruct", images (N, C, H, W) for "holes", in [-1, 1].

        Raises:
            UserError: If `mode` is "reconstruct" and `batch` is None.
        """
        if mode == "holes":
            return self.decode(seeded_normal(seeds, (self.latent_dim,), self.device))
        if batch is None:
            raise UserError(
                "--mode reconstruct needs images: give --data CONFIG, or pass `batch` in Python"
            )
        image = batch["image"].to(self.device)
        return torch.stack([image, self.reconstruct(image)], 1)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        image = batch["image"]
        return {
            "reconstructions": torch.stack([image, self.reconstruct(image)]),
            "reconstructions/rows": ["real", "reconstructed"],
            "holes": self.sample(list(range(len(image))), mode="holes"),
        }
