"""Write images and texts to `samples/` and to the loggers, Weights & Biases and TensorBoard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from callbacks.run_files import CSVLog
from common.images import save_png


def publish(
    trainer: Trainer,
    name: str,
    content: Tensor | list[str],
    step: int | None,
    caption: str | None = None,
) -> None:
    """Write an image or lines of text to `samples/`, Weights & Biases and TensorBoard.

    Args:
        trainer: Trainer of the run.
        name: File name without suffix. `step` is appended to the file name unless it is None.
        content: Image (3, H, W) of dtype uint8, or lines of text.
        step: Number of updates so far; None for content that does not change during training.
        caption: Caption of the image or text; the first line of a text file.
    """
    file_name = name if step is None else f"{name}-{step:07d}"
    path = Path(trainer.default_root_dir) / "samples" / file_name
    if isinstance(content, Tensor):
        save_png(content, path.with_suffix(".png"))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text(text_file(content, caption), encoding="utf-8")
    for logger in trainer.loggers:
        if isinstance(content, Tensor):
            log_image(logger, name, content, step or 0, caption)
        else:
            log_text(logger, name, content, step or 0, caption)


def log_values(trainer: Trainer, values: Mapping[str, float], step: int) -> None:
    """Log values to all loggers except the one of `metrics.csv`.

    Args:
        trainer: Trainer of the run.
        values: Values, keyed by name. They are not written to `metrics.csv`, because they stand in
            another file, or differ between identical runs.
        step: Number of updates so far.
    """
    for logger in trainer.loggers:
        if not isinstance(logger, CSVLog):
            logger.log_metrics(dict(values), step)


def log_image(logger: Logger, name: str, image: Tensor, step: int, caption: str | None) -> None:
    """Log an image (3, H, W) of dtype uint8 to Weights & Biases or TensorBoard."""
    if isinstance(logger, WandbLogger):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        logger.log_image(name, [picture], step=step, caption=[caption])
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, image, step)
        if caption is not None:  # images have no captions there
            logger.experiment.add_text(f"{name}/caption", caption, step)


def log_text(
    logger: Logger, name: str, lines: list[str], step: int, caption: str | None = None
) -> None:
    """Log lines of text to Weights & Biases, as a table, or to TensorBoard."""
    rows = [[line] if caption is None else [line, caption] for line in lines]
    log_table(logger, name, ["text", "caption"][: 1 + (caption is not None)], rows, step)


def log_table(
    logger: Logger, name: str, columns: list[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Log a table to Weights & Biases, or as a Markdown table to TensorBoard.

    Args:
        logger: Logger of the run; other loggers than these two log no table.
        name: Name of the table.
        columns: Heading of each column.
        rows: Cells of each row.
        step: Number of updates so far.
    """
    if isinstance(logger, WandbLogger):
        logger.log_table(name, columns, [list(row) for row in rows], step=step)
    elif isinstance(logger, TensorBoardLogger):
        lines = [columns, ["---"] * len(columns), *rows]
        cells = [[markdown_cell(str(cell)) for cell in line] for line in lines]
        logger.experiment.add_text(name, "\n".join(f"| {' | '.join(row)} |" for row in cells), step)


def markdown_cell(text: str) -> str:
    """Return a text as a cell of a Markdown table: in one line, with `|` escaped."""
    return "<br>".join(text.splitlines()).replace("|", "\\|")


def text_file(texts: list[str], caption: str | None) -> str:
    """Return the content of a text file: the caption and the texts, numbered if they have lines."""
    lines = [] if caption is None else [caption, ""]
    if any("\n" in text.strip() for text in texts):
        texts = [f"[{number}]\n{text}\n" for number, text in enumerate(texts, 1)]
    return "\n".join([*lines, *texts]) + "\n"
