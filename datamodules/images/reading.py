"""Reading of image files: any size, aspect ratio, pixel format and orientation to uint8 tensors."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from common.errors import UserError
from datamodules.images.finding import image_formats

# Pillow's limit is twice this number of pixels; it warns of larger images, but reads them.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Resize = Literal["crop", "pad", "stretch"]
ENLARGED = "enlarged"
ANIMATED = "first frame of an animation"
# Tags of TIFF.
BITS, PHOTOMETRIC, LIMITS = 258, 262, ((340, 341), (280, 281))


class BadImage(UserError):
    """Image file that cannot be used."""


def open_image(
    path: Path, channels: int, background: str = "white", content: bytes | None = None
) -> tuple[Image.Image, list[str]]:
    """Read an image file in mode L or RGB, without resizing.

    - The orientation in the EXIF data is applied. Of an animation, the first frame is read.
    - Transparent pixels are composited on `background`.
    - 16-bit grey levels from 0 to 65535 become 0 to 255, as do other ranges that the format states.
      Floats must be in [0, 1].
    - CMYK is converted without a colour profile: red is 1 - min(1, cyan + black).

    Args:
        path: Image file.
        channels: Number of channels, 1 or 3.
        background: Name or #rrggbb of the colour behind transparent pixels.
        content: Bytes of the file if it is in an archive. `path` then names it in messages.

    Returns:
        The image, and remarks about it for the report.

    Raises:
        BadImage: If the file is broken, or has values whose range is unknown.
    """
    try:
        source = path if content is None else io.BytesIO(content)
        with Image.open(source, formats=image_formats()) as image:
            animated = image.format != "MPO" and getattr(image, "is_animated", False)
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
            if image.mode.startswith("I") or image.mode == "F":
                opaque = eight_bits(image, path, background)
            elif image.has_transparency_data:
                rgba = image.convert("RGBA")
                colour = ImageColor.getrgb(background)[:3]
                opaque = Image.alpha_composite(Image.new("RGBA", rgba.size, (*colour, 255)), rgba)
            else:
                opaque = image
            return opaque.convert("L" if channels == 1 else "RGB"), [ANIMATED] * animated
    except BadImage:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any exception for broken files
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its content has no known format" if unknown else error
        raise BadImage(
            f"{path}: cannot be read as an image ({reason}); repair or remove it"
        ) from error


def eight_bits(image: Image.Image, path: Path, background: str) -> Image.Image:
    """Convert grey values of more than 8 bits to mode L, linearly from the stated range.

    Raises:
        BadImage: If no range is stated, or a value is outside of it.
    """
    values = np.asarray(image).astype(np.float64)
    limits = value_range(image)
    if limits is None:
        raise BadImage(
            f"{path}: has 32-bit integers, whose range the file does not state; convert it to 16 "
            "or 8 bits"
        )
    low, high = limits
    if not (values.min() >= low and values.max() <= high):  # also refuses NaN
        raise BadImage(
            f"{path}: has values from {values.min():g} to {values.max():g}, outside of the range "
            f"from {low:g} to {high:g}; convert it to 8 bits"
        )
    grey = (values - low) / (high - low) * 255
    if tiff_tag(image, PHOTOMETRIC) == 0:  # white is zero
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = ImageColor.getcolor(background, "L")
    return Image.fromarray(np.rint(grey).astype(np.uint8))


def tiff_tag(image: Image.Image, tag: int) -> float | None:
    """Return the value, or the first of the values, of a TIFF tag; None if there is none."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value


def value_range(image: Image.Image) -> tuple[float, float] | None:
    """Return the values of black and of white of an image of mode I;16, I or F; None if unknown."""
    if image.mode.startswith("I;16"):
        bits = tiff_tag(image, BITS) or 16
        return 0, 2**bits - 1
    for lowest, highest in LIMITS:
        low, high = tiff_tag(image, lowest), tiff_tag(image, highest)
        if low is not None and high is not None and low < high:
            return low, high
    if image.mode == "F":
        return 0, 1
    return (0, 65535) if image.format in ("PPM", "PNG") else None  # Pillow scales PPM to 16 bits


def to_tensor(image: Image.Image) -> Tensor:
    """Convert a Pillow image to a tensor, uint8 (C, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def strip(image: Image.Image, size: int) -> Image.Image:
    """Resize an image so that its shorter side has `size` pixels."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def padded(image: Image.Image, size: int, background: str) -> Image.Image:
    """Resize an image so that its longer side has `size` pixels, and centre it on a square."""
    scale = size / max(image.size)
    width, height = (min(size, max(1, round(side * scale))) for side in image.size)
    square = Image.new(image.mode, (size, size), ImageColor.getcolor(background, image.mode))
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(small, ((size - width) // 2, (size - height) // 2))
    return square


@dataclass(frozen=True)
class ImageReader:
    """Reads image files as uint8 tensors of one size.

    Args:
        size: Height and width of the result in pixels.
        channels: Number of channels, 1 or 3.
        resize: Rule for other sizes and aspect ratios. `crop` resizes the shorter side to `size`
            and crops the longer one, `pad` resizes the longer side and fills the rest with
            `background`, `stretch` ignores the aspect ratio.
        random: Crop at a random position instead of the centre.
        background: Name or #rrggbb of the colour behind transparent pixels and around padded
            images.
        half: Half of a side-by-side image, 0 for left or 1 for right. None uses the whole image.
        min_size: Size below which an image counts as enlarged. Defaults to `size`.
    """

    size: int
    channels: int
    resize: Resize = "crop"
    random: bool = False
    background: str = "white"
    half: int | None = None
    min_size: int | None = None

    def read(self, path: Path, content: bytes | None = None) -> tuple[Tensor, list[str]]:
        """Read an image file, and return remarks about it for the report.

        Args:
            path: Image file.
            content: Bytes of the file if it is in an archive. `path` then names it in messages.

        Returns:
            Image, uint8 (C, size, size), and remarks. If `random`, the image is not cropped yet:
            its shorter side has `size` pixels.

        Raises:
            BadImage: If the file is broken, or is side by side and has an odd width.
        """
        image, remarks = open_image(path, self.channels, self.background, content)
        if self.half is not None:
            middle = image.width // 2
            if image.width < 2 or image.width % 2:
                raise BadImage(
                    f"{path}: is {image.width} pixels wide, but two images side by side need "
                    "an even width; repair or remove it"
                )
            image = image.crop((self.half * middle, 0, (self.half + 1) * middle, image.height))
        side = max(image.size) if self.resize == "pad" else min(image.size)
        if side < (self.min_size or self.size):
            remarks.append(ENLARGED)
        return to_tensor(self.fit(image)), remarks

    def fit(self, image: Image.Image) -> Image.Image:
        """Bring an image to `size` by the rule `resize`."""
        square = (self.size, self.size)
        if self.resize == "pad":
            return padded(image, self.size, self.background)
        if self.resize == "stretch":
            return image.resize(square, Image.Resampling.BICUBIC)
        if self.random:
            return strip(image, self.size)
        return ImageOps.fit(image, square, Image.Resampling.BICUBIC)
