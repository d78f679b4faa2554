"""Image files: decoding, checks, and data sets that decode them batch by batch."""

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
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    Image.DecompressionBombError,
)  # what Pillow raises for broken files
IN_MEMORY_BYTES = 2 * 2**30  # above this, images are decoded batch by batch, best in workers


class BadImage(UserError):
    """A file that is not an image of the kind that can be trained on."""


def read_image(path: Path, channels: int) -> Image.Image:
    """An image file in its own size, on white where it is transparent: mode L or RGB.

    Raises:
        BadImage: naming the file, what is wrong with it, and the mend.
    """
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise BadImage(f"{path}: has {frames} frames; extract one")
            if image.mode.startswith("I") or image.mode == "F":
                raise BadImage(f"{path}: has more than 8 bits a channel; convert it to 8 bits")
            if image.mode == "CMYK":
                raise BadImage(
                    f"{path}: is CMYK, which looks different in every program; convert it to RGB"
                )
            ImageOps.exif_transpose(image, in_place=True)  # the camera was held upright or not
            rgba = (
                image.convert("RGBA")
                if "transparency" in image.info or image.mode in ("LA", "RGBA", "PA")
                else None
            )
            if rgba is not None:  # what is transparent is white
                image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)  # type: ignore[assignment]
            return image.convert("L" if channels == 1 else "RGB")
    except BadImage:
        raise
    except BROKEN as error:
        raise BadImage(
            f"{path}: cannot be read as a picture ({error}); repair or remove it"
        ) from error


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (C, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def square(image: Image.Image, size: int, path: Path, min_size: int | None = None) -> Tensor:
    """Centre square of an image, scaled to uint8 (C, size, size).

    Args:
        image: the image.
        size: height and width in pixels.
        path: its file, for the message.
        min_size: least height and width that it must have; `size` unless given.

    Raises:
        BadImage: if it is smaller.
    """
    min_size = min_size or size
    if min(image.size) < min_size:
        raise BadImage(
            f"{path}: is {image.width}x{image.height}, smaller than data.size {min_size}; remove "
            "it or lower data.size"
        )
    return to_tensor(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def image_files(folder: Path) -> list[Path]:
    """All images anywhere in a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def decode(path: Path, size: int, channels: int) -> Tensor:
    """Centre square of an image file, scaled to (channels, size, size) uint8.

    Raises:
        BadImage: as `read_image` and `square`.
    """
    return square(read_image(path, channels), size, path)


class FileImages:
    """Images that are decoded when a batch asks for them.

    Args:
        paths: their files.
        labels: int64 (N,).
        size: height and width in pixels.
        channels: 1 or 3.
        attributes: (N,) bool by name.
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
        """One of the images."""
        return decode(path, self.size, self.channels)

    def fingerprint(self) -> str:
        """Hash of names, sizes and dates of all files, with the labels; none of them is read."""
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
        """(N,) bool: images that have the attribute."""
        if attribute not in self.attributes:
            raise UserError(
                f"there is no attribute {attribute!r}; there are: "
                f"{', '.join(self.attributes) or 'none'}"
            )
        return self.attributes[attribute]


def fits_into_memory(data: FileImages) -> bool:
    """Whether images are few and small enough to be kept as uint8."""
    return len(data) * data.channels * data.size**2 <= IN_MEMORY_BYTES


def read_all(
    data: FileImages, split: str, skip_bad: bool, keep: bool = True
) -> tuple[Tensor, Tensor]:
    """uint8 images (K, C, size, size) and the numbers (K,) of those that could be used.

    Args:
        data: images in files.
        split: their name, for the count of those that are skipped.
        skip_bad: leave out what cannot be used, and say how many, instead of stopping at the first.
        keep: keep the images; otherwise they are only tried, and come back with no height and
            width.

    Raises:
        BadImage: unless `skip_bad`.
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
