"""Input images: a canvas to draw on, which also shows uploaded files and images of the data.

The browser scales uploaded files, so the server receives small PNG images only. Requests that do
not come from the page may contain anything, so sizes are checked before an image is decoded.
"""

import base64
import binascii
import io
import json
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from cli.playground.html import data_url, to_uint8
from common.errors import UserError
from datamodules.images.reading import ImageReader

SIDE = 256  # width of the canvas in pixels
MAX_SIDE = 1024  # of an image in a request, in pixels
MAX_CHARACTERS = 2_000_000  # of an image in a request
PNG = "data:image/png;base64,"
FOLDER = Path(__file__).parent

TEMPLATE = """
<p class="title">{title}</p>
<div class="tools">
  <button type="button" data-tool="draw">Draw</button>
  <button type="button" data-tool="erase">Erase</button>
  {mark}
  <input type="color" value="#000000" aria-label="Colour">
  <input type="range" min="2" max="24" value="6" aria-label="Width of the pen">
  <button type="button" data-clear>Clear</button>
  <label>Open a file<input type="file" accept="image/*" hidden></label>
</div>
<div class="layers">
  <canvas width="{side}" height="{side}"></canvas>
  <canvas width="{side}" height="{side}" aria-label="{title}"></canvas>
</div>
"""
MARK = '<button type="button" data-tool="mark">Mark a region</button>'


def canvas(title: str, with_mask: bool = False) -> gr.HTML:
    """Create a square canvas.

    Args:
        title: Text above the canvas.
        with_mask: Whether the user can mark a region.
    """
    template = TEMPLATE.format(title=title, side=SIDE, mark=MARK if with_mask else "")
    script = (FOLDER / "canvas.js").read_text(encoding="utf-8")
    return gr.HTML(
        "", html_template=template, js_on_load=script, elem_classes="drawing", container=True
    )


def canvas_value(image: Tensor) -> str:
    """Return the value of a canvas that shows an image (C, H, W) in [-1, 1]."""
    return json.dumps({"image": data_url(to_uint8(image)), "mask": ""})


def read_canvas(value: Any, shape: list[int]) -> tuple[Tensor | None, Tensor | None]:
    """Return the image of a canvas and its mask, resized to the size of a system's images.

    Args:
        value: Value of the canvas.
        shape: Shape (C, H, W) of the system's images.

    Returns:
        Image (C, H, W) in [-1, 1], or None for an empty canvas. Mask (1, H, W) with 1 for marked
        pixels, or None if no pixel is marked.

    Raises:
        UserError: If the value is not that of a canvas, or an image in it is too large.
    """
    if not value:
        return None, None
    if not isinstance(value, str) or len(value) > 2 * MAX_CHARACTERS:
        raise UserError(
            f"the image has more than {MAX_CHARACTERS:,} characters; give a smaller one"
        )
    try:
        content = json.loads(value)
        image, mask = content["image"], content["mask"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("the value of the canvas has no image and mask; draw an image") from error
    marked = None
    if mask:  # transparent where nothing is marked, so white after reading
        marked = (read_png(mask, [1, *shape[1:]]) < 0.95).float()
    return read_png(image, shape), marked


def read_png(url: Any, shape: list[int]) -> Tensor:
    """Decode an image of a request, and resize its centre to `shape` (C, H, W).

    Raises:
        UserError: If it is not a PNG image as a data URL, or is too large.
    """
    if not isinstance(url, str) or not url.startswith(PNG) or len(url) > MAX_CHARACTERS:
        raise UserError("the image is not a PNG image of the canvas; draw or open it there")
    try:
        content = base64.b64decode(url.removeprefix(PNG), validate=True)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
            size = opened.size
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError("the image cannot be read as PNG; draw or open it again") from error
    if max(size) > MAX_SIDE:
        raise UserError(
            f"the image has {size[0]}x{size[1]} pixels; at most {MAX_SIDE}x{MAX_SIDE} are allowed"
        )
    reader = ImageReader(shape[-1], shape[0])
    return reader.read(Path("the image"), content)[0].float() / 127.5 - 1
