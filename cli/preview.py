"""Show the training data before any training: `python train.py preview --config FILE`.

The data are prepared as for `fit`, and the first training batch is loaded and augmented. No model
is built. Images are written to a PNG file; its path is printed.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cli.run_directory import recipe_home
from cli.training import TrainCLI
from common.images import are_points, grid, labelled, save_png
from datamodules.base import DataModule

MAX_IMAGES, ROW, TEXTS = 64, 8, 4  # images in the grid, images per row, printed texts


class PreviewCLI(TrainCLI):
    """Command line of `train.py preview`; accepts the options of `fit`, and needs no model.

    Args:
        argv: Words of the command line after `preview`.
    """

    required = ("data",)

    def __init__(self, argv: list[str]) -> None:
        super().__init__(["fit", *argv])

    def before_instantiate_classes(self) -> None:
        """Do nothing: no run is created."""

    def instantiate_classes(self) -> None:
        options = self.config["fit"]
        self.config_init = self.parser.instantiate_classes({"fit": {"data": options.data}})
        self.datamodule = self.config_init["fit"]["data"]

    def _run_subcommand(self, subcommand: str) -> None:
        options = self.config["fit"]
        home = recipe_home(self.command_line.words)  # runs/<system>/<dataset>
        folder = Path(options.run_dir or Path("runs", "preview", *home.parts[1:]))
        data = self.datamodule
        data.prepare_data()
        batch = first_batch(data)
        print(f"data: {type(data).__name__}, {sizes(data)}")
        print("first training batch, after augmentation:")
        print("\n".join(f"  {line}" for line in batch_table(batch)))
        shown = data.preview(batch)
        for line in text_lines(shown):
            print(line)
        image = image_grid(shown)
        if image is not None:
            save_png(image, folder / "preview.png")
            print(f"preview: {folder / 'preview.png'}")


def sizes(data: DataModule) -> str:
    """Return the number of samples in each split, as text."""
    return ", ".join(f"{count:,} {name}" for name, count in data.sizes.items())


def first_batch(data: DataModule) -> dict[str, Any]:
    """Return the first training batch on the CPU, transformed as in training.

    A split that is smaller than a training batch is returned whole.
    """
    if data.batch_unit == "samples":
        data.batch_size = min(data.batch_size, max(1, len(data.loader_dataset("train"))))
    batch: dict[str, Any] = next(iter(data.train_dataloader()))
    return data.transform(batch, training=True)


def batch_table(batch: Mapping[str, Any]) -> list[str]:
    """Return a line for each entry of a batch: name, type, shape, and range of the values."""
    lines = []
    width = max(map(len, batch))
    for name, value in batch.items():
        if isinstance(value, Tensor):
            shape = "x".join(map(str, value.shape)) or "scalar"
            kind = str(value.dtype).removeprefix("torch.")
            extent = (
                f"{value.min().item():g} to {value.max().item():g}" if value.numel() else "empty"
            )
            lines.append(f"{name:{width}}  {kind:8} {shape:16} {extent}")
        else:
            lines.append(f"{name:{width}}  {type(value).__name__:8} {value!s:.60}")
    return lines


def text_lines(shown: Mapping[str, Tensor | list[str]]) -> list[str]:
    """Return the first texts of a batch; texts that stand below images are left out."""
    texts = {name: value for name, value in shown.items() if isinstance(value, list)}
    if len(texts) < len(shown):
        return []
    count = min((len(value) for value in texts.values()), default=0)
    return [
        f"{name} {number + 1}: {indented(value[number])}"
        for number in range(min(count, TEXTS))
        for name, value in texts.items()
    ]


def indented(text: str) -> str:
    """Return a text of one line unchanged; otherwise, begin a new line and indent all lines."""
    return text if "\n" not in text else "\n" + textwrap.indent(text, "    ", lambda _: True)


def image_grid(shown: Mapping[str, Tensor | list[str]]) -> Tensor | None:
    """Return the images of a batch as one uint8 image (3, H, W); None without images.

    Images with texts are arranged in rows, one for each text, with the text to the left. Several
    kinds of images, such as both sides of pairs, are shown one below the other.
    """
    images = [value[:MAX_IMAGES] for value in shown.values() if isinstance(value, Tensor)]
    texts = [value[:MAX_IMAGES] for value in shown.values() if isinstance(value, list)]
    if not images:
        return None
    if len(images) > 1 or not texts or are_points(images[0]):
        return grid(torch.stack(images) if len(images) > 1 else images[0])
    rows: dict[str, list[Tensor]] = {}
    for text, image in zip(texts[0], images[0], strict=True):
        rows.setdefault(text, []).append(image)
    chosen = sorted(rows, key=natural) if len(rows) < len(images[0]) else list(rows)
    return labelled([(text, torch.stack(rows[text][:ROW])) for text in chosen[:16]])


def natural(text: str) -> tuple[int, str]:
    """Return a sort key that sorts numbers by value and before other texts."""
    return (int(text), "") if text.isdecimal() else (10**9, text)
