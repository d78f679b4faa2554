"""Pictures and texts while training: always the same seeds and the same data, so that one can
compare.
"""

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.utils import make_grid

from console import UserError


def grid(pictures: Tensor, columns: int = 8) -> Tensor:
    """uint8 picture (3, H, W) of many in [-1, 1].

    Args:
        pictures: (N, C, H, W), or rows to be compared (R, N, C, H, W): row r + 1 of a picture
            stands below row r.
        columns: pictures side by side.
    """
    if pictures.shape[-3:] == (2, 1, 1):
        return plane(pictures.reshape(-1, 2))
    if pictures.dim() == 5:
        blocks = [block.flatten(0, 1) for block in pictures.split(columns, 1)]
        columns = min(columns, pictures.shape[1])
        pictures = torch.cat(blocks)
    shown = make_grid(
        pictures.detach().float().cpu().clamp(-1, 1),
        columns,
        padding=1,
        normalize=True,
        value_range=(-1, 1),
    )
    return (shown * 255).round().byte()


def labelled(rows: list[tuple[str, Tensor]], smallest: int = 64) -> Tensor:
    """uint8 picture (3, H, W): a line for each row, its text and then its pictures (N, C, H, W) in
    [-1, 1].

    Args:
        rows: texts and pictures, all of one size.
        smallest: pixels; smaller pictures are enlarged to at least that height.
    """
    scale = -(-smallest // rows[0][1].shape[-1])
    lines = [
        grid(pictures.repeat_interleave(scale, 2).repeat_interleave(scale, 3), len(pictures))
        for _, pictures in rows
    ]
    height, width = lines[0].shape[1], max(line.shape[2] for line in lines)
    font = label_font(13)
    margin = int(max(font.getlength(text) for text, _ in rows)) + 12
    canvas = Image.new("RGB", (margin + width, height * len(lines)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, ((text, _), line) in enumerate(zip(rows, lines)):
        draw.text((6, number * height + height // 2), text, "black", font, anchor="lm")
        canvas.paste(Image.fromarray(line.permute(1, 2, 0).numpy()), (margin, number * height))
    return pil_to_tensor(canvas)


def label_font(size: int) -> Any:
    """A font that knows more than ASCII where the system has one, or Pillow's own."""
    for name in (
        "NotoSansCJK-Regular.ttc",
        "NotoSans-Regular.ttf",
        "DejaVuSans.ttf",
        "Arial Unicode.ttf",
        "arial.ttf",
    ):
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def plane(points: Tensor, side: int = 192) -> Tensor:
    """uint8 picture (3, side, side) of points (N, 2) in [-1, 1]: pictures of two numbers are
    places.
    """
    column, row = (
        ((points.detach().float().cpu().clamp(-1, 1) + 1) / 2 * (side - 1)).round().long().unbind(1)
    )
    picture = torch.full((3, side, side), 255, dtype=torch.uint8)
    picture[:, side - 1 - row, column] = torch.tensor([200, 0, 0], dtype=torch.uint8)[:, None]
    return picture


def strips(pictures: Tensor) -> Tensor:
    """uint8 picture of strips (N, S, C, H, W), one per line."""
    return grid(pictures.flatten(0, 1), columns=pictures.shape[1])


def save_png(picture: Tensor, path: Path) -> None:
    """Write a uint8 picture (3, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)


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


class Pictures(Callback):
    """Draws the real pictures and the untrained system's preview before step 1, then the preview
    every so often.

    Args:
        every_n_train_steps: updates between two previews; also one when training ends.
        count: validation samples in a preview.
    """

    def __init__(self, every_n_train_steps: int = 1000, count: int = 32) -> None:
        for name, value in {"every_n_train_steps": every_n_train_steps, "count": count}.items():
            if value < 1:
                raise UserError(f"pictures.{name} {value}: give at least 1")
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
