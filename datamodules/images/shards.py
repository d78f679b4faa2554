"""Data module of images in shards: tar files of WebDataset's format, read at random positions.

A shard holds the members `KEY.jpg` (or another image format) and `KEY.cls`, the number of the class
as text. `shard.py` writes such shards from a folder of images, and img2dataset those of an image
list. A run reads them without the library WebDataset. The library reads a shard from its start to
its end and shuffles in a buffer, whose content an exact resume would have to restore. Here, an
index lists the position of each image, and the order of an epoch is that of all other data: a
function of seed and epoch, divided between processes.
"""

import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from common.errors import UserError
from common.progress import track
from datamodules.cache import make_folder
from datamodules.images.base import ImageDataModule, contains
from datamodules.images.file_options import ImageFileOptions
from datamodules.images.finding import NO_IMAGE, image_suffixes
from datamodules.images.reading import BadImage, ImageReader
from datamodules.images.strips import random_crops
from datamodules.samplers import Request
from datamodules.splits import SPLITS, split_named, split_of, take_subset
from datamodules.usage_report import report_usage

CLASSES = "classes.txt"  # names of the classes, one per line
NO_LABEL = -1
# Position of an image: number of its shard, offset and size in bytes, and its class.
RECORD = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("label", "<i8")])


def members(shard: Path) -> Iterator[tuple[str, str, int, int]]:
    """Yield the key, the suffix, the offset and the size in bytes of each file in a tar file.

    As in WebDataset, the key is the path up to the first dot of the file name.

    Raises:
        UserError: If the file is no tar file, compressed or truncated, or if anything but zeros
            follows the last file. `tarfile` ends there without an error.
    """
    end = 0
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
                end = tar.offset
                if member.isfile():
                    folder, _, name = member.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    yield f"{folder}/{stem}", f".{suffix.lower()}", member.offset_data, member.size
        with open(shard, "rb") as file:
            file.seek(end)
            rest = file.read(2 * tarfile.RECORDSIZE + 1)
    except tarfile.TarError as error:
        raise UserError(unreadable(shard)) from error
    if len(rest) < 2 * tarfile.BLOCKSIZE or len(rest) > 2 * tarfile.RECORDSIZE or any(rest):
        raise UserError(unreadable(shard))


def unreadable(shard: Path) -> str:
    """Return the error message for a shard that is not one whole, uncompressed tar file."""
    return (
        f"{shard}: not a readable shard (compressed, truncated, damaged, joined, or no tar file); "
        "copy or write it again as one uncompressed .tar"
    )


