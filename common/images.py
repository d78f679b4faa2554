"""Arrangement of images in grids, strips and labelled rows, and writing of PNG files."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.utils import make_grid


def grid(images: Tensor, columns: int = 8) -> Tensor:
    """Arrange images in a grid; return the grid as one uint8 image (3, H, W).

    Args:
        images: Images (N, C, H, W) in [-1, 1], or R versions of N images (R, N, C, H, W); the
            versions of an image are shown one below the other. Points (N, 2, 1, 1) of 2-D data
            are shown in one scatter plot.
        columns: Maximum number of images side by side.
    """
    if images.shape[-3:] == (2, 1, 1):
        return plane(images.reshape(-1, 2))
    if images.dim() == 5:
        blocks = [block.flatten(0, 1) for block in images.split(columns, 1)]
        columns = min(columns, images.shape[1])
        images = torch.cat(blocks)
    shown = make_grid(
        images.detach().float().cpu().clamp(-1, 1),
        columns,
        padding=1,
        normalize=True,
        value_range=(-1, 1),
    )
    return (shown * 255).round().byte()


def labelled(rows: list[tuple[str, Tensor]], min_side: int = 64) -> Tensor:
    """Arrange rows of images in one uint8 image (3, H, W), with a label to the left of each row.

    Args:
        rows: Pair of label and images (N, C, H, W) in [-1, 1] for each row. All images must have
            the same size.
        min_side: Minimum width of an image in pixels. Smaller images are enlarged.
    """
    scale = -(-min_side // rows[0][1].shape[-1])
    lines = [
        grid(images.repeat_interleave(scale, 2).repeat_interleave(scale, 3), len(images))
        for _, images in rows
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
    """Return an installed font that covers more than ASCII; otherwise Pillow's default font."""
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
    """Plot samples of 2-D data, points (N, 2) in [-1, 1], in a uint8 image (3, side, side)."""
    column, row = (
        ((points.detach().float().cpu().clamp(-1, 1) + 1) / 2 * (side - 1)).round().long().unbind(1)
    )
    image = torch.full((3, side, side), 255, dtype=torch.uint8)
    image[:, side - 1 - row, column] = torch.tensor([200, 0, 0], dtype=torch.uint8)[:, None]
    return image


def strips(images: Tensor) -> Tensor:
    """Arrange N strips of S images (N, S, C, H, W) in one image (3, H, W), one strip per row."""
    return grid(images.flatten(0, 1), columns=images.shape[1])


def save_png(image: Tensor, path: Path) -> None:
    """Write a uint8 image (3, H, W) to a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
