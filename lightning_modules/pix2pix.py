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

| paper | here |
|---|---|
| x, y | a, b |
| lambda | lambda_l1 |
| "batch normalization using the statistics of the test batch", which has one picture | test_statistics picture |
| L1, GAN, cGAN, L1+GAN, L1+cGAN of Table 1; patches of Table 3 | loss; patch |

Where the paper, its two releases (Lua, then PyTorch) and this file differ:

| | paper | released code | here |
|---|---|---|---|
| step size | constant, 200 epochs of facades (section 6.2) | PyTorch: constant for 100 epochs, then to 0 over 100 | constant |
| D that G answers | the one after its step (section 3.3) | Lua: its output from before the step | the one after its step |
| loss of D | halved (section 3.3) | Lua: only the printed one; PyTorch: halved | halved (no effect in Adam) |
| norm of the 1x1 grid | batch norm, which makes it 0 at batches of one image (section 6.3) | removed later | none |
| dropout | first three levels of the decoder (section 6.1) | PyTorch: levels two to four | first three levels |
| levels | 8, for 256 pixels | PyTorch: 7 or 8, for 128 or 256 pixels | log2(side), at most 8 |
| biases before batch norm, which removes them | | Lua: set to 0 at each step; PyTorch: none | none |
"""

from math import log2
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.adversarial import AdversarialModule
from lightning_modules.core.modes import sampling
from lightning_modules.core.seeding import seeded_normal
from lightning_modules.nn.adversarial import (
    logistic_discriminator_loss,
    non_saturating_generator_loss,
)
from lightning_modules.nn.convolution import init_normal
from lightning_modules.nn.patch_discriminator import Patch, PatchDiscriminator
from metrics.fidelity import fidelity_metrics, log_fidelity

DROPPING = 3  # levels of the decoder, from its middle, with dropout


class StatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm that, outside of training, takes the statistics of each picture by itself, or the
    running ones.

    Args:
        channels: C.
        test_statistics: "picture", which equals a batch of one in training mode, or "running".
    """

    def __init__(self, channels: int, test_statistics: str) -> None:
        super().__init__(channels)
        self.alone = test_statistics == "picture"

    def forward(self, x: Tensor) -> Tensor:
        if self.alone and not self.training:
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
        kept = (
            seeded_normal([16 * seed + level for seed in seeds], hidden.shape[1:], hidden.device)
            > 0
        )
        return 2 * hidden * kept


class Pix2Pix(AdversarialModule):
    """Paired translation from a to b.

    Args:
        image_shape: (C, H, W), a fact of the data; sides multiples of 2^L with L = log2(side), at
            most 8 levels.
        width: channels of the largest grids in both networks; the paper's 64.
        loss: which of Eq. 1 to 3 are added up. With "l1" the discriminator only watches, as in
            "l1+cgan".
        lambda_l1: weight of Eq. 3.
        patch: side in pixels of what a logit of the discriminator judges.
        test_statistics: what batch norm goes by outside of training: each picture's own statistics,
            as in the paper, whose batches are of one picture, or training's running ones, which fit
            better where training batches are larger.
        **kwargs: see `AdversarialModule`.

    Raises:
        UserError: if the sides do not fit the U-Net or the patch.
    """

    modality = "image-to-image"

    def __init__(
        self,
        image_shape: list[int],
        width: int = 64,
        loss: Literal["l1", "gan", "cgan", "l1+gan", "l1+cgan"] = "l1+cgan",
        lambda_l1: float = 100.0,
        patch: Patch = 70,
        test_statistics: Literal["picture", "running"] = "picture",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        channels, height, side = image_shape
        self.levels = min(8, int(log2(min(height, side))))
        self.check_sides(height, side)
        self.conditional = loss not in ("gan", "l1+gan")
        seen = 2 * channels if self.conditional else channels
        judge = PatchDiscriminator(seen, width, patch, "batch", min(height, side))
        self.set_networks(
            init_normal(UNet(channels, width, self.levels, test_statistics)), init_normal(judge)
        )
        self.fidelity = fidelity_metrics(("a2b",), min(height, side))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if not getattr(self.trainer.datamodule, "paired", False):  # type: ignore[attr-defined]
            raise UserError(
                "pix2pix learns from pairs, and this data has none: set data.paired to true, or take CycleGAN"
            )

    def check_sides(self, height: int, width: int) -> None:
        """Refuse pictures that the U-Net would not give back in their size."""
        step = 2**self.levels
        if height % step or width % step:
            raise UserError(
                f"pictures of {height}x{width}: sides must be multiples of {step}, such as {step} or {2 * step}"
            )

    def generate(self, batch: dict[str, Any]) -> Tensor:
        return self.generator(batch["a"])

    def discriminate(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits (N, 1, h, w) of an answer, beside its question where Eq. 1 holds."""
        return self.discriminator(torch.cat([a, b], 1) if self.conditional else b)

    def patch_loss(self, batch: dict[str, Any], generated: Tensor) -> Tensor:
        """Half of Eq. 1 or 2, negated."""
        on_real, on_fake = (
            self.discriminate(batch["a"], batch["b"]),
            self.discriminate(batch["a"], generated),
        )
        return logistic_discriminator_loss(on_real, on_fake) / 2

    def discriminator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        return {"loss": self.patch_loss(batch, generated)}

    def generator_losses(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        """The parts of Eq. 4 by their names, unweighed."""
        losses = {"l1": F.l1_loss(generated, batch["b"])}  # Eq. 3, logged in any case
        if self.hparams.loss != "l1":
            losses["gan"] = non_saturating_generator_loss(
                self.discriminate(batch["a"], generated)
            )  # Eq. 1 or 2
        return losses

    def weigh(self, losses: dict[str, Tensor]) -> Tensor:
        """Eq. 4, or what is left of it."""
        parts = [losses["gan"]] if "gan" in losses else []
        if self.hparams.loss.startswith("l1"):
            parts.append(self.hparams.lambda_l1 * losses["l1"])
        return torch.stack(parts).sum()

    def generator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        losses = self.generator_losses(batch, generated)
        return {"loss": self.weigh(losses), **losses}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same losses as in training, but for D's batch norm, which goes by its running
        statistics here.
        """
        generated = self.generate(batch)
        losses = self.generator_losses(batch, generated)
        every = {
            **losses,
            "loss_g": self.weigh(losses),
            "loss_d": self.patch_loss(batch, generated),
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
        """Translate pictures.

        Args:
            seeds: noise of each picture.
            batch: pictures (N, C, H, W) in [-1, 1] under `a`; any size whose sides are multiples of
                the U-Net's 2^L.
            direction: the one that was learnt; `data.swap true` learns the other.

        Returns:
            (N, C, H, W) in [-1, 1].

        Raises:
            UserError: if there are no pictures, or none of a size that the network takes.
        """
        if batch is None:
            raise UserError(
                "a translation needs pictures: give --input FOLDER_OR_IMAGE, or --data CONFIG"
            )
        pictures = batch["a"].to(self.device)
        self.check_sides(*pictures.shape[2:])
        return self.generator(pictures, seeds)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Rows of questions, answers, and the truth."""
        return {
            "a_to_b": torch.stack(
                [batch["a"], self.sample(list(range(len(batch["a"]))), batch=batch), batch["b"]]
            )
        }
