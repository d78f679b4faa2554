"""Previews and texts while training: always the same seeds and the same data, so that one can
compare.
"""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from common.errors import UserError
from common.images import grid, save_png


def publish(trainer: Trainer, name: str, content: Tensor | list[str], step: int | None) -> None:
    """Write a picture or texts to `samples/` and to the loggers that can show them.

    Args:
        name: what it is; the step is appended where there is one.
        content: uint8 (3, H, W), or lines.
        step: update that it belongs to.
    """
    path = (
        Path(trainer.default_root_dir)
        / "samples"
        / (name if step is None else f"{name}-{step:07d}")
    )
    if isinstance(content, Tensor):
        save_png(content, path.with_suffix(".png"))
    else:
        path.with_suffix(".txt").write_text("\n".join(content) + "\n")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            if isinstance(content, Tensor):
                logger.log_image(
                    name, [Image.fromarray(content.permute(1, 2, 0).numpy())], step=step
                )
            else:
                logger.log_text(name, ["text"], [[line] for line in content], step=step)
        elif isinstance(logger, TensorBoardLogger):
            if isinstance(content, Tensor):
                logger.experiment.add_image(name, content, step or 0)
            else:
                logger.experiment.add_text(name, "\n\n".join(content), step or 0)


def preview_batch(trainer: Trainer, count: int) -> dict[str, Any]:
    """`count` validation samples (training ones where there is no validation), spread evenly, on
    the module's device.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    split = "val" if len(data.split("val")) else "train"
    batch = data.batch(split, spread(len(data.split(split)), count))
    return on_device(batch, trainer.lightning_module.device)


def spread(size: int, count: int) -> list[int]:
    """At most `count` different numbers below `size`, evenly spread."""
    count = min(size, count)
    return [size * i // count for i in range(count)]


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors moved."""
    return {
        key: value.to(device) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }


class Previews(Callback):
    """Draws the real pictures and the untrained system's preview before step 1, then the preview
    every so often.

    Args:
        every_n_train_steps: updates between two previews; also one when training ends.
        count: validation samples in a preview.
    """

    def __init__(self, every_n_train_steps: int = 1000, count: int = 32) -> None:
        for name, value in {"every_n_train_steps": every_n_train_steps, "count": count}.items():
            if value < 1:
                raise UserError(f"previews.{name} {value}: give at least 1")
        self.every_n_train_steps, self.count = every_n_train_steps, count
        self._drawn_at = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.global_step == 0:
            batch = preview_batch(trainer, self.count)
            if "image" in batch:
                publish(trainer, "real", grid(batch["image"]), None)
            self._draw(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and trainer.global_step % self.every_n_train_steps == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._drawn_at == trainer.global_step:
            return
        self._drawn_at = trainer.global_step
        shown = pl_module.preview(preview_batch(trainer, self.count))  # type: ignore[operator]
        for name, content in shown.items():
            publish(
                trainer,
                name,
                grid(content) if isinstance(content, Tensor) else content,
                trainer.global_step,
            )
