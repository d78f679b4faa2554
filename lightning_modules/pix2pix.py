"""pix2pix: image-to-image translation learnt from image pairs, with a U-Net and a PatchGAN.

Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR
2017:

    L_cGAN(G, D) = E_{a,b}[log D(a, b)] + E_{a,z}[log(1 - D(a, G(a, z)))]                  (1)
    L_GAN(G, D)  = E_b[log D(b)] + E_{a,z}[log(1 - D(G(a, z)))]                            (2)
    L_L1(G)      = E_{a,b,z}[|b - G(a, z)|_1]                                              (3)
    G*           = arg min_G max_D L_cGAN(G, D) + lambda_l1 L_L1(G)                        (4)

If several outputs are plausible for an input, L1 alone leads to the median of these outputs, which
is grey and blurred. The discriminator D receives the input and an output, and penalises outputs
that are blurred or do not match the input. Skip connections pass details such as outlines from the
encoder to decoder layers of equal resolution (section 3.2.1). The noise z is the dropout of the
generator G, in training and in sampling (section 3.1).

G maximises log D instead of minimising log(1 - D), and D's loss is halved (section 3.3). Absolute
differences are means over pixels, channels and the batch.

Symbols: the paper's x, y are a, b here · lambda `lambda_l1`. The option `loss` selects a row of the
paper's Table 1, and `patch` a row of Table 3. With `test_statistics` "image", batch norm uses the
statistics of each test image, like the paper's test batches of one image.

Departures from the paper and its two releases (Lua, then PyTorch):

- Learning rate: constant, as in the paper for 200 epochs of facades (section 6.2). The PyTorch
  release decays the learning rate to 0 in the second half of training.
- Gradient of G: computed with the updated D (section 3.3). The Lua release uses the output of D
  from before its update.
- Loss of D: halved (section 3.3), which has no effect with Adam. The Lua release halves only the
  printed value.
- Normalisation of the 1x1 feature map: none, as in later releases. The paper's batch norm sets this
  feature map to 0 for batches of one image (section 6.3).
- Dropout: in the first three levels of the decoder (section 6.1). The PyTorch release has dropout
  in levels two to four.
- Levels of the U-Net: log2(side), at most 8. The paper has 8 levels for 256 pixels; the PyTorch
  release has 7 levels for 128 pixels.
- Biases before batch norm: none, as in the PyTorch release, because the norm cancels them. The Lua
  release sets these biases to 0 at each step.
"""

from collections.abc import Iterable
from functools import partial
from math import log2
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveInt
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.adversarial import OPTIMIZER_ARGUMENTS, AdversarialModule
from lightning_modules.core.modes import sampling
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.core.seeding import seeded_normal
from lightning_modules.nn.convolution import init_normal
from lightning_modules.nn.patch_discriminator import Patch, PatchDiscriminator
from metrics.fidelity import fidelity_metrics, log_fidelity

DROPPING = 3  # number of decoder levels with dropout, counted from the bottleneck


class StatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses per-image or running statistics in eval mode.

    Args:
        channels: Number of channels.
        test_statistics: Mean and variance used in eval mode: computed from each image ("image"), as
            in training with a batch of one image, or running averages ("running").
    """

    def __init__(self, channels: int, test_statistics: str) -> None:
        super().__init__(channels)
        self.per_image = test_statistics == "image"

    def forward(self, x: Tensor) -> Tensor:
        if self.per_image and not self.training:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return super().forward(x)


class UNet(nn.Module):
    """U-Net that halves the resolution of an image L times, then doubles it L times.

    Skip connections concatenate feature maps of equal size from the encoder and the decoder.

    Args:
        channels: Number C of image channels.
        width: Number of channels at the first level. It doubles at each of the next three levels.
        levels: Number L of halvings; H and W must be multiples of 2^L.
        test_statistics: Batch-norm statistics in eval mode: computed from each image ("image") or
            running averages ("running").
    """

    def __init__(self, channels: int, width: int, levels: int, test_statistics: str) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(levels)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, after in enumerate(widths):
            outer, inner = level == 0, level == levels - 1
            before = channels if outer else widths[level - 1]
            halve = [nn.Conv2d(before, after, 4, 2, 1, bias=outer or inner)]
            # The in-place LeakyReLU also changes the skip connection's x. The decoder's result is
            # unaffected, because ReLU(LeakyReLU(x)) = ReLU(x).
            down = [*([] if outer else [nn.LeakyReLU(0.2, inplace=True)]), *halve]
            self.down.append(
                nn.Sequential(
                    *down,
                    *([] if outer or inner else [StatisticsBatchNorm(after, test_statistics)]),
                )
            )
            double = nn.ConvTranspose2d(after if inner else 2 * after, before, 4, 2, 1, bias=outer)
            end = nn.Tanh() if outer else StatisticsBatchNorm(before, test_statistics)
            self.up.append(nn.Sequential(nn.ReLU(inplace=True), double, end))

    def forward(self, image: Tensor, seeds: list[int] | None = None, drop: bool = True) -> Tensor:
        """Translate images (N, C, H, W), without dropout if `drop` is False; keeps the shape.

        With `seeds`, the dropout of image i depends on `seeds[i]` alone. Without `seeds`, dropout
        uses the device's random number generator.
        """
        skips: list[Tensor] = []
        for down in self.down:
            skips.append(down(skips[-1] if skips else image))
        hidden = skips.pop()
        for level in reversed(range(len(self.up))):
            hidden = self.up[level](hidden)
            if drop and level > 0 and len(self.up) - level <= DROPPING:
                hidden = self.drop(hidden, level, seeds)
            if level:
                hidden = torch.cat([hidden, skips.pop()], 1)
        return hidden

    @staticmethod
    def drop(hidden: Tensor, level: int, seeds: list[int] | None) -> Tensor:
        """Apply dropout of 0.5, also in eval mode; with `seeds`, the result is reproducible."""
        if seeds is None:
            return F.dropout(hidden, 0.5)
        noise = seeded_normal(
            [(16 * seed + level) % 2**63 for seed in seeds], hidden.shape[1:], hidden.device
        )
        return 2 * hidden * (noise > 0)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build Adam with the paper's learning rate and momentum (section 3.3)."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


class Pix2Pix(AdversarialModule):
    """pix2pix: translation of images a to images b, learnt from pairs (a, b).

    One update (`AdversarialModule.training_step`):

    1. Translate the images of a batch (`generate`).
    2. Update the discriminator D to reduce `discriminator_loss`. No gradient flows through the
       translated images to the generator G in this step.
    3. Update G to reduce `generator_loss`, computed on the same translated images with the updated
       D. The parameters of D are frozen in this step.

    Args:
        Data:
        image_shape: Shape (C, H, W) of an image, supplied by the data module. H and W must be
            multiples of 2^L, where L is log2(min(H, W)) rounded down, and at most 8.
        Network:
        width: Number of channels after the first convolution of each network. The paper uses 64.
        Objective:
        loss: Terms of the generator's loss (Eq. 4): L1 ("l1", Eq. 3), conditional GAN ("cgan",
            Eq. 1), unconditional GAN ("gan", Eq. 2), or the sum of L1 and a GAN term. With "l1"
            alone, the discriminator is trained as with "l1+cgan" but does not affect the generator.
        lambda_l1: Weight of the L1 loss (Eq. 3).
        patch: Side, in pixels, of the square image patch that determines one output of the
            discriminator.
        Sampling:
        test_statistics: Batch-norm statistics in evaluation. "image" computes the statistics of
            each image, as the paper does with batches of one image. "running" uses running
            averages, which is recommended for larger training batches.
        Optimizer:
        generator_optimizer: Function that builds an optimizer from the generator's parameters.
        discriminator_optimizer: Function that builds an optimizer from the discriminator's
            parameters.
        **kwargs: Arguments of `AdversarialModule`: learning rate schedules, number of updates per
            network, gradient clipping, gradient accumulation and averaged weights.

    Raises:
        UserError: If a side of the images is not a multiple of 2^L or is too small for `patch`.
    """

    modality = "image-to-image"

    def __init__(
        self,
        image_shape: list[int],
        width: PositiveInt = 64,
        loss: Literal["l1", "gan", "cgan", "l1+gan", "l1+cgan"] = "l1+cgan",
        lambda_l1: NonNegativeFloat = 100.0,
        patch: Patch = 70,
        test_statistics: Literal["image", "running"] = "image",
        generator_optimizer: OptimizerCallable = adam,
        discriminator_optimizer: OptimizerCallable = adam,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator_optimizer, discriminator_optimizer, **kwargs)
        self.save_hyperparameters(ignore=OPTIMIZER_ARGUMENTS)
        channels, height, side = image_shape
        self.levels = min(8, int(log2(min(height, side))))
        self.check_sides(height, side)
        self.conditional = loss not in ("gan", "l1+gan")
        inputs = 2 * channels if self.conditional else channels
        discriminator = PatchDiscriminator(inputs, width, patch, "batch", min(height, side))
        generator = UNet(channels, width, self.levels, test_statistics)
        self.set_networks(init_normal(generator), init_normal(discriminator))
        self.fidelity = fidelity_metrics(("a2b",), min(height, side))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if not getattr(self.trainer.datamodule, "paired", False):  # type: ignore[attr-defined]
            raise UserError(
                "pix2pix needs paired images, and data.paired is not true: give --data.paired "
                "true, or train CycleGAN"
            )

    def check_sides(self, height: int, width: int) -> None:
        """Raise a `UserError` if a side is not a multiple of 2^L."""
        step = 2**self.levels
        if height % step or width % step:
            raise UserError(
                f"images of {height}x{width}: sides must be multiples of {step}, "
                f"such as {step} or {2 * step}"
            )

    def generate(self, batch: dict[str, Any]) -> Tensor:
        return self.generator(batch["a"])

    def discriminate(self, a: Tensor, b: Tensor) -> Tensor:
        """Return D's logits (N, 1, h, w) for images b; a conditional D also receives a (Eq. 1)."""
        return self.discriminator(torch.cat([a, b], 1) if self.conditional else b)

    def discriminator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        real = self.discriminate(batch["a"], batch["b"])
        fake = self.discriminate(batch["a"], generated)
        # Negated Eq. 1 or 2, where -log D = softplus(-logit) and -log(1 - D) = softplus(logit).
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        return {"loss": loss / 2}

    def generator_losses(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        """Return the unweighted terms of the generator's loss (Eq. 4), keyed by name."""
        losses = {"l1": F.l1_loss(generated, batch["b"])}  # Eq. 3, always logged
        if self.hparams.loss != "l1":
            fake = self.discriminate(batch["a"], generated)
            losses["gan"] = F.softplus(-fake).mean()  # -log D of Eq. 1 or 2
        return losses

    def weigh(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms of Eq. 4 that the option `loss` selects."""
        terms = [losses["gan"]] if "gan" in losses else []
        if self.hparams.loss.startswith("l1"):
            terms.append(self.hparams.lambda_l1 * losses["l1"])
        return torch.stack(terms).sum()

    def generator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        losses = self.generator_losses(batch, generated)
        return {"loss": self.weigh(losses), **losses}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build one optimizer per network; the default is Adam with a constant learning rate."""
        return self.build_optimizers()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the losses of G and D, and the error of translations, on a validation batch.

        The batch norm of D uses running statistics here.
        """
        generated = self.generate(batch)
        losses = self.generator_losses(batch, generated)
        every = {
            **losses,
            "loss_g": self.weigh(losses),
            "loss_d": self.discriminator_loss(batch, generated)["loss"],
        }
        values = {f"val/{name}": value for name, value in every.items()}
        self.log_dict(values, batch_size=len(generated), sync_dist=True)
        self._log_fidelity(batch, generated, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._log_fidelity(batch, self.generate(batch), "test")

    def _log_fidelity(self, batch: dict[str, Any], generated: Tensor, stage: str) -> None:
        log_fidelity(self, self.averaged_output(batch, generated), batch["b"], stage, "a2b")

    # Sampling

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        direction: Literal["a2b"] = "a2b",
    ) -> Tensor:
        """Translate images a to images b.

        Args:
            seeds: One seed per image. The dropout noise of image i depends on `seeds[i]` alone.
            batch: Dictionary with the input images (N, C, H, W) in [-1, 1] under the key `a`. H and
                W must be multiples of 2^L, where L is the number of levels of the U-Net.
            direction: Direction of the translation, always "a2b". For the reverse direction,
                train a model with `--data.swap true`.

        Returns:
            Translated images (N, C, H, W) in [-1, 1].

        Raises:
            UserError: If `batch` is None, or a side of the images is not a multiple of 2^L.
        """
        if batch is None:
            raise UserError(
                "a translation needs images: give --input FOLDER_OR_IMAGE, or --data CONFIG"
            )
        images = batch["a"].to(self.device)
        self.check_sides(*images.shape[2:])
        return self.generator(images, seeds)

    def networks(self) -> dict[str, ExportedNetwork]:
        """Return the generator without the dropout noise of `sample`."""
        image = torch.zeros(2, *self.hparams.image_shape)
        translate = partial(self.generator, drop=False)
        return {
            "generator": ExportedNetwork(
                Method(self.generator, translate), {"image": image}, ("translation",)
            )
        }

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Return a grid with rows of inputs, translations and true images."""
        return {
            "a_to_b": torch.stack(
                [batch["a"], self.sample(list(range(len(batch["a"]))), batch=batch), batch["b"]]
            ),
            "a_to_b/rows": ["real a", "generated b", "real b"],
        }
