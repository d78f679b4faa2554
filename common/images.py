"""Grids, strips and labelled rows of images, and PNG files."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.utils import make_grid


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
