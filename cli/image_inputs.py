"""Image files that a user gives: an input of `sample`, its mask, or a folder to translate."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from datamodules.images.files import (
    SUFFIXES,
    BadImage,
    image_files,
    read_image,
    square,
    to_tensor,
)

MAX_PIXELS = 2**20  # of the images that are translated at a time


def image_input(path: Path, shape: list[int], option: str) -> Tensor:
    """An image file in a system's size, (C, H, W) in [-1, 1].

    Args:
        path: Image file; cropped to a square and resized.
        shape: Shape (C, H, W) of the system's images.
        option: Option that names the file, for the error message.

    Raises:
        UserError: if there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise UserError(f"{option} {path}: there is no such picture")
    return square(read_image(path, shape[0]), shape[-1], path, min_size=1).float() / 127.5 - 1


def mask_input(path: Path, shape: list[int], option: str) -> Tensor:
    """A black-and-white image file as a mask (1, 1, H, W): 1 where it is white, 0 where black."""
    return (image_input(path, [1, *shape[1:]], option) > 0).float()[None]


def image_batches(
    source: Path, channels: int, failed: list[str]
) -> Iterator[tuple[list[Path], Tensor]]:
    """Images of one size, as many as `MAX_PIXELS` allows but at least one: files and uint8
    (N, C, H, W).

    Args:
        source: Image file, or folder with images anywhere in it.
        channels: 1 or 3.
        failed: Gets a line for each file that cannot be read.

    Raises:
        UserError: if there is nothing to read.
    """
    found = image_files(source) if source.is_dir() else [source]
    if not found:
        raise UserError(
            f"--input {source}: there are no pictures in it ({', '.join(sorted(SUFFIXES))})"
        )
    paths: list[Path] = []
    images: list[Tensor] = []
    for path in found:
        try:
            image = to_tensor(read_image(path, channels))
        except BadImage as error:
            failed.append(str(error))
            continue
        full = images and image[0].numel() * (len(images) + 1) > MAX_PIXELS
        if images and (full or image.shape != images[0].shape):
            yield paths, torch.stack(images)
            paths, images = [], []
        paths.append(path)
        images.append(image)
    if images:
        yield paths, torch.stack(images)
