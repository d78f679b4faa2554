"""Datasets of image files: decoded batch by batch, or read into memory."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from datamodules.images.base import InMemoryImages, contains
from datamodules.images.reading import BadImage, ImageReader
from datamodules.images.strips import ImageStrips, random_crops
from datamodules.samplers import Request
from datamodules.splits import take_subset
from datamodules.usage_report import report_usage

# Larger data sets are decoded batch by batch, which is faster with several `num_workers`.
IN_MEMORY_BYTES = 2 * 2**30
UNUSABLE = "unusable"
NOT_CHOSEN = "beyond max_samples"


class FileImages:
    """Dataset of image files that are decoded batch by batch.

    Args:
        paths: Image files.
        labels: Class of each image, int64 (N,).
        reader: Reader of the files.
        attributes: Dictionary from the name of an attribute to a bool mask (N,), which is True for
            the images with this attribute.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor,
        reader: ImageReader,
        attributes: dict[str, Tensor] | None = None,
    ) -> None:
        self.paths, self.labels, self.reader = list(paths), labels, reader
        self.attributes = attributes or {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, request: Request) -> dict[str, Any]:
        index = request.index
        images = [self.reader.read(self.paths[i])[0] for i in index.tolist()]
        return {
            "image": random_crops(images, self.reader.size, request.seed)
            if self.reader.random
            else torch.stack(images),
            "label": self.labels[index],
            "index": index,
            "seed": request.seed,
        }

    def fingerprint(self) -> str:
        """Return a hash of the labels and of the names, sizes and dates of the files."""
        digest = hashlib.blake2b(f"{self.reader} {self.labels.tolist()}".encode(), digest_size=16)
        for path in self.paths:
            entry = path.stat()
            digest.update(os.fsencode(f"{path} {entry.st_size} {entry.st_mtime_ns}\n"))
        return digest.hexdigest()

    def subset(self, index: Tensor) -> "FileImages":
        attributes = {name: mask[index] for name, mask in self.attributes.items()}
        paths = [self.paths[i] for i in index.tolist()]
        return FileImages(paths, self.labels[index], self.reader, attributes)

    def having(self, attribute: str) -> Tensor:
        """Return a bool mask (N,), True where the name of an attribute contains these words.

        Raises:
            UserError: If no attribute has such a name.
        """
        found = [mask for name, mask in self.attributes.items() if contains(name, attribute)]
        if not found:
            raise UserError(
                f"--attribute {attribute!r}: there is no such attribute; give one of "
                f"{', '.join(self.attributes) or 'none'}"
            )
        return torch.stack(found).any(0)


Images = InMemoryImages | ImageStrips | FileImages


def fits_into_memory(data: FileImages) -> bool:
    """Return whether square images take at most `IN_MEMORY_BYTES` as uint8."""
    return len(data) * data.reader.channels * data.reader.size**2 <= IN_MEMORY_BYTES


@dataclass
class ReadFiles:
    """Result of reading all files of a dataset.

    Attributes:
        data: Dataset of the usable images, in memory or as files.
        kept: Indices of the usable files, int64 (K,).
        unusable: Files that cannot be used.
        remarks: Numbers of images that were changed unusually, such as "enlarged".
    """

    data: Images
    kept: Tensor
    unusable: list[Path] = field(default_factory=list)
    remarks: dict[str, int] = field(default_factory=dict)

    def report(self, name: str, left_out: dict[str, list[Path]]) -> None:
        """Print the numbers of images found and used.

        Args:
            name: Name of the split.
            left_out: Images that are left out because they are not needed, keyed by the reason.
        """
        left_out = {**left_out, UNUSABLE: self.unusable}
        found = len(self.data) + sum(map(len, left_out.values()))
        report_usage(name, found, len(self.data), left_out, "images", self.remarks)


def read_files(data: FileImages, skip_bad: bool, in_memory: bool | None = None) -> ReadFiles:
    """Read image files into memory, or only check them.

    Args:
        data: Dataset of image files.
        skip_bad: Leave out unusable files. If False, the first unusable file raises `BadImage`.
        in_memory: Keep the images in memory; by default, if they fit. If False and not `skip_bad`,
            no file is read.

    Raises:
        BadImage: If a file is unusable and `skip_bad` is False.
    """
    in_memory = fits_into_memory(data) if in_memory is None else in_memory
    if not in_memory and not skip_bad:
        return ReadFiles(data, torch.arange(len(data)), [], {"read during training": len(data)})
    kept, images, unusable = [], [], []
    remarks: dict[str, int] = {}
    for number, path in enumerate(data.paths):
        try:
            image, added = data.reader.read(path)
        except BadImage:
            if not skip_bad:
                raise
            unusable.append(path)
            continue
        kept.append(number)
        for remark in added:
            remarks[remark] = remarks.get(remark, 0) + 1
        if in_memory:
            images.append(image)
    rows = torch.tensor(kept, dtype=torch.int64)
    if not in_memory:
        return ReadFiles(data.subset(rows), rows, unusable, remarks)
    return ReadFiles(memory_images(images, data.labels[rows], data.reader), rows, unusable, remarks)


def memory_images(
    images: list[Tensor], labels: Tensor, reader: ImageReader
) -> InMemoryImages | ImageStrips:
    """Return images (C, H, W) as a dataset in memory."""
    if reader.random:
        return ImageStrips([image.contiguous() for image in images], labels, reader.size)
    shape = (0, reader.channels, reader.size, reader.size)
    return InMemoryImages(
        torch.stack(images) if images else torch.empty(shape, dtype=torch.uint8), labels
    )


def choose_samples(
    files: FileImages, count: int | None
) -> tuple[FileImages, dict[str, list[Path]]]:
    """Return a fixed random subset of files, and the files that are left out."""
    chosen = take_subset(files, count)
    rest = set(files.paths) - set(chosen.paths)
    return chosen, {NOT_CHOSEN: sorted(rest)} if rest else {}
