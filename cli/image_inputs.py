"""Read the user's image files: inputs of `sample`, masks, and folders to translate."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from datamodules.images.finding import check_images, find_images
from datamodules.images.reading import BadImage, ImageReader, open_image, to_tensor
from datamodules.usage_report import report_usage

MAX_PIXELS = 2**20  # maximum number of pixels in a batch of images to translate


def image_input(path: Path, shape: list[int], option: str) -> Tensor:
    """Read an image file, and resize its centre square to the size of a system's images.

    Args:
        path: Image file of any size.
        shape: Shape (C, H, W) of the system's images.
        option: Option that names the file, for the error message.

    Returns:
        Image (C, H, W) in [-1, 1].

    Raises:
        UserError: If the file does not exist or cannot be read.
    """
    if not path.is_file():
        raise UserError(f"{option} {path}: there is no such file; give an image")
    return ImageReader(shape[-1], shape[0]).read(path)[0].float() / 127.5 - 1


def mask_input(path: Path, shape: list[int], option: str) -> Tensor:
    """Read an image file as a mask (1, 1, H, W): 1 for white pixels, 0 for black pixels."""
    return (image_input(path, [1, *shape[1:]], option) > 0).float()[None]


def image_batches(
    source: Path, channels: int, failed: list[str], out: Path | None = None
) -> Iterator[tuple[list[Path], Tensor]]:
    """Read images in batches; all images of a batch have the same height and width.

    A batch has at most `MAX_PIXELS` pixels, unless it has only one image.

    Args:
        source: Image file, or folder whose subfolders are searched too.
        channels: Number of channels, 1 or 3.
        failed: List to which an error message is appended for each unreadable file.
        out: Folder of translated images, which are left out if it is below `source`.

    Yields:
        Paths of the files, and images (N, C, H, W) in uint8.

    Raises:
        UserError: If a folder has no images.
    """
    found = [source]
    if source.is_dir():
        search = find_images(source)
        if out is not None:
            results = out.absolute()
            done = [path for path in search.images if path.absolute().is_relative_to(results)]
            search.leave_out("in --out", done)
        check_images(search, f"--input {source}")
        search.report(f"--input {source}")
        found = search.images
    remarks, count = Counter[str](), 0
    paths: list[Path] = []
    images: list[Tensor] = []
    for path in found:
        try:
            opened, added = open_image(path, channels)
        except BadImage as error:
            failed.append(str(error))
            continue
        image = to_tensor(opened)
        remarks.update(added)
        count += 1
        full = images and image[0].numel() * (len(images) + 1) > MAX_PIXELS
        if images and (full or image.shape != images[0].shape):
            yield paths, torch.stack(images)
            paths, images = [], []
        paths.append(path)
        images.append(image)
    if images:
        yield paths, torch.stack(images)
    if remarks:
        report_usage(f"--input {source}", count, count, {}, "images", remarks)
