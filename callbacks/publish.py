"""Write images and texts to `samples/`, Weights & Biases and TensorBoard."""

from pathlib import Path

from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from common.images import save_png


def publish(trainer: Trainer, name: str, content: Tensor | list[str], step: int | None) -> None:
    """Write an image or lines of text to `samples/`, Weights & Biases and TensorBoard.

    Args:
        trainer: Trainer of the run.
        name: File name without suffix. `step` is appended to the file name unless it is None.
        content: Image (3, H, W) of dtype uint8, or lines of text.
        step: Number of updates so far; None for content that does not change during training.
    """
    file_name = name if step is None else f"{name}-{step:07d}"
    path = Path(trainer.default_root_dir) / "samples" / file_name
    if isinstance(content, Tensor):
        save_png(content, path.with_suffix(".png"))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text("\n".join(content) + "\n", encoding="utf-8")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            if isinstance(content, Tensor):
                image = Image.fromarray(content.permute(1, 2, 0).numpy())
                logger.log_image(name, [image], step=step)
            else:
                logger.log_text(name, ["text"], [[line] for line in content], step=step)
        elif isinstance(logger, TensorBoardLogger):
            if isinstance(content, Tensor):
                logger.experiment.add_image(name, content, step or 0)
            else:
                logger.experiment.add_text(name, "\n\n".join(content), step or 0)
