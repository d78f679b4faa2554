"""Reading and checking of image files, and a dataset that decodes image files batch by batch."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from common.errors import UserError
from datamodules.samplers import Request

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
# Exceptions that Pillow raises for broken files.
BROKEN = (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError)
# Larger data sets are decoded batch by batch, which is faster with several `num_workers`.
IN_MEMORY_BYTES = 2 * 2**30


class BadImage(UserError):
    """Image file that cannot be used for training."""


def read_image(path: Path, channels: int) -> Image.Image:
    """Read an image file in mode L or RGB, without resizing; transparent pixels become white.

    Raises:
        BadImage: If the file is broken, animated, CMYK, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise BadImage(f"{path}: has {frames} frames; extract one frame")
            if image.mode.startswith("I") or image.mode == "F":
                raise BadImage(f"{path}: has more than 8 bits per channel; convert it to 8 bits")
            if image.mode == "CMYK":
                raise BadImage(
                    f"{path}: is CMYK, whose colours depend on the program; convert it to RGB"
                )
            ImageOps.exif_transpose(image, in_place=True)  # apply the orientation in the EXIF data
            rgba = (
                image.convert("RGBA")
                if "transparency" in image.info or image.mode in ("LA", "RGBA", "PA")
                else None
            )
            if rgba is not None:
                image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)  # type: ignore[assignment]
            return image.convert("L" if channels == 1 else "RGB")
    except BadImage:
        raise
    except BROKEN as error:
        raise BadImage(
            f"{path}: cannot be read as an image ({error}); repair or remove it"
        ) from error


def to_tensor(image: Image.Image) -> Tensor:
    """Convert a Pillow image to a tensor, uint8 (C, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def square(image: Image.Image, size: int, path: Path, min_size: int | None = None) -> Tensor:
    """Crop an image to its centre square and resize it; return uint8 (C, size, size).

    Args:
        image: Image of any size.
        size: Height and width of the result in pixels.
        path: File of the image, for the error message.
        min_size: Minimum height and width of the image in pixels. Defaults to `size`.

    Raises:
        BadImage: If the image is smaller than `min_size`.
    """
    min_size = min_size or size
    if min(image.size) < min_size:
        raise BadImage(
            f"{path}: is {image.width}x{image.height}, smaller than data.size {min_size}; remove "
            "it or lower data.size"
        )
    return to_tensor(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def image_files(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def decode(path: Path, size: int, channels: int) -> Tensor:
    """Read an image file, crop its centre square and resize it to uint8 (channels, size, size).

    Raises:
        BadImage: If the file is broken, too small or of an unsupported kind.
    """
    return square(read_image(path, channels), size, path)


class FileImages:
    """Dataset of image files that are decoded batch by batch.

    Args:
        paths: Image files.
        labels: Class of each image, int64 (N,).
        size: Height and width of the decoded images in pixels.
        channels: Number of channels, 1 or 3.
        attributes: Dictionary from the name of an attribute to a bool mask (N,), which is True for
            the images with this attribute.
    """

    def __init__(
        self,
        paths: list[Path],
        labels: Tensor,
        size: int,
        channels: int,
        attributes: dict[str, Tensor],
    ) -> None:
        self.paths, self.labels, self.size, self.channels, self.attributes = (
            paths,
            labels,
            size,
            channels,
            attributes,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, request: Request) -> dict[str, Any]:
        index = request.index
        image = torch.stack([self.read(self.paths[i]) for i in index.tolist()])
        return {"image": image, "label": self.labels[index], "index": index, "seed": request.seed}

    def read(self, path: Path) -> Tensor:
        """Read one file as uint8 (C, size, size)."""
        return decode(path, self.size, self.channels)

    def fingerprint(self) -> str:
        """Return a hash of the labels and of the names, sizes and dates of the files."""
        digest = hashlib.blake2b(
            f"{self.size} {self.channels} {self.labels.tolist()}".encode(), digest_size=16
        )
        for path in self.paths:
            entry = path.stat()
            digest.update(f"{path} {entry.st_size} {entry.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def subset(self, index: Tensor) -> "FileImages":
        attributes = {name: mask[index] for name, mask in self.attributes.items()}
        return FileImages(
            [self.paths[i] for i in index.tolist()],
            self.labels[index],
            self.size,
            self.channels,
            attributes,
        )

    def having(self, attribute: str) -> Tensor:
        """Return a bool mask (N,), True for the images that have the attribute."""
        if attribute not in self.attributes:
            raise UserError(
                f"there is no attribute {attribute!r} (available: "
                f"{', '.join(self.attributes) or 'none'})"
            )
        return self.attributes[attribute]


def fits_into_memory(data: FileImages) -> bool:
    """Return whether the images take at most `IN_MEMORY_BYTES` as uint8."""
    return len(data) * data.channels * data.size**2 <= IN_MEMORY_BYTES


def read_all(
    data: FileImages, split: str, skip_bad: bool, keep: bool = True
) -> tuple[Tensor, Tensor]:
    """Read all image files of a data set.

    Args:
        data: Data set of image files.
        split: Name of the data set, for the message about skipped files.
        skip_bad: Whether to skip unusable files and print their number. If False, the first
            unusable file raises `BadImage`.
        keep: Whether to keep the images. If False, the files are only checked, and the returned
            images have height and width 0.

    Returns:
        Images of the K usable files, uint8 (K, C, size, size), and indices (K,) of these files.

    Raises:
        BadImage: If a file is unusable and `skip_bad` is False.
    """
    kept, images = [], []
    for number, path in enumerate(data.paths):
        try:
            image = data.read(path)
        except BadImage:
            if not skip_bad:
                raise
            continue
        kept.append(number)
        images.append(image if keep else image.new_empty(data.channels, 0, 0))
    if len(kept) < len(data):
        print(
            f"{split}: skipped {len(data) - len(kept)} of {len(data)} files that could not be used",
            file=sys.stderr,
        )
    stacked = (
        torch.stack(images)
        if images
        else torch.empty(0, data.channels, data.size, data.size, dtype=torch.uint8)
    )
    return stacked, torch.tensor(kept, dtype=torch.int64)
