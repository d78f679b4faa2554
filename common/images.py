"""Arrangement of images in grids, strips and labelled or captioned rows; writing of PNG files."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.utils import make_grid

TITLE, TITLE_LINE = 14, 20  # size of titles and height of their line, in pixels
TEXT, TEXT_LINE, MAX_LINES = 12, 15, 4  # the same for captions, and maximum lines of a caption
PAD = 6  # pixels around texts
MAX_NAME = 150  # maximum width of the names of rows in pixels; longer names have several lines
MIN_SIDE, MIN_CAPTIONED = 48, 96  # pixels; smaller images in a captioned grid are enlarged
PLANE = 320  # side of a plot of 2-D points, in pixels
DOT = 3  # side of the square that marks a point, in pixels
RED, GREY = (200, 0, 0), (200, 200, 200)


def are_points(images: Tensor) -> bool:
    """Return whether "images" (..., 2, 1, 1) are points of 2-D data."""
    return images.shape[-3:] == (2, 1, 1)


def grid(images: Tensor, columns: int = 8) -> Tensor:
    """Arrange images in a grid; return the grid as one uint8 image (3, H, W).

    Args:
        images: Images (N, C, H, W) in [-1, 1], or R versions of N images (R, N, C, H, W); the
            versions of an image are shown one below the other. Points (N, 2, 1, 1) of 2-D data
            are shown in one scatter plot.
        columns: Maximum number of images side by side.
    """
    if are_points(images):
        return plane(images.reshape(-1, 2))
    if images.dim() == 5:
        columns = min(columns, images.shape[1])
        missing = -images.shape[1] % columns  # black images, so that versions stay aligned
        images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing), value=-1)
        images = torch.cat([block.flatten(0, 1) for block in images.split(columns, 1)])
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
    lines = [grid(enlarged(images, min_side), len(images)) for _, images in rows]
    height, width = lines[0].shape[1], max(line.shape[2] for line in lines)
    font = label_font(13)
    margin = int(max(font.getlength(text) for text, _ in rows)) + 12
    canvas = Image.new("RGB", (margin + width, height * len(lines)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, ((text, _), line) in enumerate(zip(rows, lines)):
        draw.text((6, number * height + height // 2), text, "black", font, anchor="lm")
        canvas.paste(Image.fromarray(line.permute(1, 2, 0).numpy()), (margin, number * height))
    return pil_to_tensor(canvas)


def captioned(
    images: Tensor,
    title: str,
    rows: Sequence[str] = (),
    captions: Sequence[str] = (),
    columns: int = 8,
    real: Tensor | None = None,
) -> Tensor:
    """Arrange images in a grid with a title, and with names of rows and captions if given.

    Args:
        images: Images (N, C, H, W) in [-1, 1], or R versions of N images (R, N, C, H, W); the
            versions of an image are shown one below the other. Points (N, 2, 1, 1) of 2-D data
            are shown in one scatter plot.
        title: Text above the grid.
        rows: Names of the R versions of the images.
        captions: Texts below the images: one for each of the N columns, or one for each of the
            R * N images, in the order of `images.flatten(0, 1)`.
        columns: Maximum number of images side by side.
        real: Real points (M, 2, 1, 1), shown in grey behind generated points.

    Returns:
        uint8 image (3, H, W). Small images are enlarged by an integer factor.
    """
    if are_points(images):
        behind = None if real is None else real.reshape(-1, 2)
        legend = [] if real is None else ["red: samples, grey: real samples"]
        return stacked([("", plane(images.reshape(-1, 2), behind), legend)], title)
    versions = images if images.dim() == 5 else images[None]  # (R, N, C, H, W)
    versions = enlarged(versions, MIN_CAPTIONED if captions else MIN_SIDE)
    count, size = versions.shape[:2]
    texts = list(captions) if len(captions) == count * size else [""] * ((count - 1) * size)
    texts += captions if len(texts) < count * size else []
    names = [*rows, *[""] * (count - len(rows))]
    lines = []
    for start in range(0, size, columns):
        for row, version in enumerate(versions[:, start : start + columns]):
            own = texts[row * size : (row + 1) * size]
            below = own[start : start + columns] if captions else []
            lines.append((names[row], grid(version, len(version)), below))
    return stacked(lines, title)


def stacked(lines: list[tuple[str, Tensor, list[str]]], title: str) -> Tensor:
    """Draw lines of images below each other, and a title above them.

    Args:
        lines: Name of each line, its images as one uint8 image (3, H, W), and one caption for each
            of its images, or none.
        title: Text above the lines.
    """
    font = label_font(TEXT)
    names = [wrap(name, MAX_NAME, font) for name, _, _ in lines]
    margin = max((round(font.getlength(part)) for name in names for part in name), default=0)
    margin += 2 * PAD if margin else PAD
    wrapped = []
    for _, image, captions in lines:
        width = image.shape[2] // max(1, len(captions)) - 2
        wrapped.append([wrap(text, width, font) for text in captions])
    heights = [TEXT_LINE * max((len(text) for text in texts), default=0) for texts in wrapped]
    top = TITLE_LINE + PAD
    width = margin + max(image.shape[2] for _, image, _ in lines) + PAD
    width = max(width, round(label_font(TITLE).getlength(title)) + 2 * PAD)
    height = top + sum(image.shape[1] for _, image, _ in lines) + sum(heights) + PAD
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((PAD, PAD + TITLE_LINE // 2), title, "black", label_font(TITLE), anchor="lm")
    y = top + PAD // 2
    for name, (_, image, _), texts, space in zip(names, lines, wrapped, heights):
        middle = y + image.shape[1] // 2 - TEXT_LINE * (len(name) - 1) // 2
        for number, part in enumerate(name):
            pen.text((PAD, middle + number * TEXT_LINE), part, "black", font, anchor="lm")
        canvas.paste(Image.fromarray(image.permute(1, 2, 0).numpy()), (margin, y))
        y += image.shape[1]
        for number, text in enumerate(texts):
            x = margin + number * image.shape[2] // len(texts) + 1
            for line, words in enumerate(text):
                pen.text((x, y + line * TEXT_LINE), words, "black", font)
        y += space
    return pil_to_tensor(canvas)


def wrap(text: str, width: float, font: Any) -> list[str]:
    """Break a text into at most `MAX_LINES` lines of at most `width` pixels."""
    if not text.strip():
        return []
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"{lines[MAX_LINES - 1]} …"]
    return [cut(line, width, font) for line in lines]


def cut(line: str, width: float, font: Any) -> str:
    """Cut off the end of a line that is wider than `width` pixels."""
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


def enlarged(images: Tensor, min_side: int) -> Tensor:
    """Enlarge images (..., H, W) by an integer factor such that W is at least `min_side`."""
    scale = -(-min_side // images.shape[-1])
    return images.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


@cache
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


def plane(points: Tensor, real: Tensor | None = None) -> Tensor:
    """Plot samples of 2-D data in a uint8 image (3, PLANE, PLANE).

    Args:
        points: Points (N, 2) in [-1, 1], in red.
        real: Points (M, 2) behind them, in grey.
    """
    image = torch.full((3, PLANE, PLANE), 255, dtype=torch.uint8)
    for group, colour in ((real, GREY), (points, RED)):
        if group is None:
            continue
        place = (group.detach().float().cpu().clamp(-1, 1) + 1) / 2 * (PLANE - 1)
        column, row = place.round().long().unbind(1)
        hit = torch.zeros(1, PLANE, PLANE)
        hit[0, PLANE - 1 - row, column] = 1
        mask = F.max_pool2d(hit, DOT, 1, DOT // 2)[0] > 0
        image[:, mask] = torch.tensor(colour, dtype=torch.uint8)[:, None]
    return image


def strips(images: Tensor) -> Tensor:
    """Arrange N strips of S images (N, S, C, H, W) in one image (3, H, W), one strip per row."""
    return grid(images.flatten(0, 1), columns=images.shape[1])


def save_png(image: Tensor, path: Path) -> None:
    """Write a uint8 image (3, H, W) to a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
