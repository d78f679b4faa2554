"""pix2pix: a U-Net translates pictures whose answers are known, and a discriminator sees to it that
the answers are sharp.

Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR
2017:

    L_cGAN(G, D) = E_{a,b}[log D(a, b)] + E_{a,z}[log(1 - D(a, G(a, z)))]                  (1)
    L_GAN(G, D)  = E_b[log D(b)] + E_{a,z}[log(1 - D(G(a, z)))]                            (2)
    L_L1(G)      = E_{a,b,z}[|b - G(a, z)|_1]                                              (3)
    G*           = arg min_G max_D L_cGAN(G, D) + lambda_l1 L_L1(G)                        (4)

Where many answers are right, L1 alone gives their median, which is grey and blurred; the
discriminator, which sees question and answer side by side, accepts only an answer that somebody
could have given. Skip connections hand every outline to the layer of its own size (section 3.2.1).
The noise z is dropout, in training and when sampling alike (section 3.1).

G maximises log D instead of minimising log(1 - D), and D's loss is halved (section 3.3). Absolute
differences are means over pixels, channels and the batch.

Names: the paper's x and y are a and b here; lambda is `lambda_l1`; "batch normalization using the
statistics of the test batch", which has one image, is `test_statistics` image; the rows of Table 1
are `loss`, those of Table 3 `patch`. Departures from the paper and its two releases (Lua, then
PyTorch):

- Learning rate: constant, as in the paper for 200 epochs of facades (section 6.2); the PyTorch
  release decays it to 0 in the second half.
- G's gradient is that of D after its step (section 3.3); the Lua release takes D's output from
  before the step.
- Loss of D: halved (section 3.3), which has no effect in Adam; the Lua release halves only the
  printed one.
- Norm of the 1x1 grid: none, as in later releases; batch norm in the paper makes it 0 at batches of
  one image (section 6.3).
- Dropout: first three levels of the decoder (section 6.1); levels two to four in the PyTorch
  release.
- Levels: log2(side), at most 8; 8 in the paper, for 256 pixels, and 7 for 128 in the PyTorch
  release.
- Biases before batch norm, which removes them: none, as in the PyTorch release; the Lua release
  sets them to 0 at each step.
"""

from collections.abc import Iterable
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
from lightning_modules.core.seeding import seeded_normal
from lightning_modules.nn.convolution import init_normal
from lightning_modules.nn.patch_discriminator import Patch, PatchDiscriminator
from metrics.fidelity import fidelity_metrics, log_fidelity

DROPPING = 3  # levels of the decoder, from its middle, with dropout


class StatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of each image, or the running ones, outside of training.

    Args:
        channels: C.
        test_statistics: "image", which equals a batch of one in training mode, or "running".
    """

    def __init__(self, channels: int, test_statistics: str) -> None:
        super().__init__(channels)
        self.per_image = test_statistics == "image"

    def forward(self, x: Tensor) -> Tensor:
        if self.per_image and not self.training:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return super().forward(x)


class UNet(nn.Module):
    """Halvings down to 1x1 and doublings back, with a skip between grids of one size: (N, C, H, W)
    to the same.

    Args:
        channels: C.
        width: channels of the first level; doubled at each of the next three.
        levels: L, number of halvings; sides must be multiples of 2^L.
        test_statistics: see `StatisticsBatchNorm`.
    """

    def __init__(self, channels: int, width: int, levels: int, test_statistics: str) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(levels)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, after in enumerate(widths):
            outer, inner = level == 0, level == levels - 1
            before = channels if outer else widths[level - 1]
            halve = [nn.Conv2d(before, after, 4, 2, 1, bias=outer or inner)]
            # In place, also on the skip: the decoder's ReLU takes away all that it leaves below 0.
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

    def forward(self, image: Tensor, seeds: list[int] | None = None) -> Tensor:
        """With `seeds` row i depends on `seeds[i]` alone; otherwise the noise comes from the
        device's generator.
        """
        skips: list[Tensor] = []
        for down in self.down:
            skips.append(down(skips[-1] if skips else image))
        hidden = skips.pop()
        for level in reversed(range(len(self.up))):
            hidden = self.up[level](hidden)
            if level > 0 and len(self.up) - level <= DROPPING:
                hidden = self.drop(hidden, level, seeds)
            if level:
                hidden = torch.cat([hidden, skips.pop()], 1)
        return hidden

    @staticmethod
    def drop(hidden: Tensor, level: int, seeds: list[int] | None) -> Tensor:
        """Half of all values become 0 and the others double, also in eval mode."""
        if seeds is None:
            return F.dropout(hidden, 0.5)
        noise = seeded_normal(
            [16 * seed + level for seed in seeds], hidden.shape[1:], hidden.device
        )
        return 2 * hidden * (noise > 0)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with the paper's learning rate and momentum (section 3.3)."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


class Pix2Pix(AdversarialModule):
    """Paired translation from a to b.

    One update (`AdversarialModule.training_step`): `generate` translations of a batch; step D on
    `discriminator_loss` of these images, detached; then step G on `generator_loss` of the same
    images through the updated D, whose parameters are frozen meanwhile.

    Args:
        image_shape: (C, H, W), a fact of the data; sides multiples of 2^L with L = log2(side), at
            most 8 levels.
        width: Channels of the largest grids in both networks; the paper's 64.
        loss: Terms of Eq. 4 that are added up. With "l1" the discriminator is trained, as in
            "l1+cgan", but has no effect.
        lambda_l1: Weight of Eq. 3.
        patch: Side in pixels of the patch that a logit of the discriminator depends on.
        test_statistics: Statistics of batch norm outside of training: those of each image, as in
            the paper, whose batches are of one image, or training's running ones, which fit better
            where training batches are larger.
        generator_optimizer: Factory of the generator's optimizer.
        discriminator_optimizer: Factory of the discriminator's optimizer.
        **kwargs: See `AdversarialModule`: schedules, clipping, accumulation, averaged weights.

    Raises:
        UserError: if the sides do not fit the U-Net or the patch.
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
                "pix2pix learns from pairs, and this data has none: set data.paired to true, "
                "or take CycleGAN"
            )

    def check_sides(self, height: int, width: int) -> None:
        """Check that the U-Net returns images of this size in the same size."""
        step = 2**self.levels
        if height % step or width % step:
            raise UserError(
                f"images of {height}x{width}: sides must be multiples of {step}, "
                f"such as {step} or {2 * step}"
            )

    def generate(self, batch: dict[str, Any]) -> Tensor:
        return self.generator(batch["a"])

    def discriminate(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits (N, 1, h, w) of images b, beside their inputs a in Eq. 1."""
        return self.discriminator(torch.cat([a, b], 1) if self.conditional else b)

    def discriminator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        real = self.discriminate(batch["a"], batch["b"])
        fake = self.discriminate(batch["a"], generated)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()  # Eq. 1 or 2, negated:
        return {"loss": loss / 2}  # -log D(a, b) = softplus(-logit)

    def generator_losses(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        """Terms of Eq. 4 by their names, without weights."""
        losses = {"l1": F.l1_loss(generated, batch["b"])}  # Eq. 3, logged in any case
        if self.hparams.loss != "l1":
            fake = self.discriminate(batch["a"], generated)
            losses["gan"] = F.softplus(-fake).mean()  # -log D of Eq. 1 or 2
        return losses

    def weigh(self, losses: dict[str, Tensor]) -> Tensor:
        """Sum of the terms of Eq. 4 that `loss` names."""
        terms = [losses["gan"]] if "gan" in losses else []
        if self.hparams.loss.startswith("l1"):
            terms.append(self.hparams.lambda_l1 * losses["l1"])
        return torch.stack(terms).sum()

    def generator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        losses = self.generator_losses(batch, generated)
        return {"loss": self.weigh(losses), **losses}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer and schedule per network: `adam` at a constant rate unless given."""
        return self.build_optimizers()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the losses of training, with the running statistics of D's batch norm."""
        generated = self.generate(batch)
        losses = self.generator_losses(batch, generated)
        every = {
            **losses,
            "loss_g": self.weigh(losses),
            "loss_d": self.discriminator_loss(batch, generated)["loss"],
        }
        values = {f"val/{name}": value for name, value in every.items()}
        self.log_dict(values, batch_size=len(generated), sync_dist=True)
        log_fidelity(self, generated, batch["b"], "val", "a2b")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        log_fidelity(self, self.generate(batch), batch["b"], "test", "a2b")

    # What a user calls

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        direction: Literal["a2b"] = "a2b",
    ) -> Tensor:
        """Translate images.

        Args:
            seeds: Seed of each image's noise.
            batch: Images (N, C, H, W) in [-1, 1] under `a`; any size whose sides are multiples of
                the U-Net's 2^L.
            direction: The direction that was trained; `data.swap true` trains the other one.

        Returns:
            (N, C, H, W) in [-1, 1].

        Raises:
            UserError: if there are no images, or the network does not take their size.
        """
        if batch is None:
            raise UserError(
                "a translation needs images: give --input FOLDER_OR_IMAGE, or --data CONFIG"
            )
        images = batch["a"].to(self.device)
        self.check_sides(*images.shape[2:])
        return self.generator(images, seeds)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Rows of inputs, translations, and the true images."""
        return {
            "a_to_b": torch.stack(
                [batch["a"], self.sample(list(range(len(batch["a"]))), batch=batch), batch["b"]]
            )
        }
