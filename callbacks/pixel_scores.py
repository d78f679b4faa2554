"""Scores of generated images in pixel space, as in early GAN papers, during training."""

from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveInt
from pytorch_lightning import Callback, Trainer

from callbacks.targets import real_images, targets
from common.errors import UserError
from lightning_modules.core.modes import sampling_note
from lightning_modules.core.module import GenerativeModule
from metrics.features import to_bytes
from metrics.parzen import nearest_neighbour_error, parzen

CHUNK = 1000  # number of images generated at a time
SIGMA_IMAGES = 1000  # number of validation images that select the width of the Parzen window


class PixelScores(Callback):
    """Compares generated images with validation images at every validation, in pixel space.

    The score selects `best.ckpt` if the system itself has no metric for it. It is computed with
    the averaged weights, if there are any. Each rank generates an equal share of the images.

    Args:
        score: Score to compute: "parzen" is the Parzen-window log-likelihood of validation images
            in nats (Goodfellow et al. 2014), where the first 1,000 images select the width of the
            window and the others are evaluated. "nn-error" is the percentage of validation images
            whose nearest generated image has another class (Radford et al. 2016), for conditional
            systems.
        count: Number of generated images.

    Raises:
        UserError: If the system does not generate images from seeds, if the validation split is too
            small, or if the system is not conditional (for "nn-error").
    """

    def __init__(
        self, score: Literal["parzen", "nn-error"] = "parzen", count: PositiveInt = 10_000
    ) -> None:
        self.score, self.count = score, int(count)
        self.best_metric = (f"val/{score}", "max" if score == "parzen" else "min")
        self._validation: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if pl_module.modality != "images":
            raise UserError("PixelScores needs a system that generates images from seeds")
        images, labels = self._real(trainer)
        if self.score == "parzen" and len(images) <= SIGMA_IMAGES:
            raise UserError(
                f"PixelScores needs more than {SIGMA_IMAGES:,} validation images (got "
                f"{len(images)}): raise data.val_size, or remove the callback"
            )
        if self.score == "nn-error" and (labels is None or not getattr(pl_module, "classes", 0)):
            raise UserError("the score nn-error needs a conditional system and data with labels")

    def _real(self, trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the validation images, uint8 (N, C, H, W), and their labels (N,)."""
        if self._validation is None:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            self._validation = real_images(data, "val", list(range(len(data.split("val")))))
        return self._validation

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        (target,) = targets(pl_module, trainer.datamodule)  # type: ignore[attr-defined]
        seeds = list(range(self.count))[trainer.global_rank :: trainer.world_size]
        mine = [
            to_bytes(target.generate(seeds[start : start + CHUNK])).cpu()
            for start in range(0, len(seeds), CHUNK)
        ]
        parts = pl_module.of_all_ranks(torch.cat(mine))
        used = [torch.arange(rank, self.count, len(parts)) for rank in range(len(parts))]
        seeds_of_images, generated = torch.cat(used), torch.cat(parts)
        real, labels = self._real(trainer)
        if self.score == "parzen":
            value, _, sigma = parzen(generated, real[:SIGMA_IMAGES], real[SIGMA_IMAGES:])
            note = f"sigma={sigma:.3f}|n_val={len(real) - SIGMA_IMAGES}"
        else:
            classes: Any = pl_module.classes
            assert labels is not None
            value = 100 * nearest_neighbour_error(
                generated, seeds_of_images % classes, real, labels
            )
            note = f"distance=euclidean|n_val={len(real)}"
        note += sampling_note(pl_module)
        name, _ = self.best_metric
        pl_module.log(name, value)  # the same value on every rank
        pl_module.signatures[name] = f"{self.score}[n_fake={self.count}|{note}]"