def read_records(shard: Path, number: int) -> tuple[np.ndarray, list[str], list[Path]]:
    """Return the positions (RECORD) and the keys of the images in a shard, and its other files.

    Texts, labels and metadata (`.txt`, `.cls`, `.json`) are no other files.

    Raises:
        UserError: If a key has two images, if a class is not a number, or if the file is no tar
            file, is compressed or truncated.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    others = []
    with open(shard, "rb") as file:
        for key, suffix, offset, size in members(shard):
            if suffix in image_suffixes():
                if key in images:
                    raise UserError(f"{shard}: {key} has two images; give shards with one image")
                images[key] = offset, size
            elif suffix == ".cls":
                file.seek(offset)
                text = file.read(size)
                try:
                    labels[key] = int(text)
                except ValueError as error:
                    raise UserError(
                        f"{shard}: {key}.cls is {text[:40]!r}, but must be the number of a class"
                    ) from error
            elif suffix not in (".txt", ".json"):
                others.append(Path(f"{key}{suffix}"))
    if labels and (unlabelled := images.keys() - labels):
        raise UserError(f"{shard}: {min(unlabelled)} has no .cls, but other images have; add it")
    rows = [(number, *place, labels.get(key, NO_LABEL)) for key, place in images.items()]
    return np.array(rows, RECORD), list(images), others


def split_of_shard(shard: Path, root: Path) -> str | None:
    """Return the split in the names of the folders or of the file of a shard; None without one."""
    *folders, name = shard.relative_to(root).parts
    found = (split_named(word) for word in (*folders, *re.split(r"[\W\d_]+", name)))
    return next(filter(None, found), None)


def shuffled_by_shard(sizes: Tensor, together: int, generator: torch.Generator) -> Tensor:
    """Return a random order of samples in which shards are read in groups.

    Args:
        sizes: Number of samples in each shard, int64 (S,).
        together: Number of shards in a group. Shards are assigned to groups at random.
        generator: Generator of the order.

    Returns:
        Sample indices, int64 (N,). The samples of a group are consecutive and shuffled.
    """
    starts = sizes.cumsum(0) - sizes
    groups = []
    for group in torch.randperm(len(sizes), generator=generator).split(together):
        samples = torch.cat([torch.arange(int(sizes[i])) + starts[i] for i in group.tolist()])
        groups.append(samples[torch.randperm(len(samples), generator=generator)])
    return torch.cat(groups)


class ShardImages:
    """Dataset of images in shards, which are read and decoded batch by batch.

    Args:
        shards: All shards.
        records: Positions of the images (RECORD), memory-mapped (N,), sorted by shard.
        reader: Reader of the images.
        class_names: Names of the classes, keyed by label.
    """

    def __init__(
        self,
        shards: list[Path],
        records: np.ndarray,
        reader: ImageReader,
        class_names: Mapping[int, str],
    ) -> None:
        self.shards, self.records, self.reader = shards, records, reader
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, request: Request) -> dict[str, Any]:
        records = self.records[request.index.numpy()]
        images: list[Any] = [None] * len(records)
        order = np.argsort(records, order=("shard", "offset")).tolist()
        for shard, rows in groupby(order, key=records["shard"].tolist().__getitem__):
            path = self.shards[shard]
            with open(path, "rb", buffering=0) as file:
                for row in rows:
                    _, offset, size, _ = records[row].tolist()
                    file.seek(offset)
                    try:
                        images[row] = self.reader.read(path, file.read(size))[0]
                    except BadImage as error:
                        file.seek(offset - tarfile.BLOCKSIZE)
                        header = file.read(tarfile.BLOCKSIZE)
                        name = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
                        raise BadImage(
                            f"{path}: its image {name} cannot be read; write the shard again "
                            "without this image"
                        ) from error
        return {
            "image": random_crops(images, self.reader.size, request.seed)
            if self.reader.random
            else torch.stack(images),
            "label": torch.from_numpy(records["label"].clip(0)),
            "index": request.index,
            "seed": request.seed,
        }

    def sizes(self) -> Tensor:
        """Return the number of images in each shard that has images, int64 (S,)."""
        counts = np.bincount(self.records["shard"])
        return torch.from_numpy(counts[counts > 0])

    def fingerprint(self) -> str:
        """Return a hash of the positions, and of the names, sizes and dates of the shards."""
        digest = hashlib.blake2b(f"{self.reader} {stamps(self.shards)}".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.records).tobytes())
        return digest.hexdigest()

    def subset(self, index: Tensor) -> "ShardImages":
        return ShardImages(self.shards, self.records[index.numpy()], self.reader, self.class_names)

    def having(self, attribute: str) -> Tensor:
        """Return a bool mask (N,), True where the name of the class contains these words.

        Raises:
            UserError: If no class has such a name.
        """
        labels = [label for label, name in self.class_names.items() if contains(name, attribute)]
        if not labels:
            raise UserError(
                f"--attribute {attribute!r}: there is no such class; give one of "
                f"{', '.join(self.class_names.values()) or 'none'}"
            )
        return torch.from_numpy(np.isin(self.records["label"], labels))


def stamps(shards: list[Path]) -> list[tuple[str, int, int]]:
    """Return the name, the size and the date of each shard."""
    found = [(str(path), path.stat()) for path in shards]
    return [(name, entry.st_size, entry.st_mtime_ns) for name, entry in found]


class ImageShards(ImageFileOptions, ImageDataModule):
    """Images in shards, for data sets that are too large for one file per image.

    Shards are tar files of WebDataset's format. `python shard.py FOLDER OUT` writes them. Splits
    follow the names of shards or of sub-folders, such as `train-000000.tar`; without such names, a
    hash of the keys assigns 80 % of the images to training, 10 % to validation and 10 % to test.

    Args:
        Corpus:
        folder: Folder of the shards. If it has a file `classes.txt` with one name per line, the
            images have labels.
        size: Height and width in pixels of the images of a batch; `resize` is the rule.
        channels: Number of channels: 3 for colour, 1 for grey.
        shuffle_shards: Number of shards that are shuffled together, in a random order of shards.
            Each batch then reads from this number of files, as hard disks and network drives need.
            Defaults to all shards.
        **kwargs: Arguments of `ImageFileOptions` and `ImageDataModule`.

    Raises:
        UserError: If `folder` has no shards, or if only some names state a split.
    """

    provides = (*ImageDataModule.provides, "num_classes")

    def __init__(
        self,
        folder: str,
        size: PositiveInt = 64,
        channels: Literal[1, 3] = 3,
        shuffle_shards: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folder, self.size, self.channels = Path(folder), int(size), channels
        self.shuffle_shards = shuffle_shards
        self.shards = sorted(self.folder.rglob("*.tar"))
        if not self.shards:
            raise UserError(
                f"data.folder {folder}: there are no shards (.tar) in it; write some with "
                "`python shard.py`"
            )
        self._split_of = [split_of_shard(shard, self.folder) for shard in self.shards]
        if None in self._split_of and any(self._split_of):
            unnamed = self.shards[self._split_of.index(None)]
            raise UserError(
                f"{unnamed}: its name has no split, but those of other shards have one; rename it, "
                "for example to train-000000.tar"
            )
        names = self.folder / CLASSES
        self.classes = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
        self.class_names = dict(enumerate(self.classes))

    @property
    def data_spec(self) -> dict[str, Any]:
        labels = {"num_classes": len(self.classes)} if len(self.classes) > 1 else {}
        return {"image_shape": [self.channels, self.size, self.size], **labels}

    @cached_property
    def index_folder(self) -> Path:
        """Folder of the index: one file of positions per split."""
        content = repr((stamps(self.shards), self._split_of)).encode()
        return self.root / "shard_index" / hashlib.blake2b(content, digest_size=12).hexdigest()

    def prepare_data(self) -> None:
        """Write the index unless it exists. One process writes it; the others wait."""
        make_folder(self.index_folder, self._write_index)

    def _write_index(self, folder: Path) -> None:
        parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        ignored: list[Path] = []
        used = 0
        for number, shard in enumerate(track(self.shards, "indexing shards")):
            records, keys, others = read_records(shard, number)
            used += len(records)
            ignored += others
            if split := self._split_of[number]:
                parts[split].append(records)
            else:
                splits = np.array([split_of(f"{shard.name}/{key}") for key in keys])
                for one, found in parts.items():
                    found.append(records[splits == one])
        for split, found in parts.items():
            np.save(folder / f"{split}.npy", np.concatenate([np.empty(0, RECORD), *found]))
        left_out = {NO_IMAGE: ignored}
        report_usage(str(self.folder), used + len(ignored), used, left_out, "images")

    def load_split(self, split: str) -> ShardImages:
        self.prepare_data()
        path = self.index_folder / f"{split}.npy"
        records = np.load(path, mmap_mode="r" if path.stat().st_size > 2**12 else None)
        labels = records["label"]
        if self.classes and len(labels):
            low, high = int(labels.min()), int(labels.max())
            if not 0 <= low <= high < len(self.classes):
                raise UserError(
                    f"{self.folder / CLASSES}: has {len(self.classes)} classes, but the labels of "
                    f"the images are {low} to {high} ({NO_LABEL} is none); correct or remove it"
                )
        reader = self.reader(split, self.size, self.channels)
        data = ShardImages(self.shards, records, reader, self.class_names)
        return take_subset(data, self.max_samples if split == "train" else None)

    def batch_sampler(self, data: Any, batch_size: int, *, shuffle: bool, **options: Any) -> Any:
        if shuffle and self.shuffle_shards:
            options["permute"] = partial(shuffled_by_shard, data.sizes(), int(self.shuffle_shards))
        return super().batch_sampler(data, batch_size, shuffle=shuffle, **options)
