"""Any folder of pictures, and CelebA, whose pictures are files as well.

Layouts of a folder, from the simplest: pictures anywhere in it; one sub-folder per class; a
`labels.csv` with the columns `file` and `label`; or any of these inside `train`, `val` and `test`.
Without the latter an image's split follows from the SHA-256 of its path: 80/10/10. Files are not
compared: copies of an image under several names may fall into different splits.
"""

import csv
import hashlib
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from common.errors import UserError
from datamodules.base import Request
from datamodules.images.base import ImageDataModule, InMemoryImages, take_subset
from datamodules.images.openmoji import fold

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    Image.DecompressionBombError,
)  # what Pillow raises for broken files
IN_MEMORY_BYTES = 2 * 2**30  # above this, pictures are decoded batch by batch, best in workers


class BadPicture(UserError):
    """A file that is not a picture of the kind that can be trained on."""


def read_picture(path: Path, channels: int) -> Image.Image:
    """A picture file in its own size, on white where it is transparent: mode L or RGB.

    Raises:
        BadPicture: naming the file, what is wrong with it, and the mend.
    """
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise BadPicture(f"{path}: has {frames} frames; extract one")
            if image.mode.startswith("I") or image.mode == "F":
                raise BadPicture(f"{path}: has more than 8 bits a channel; convert it to 8 bits")
            if image.mode == "CMYK":
                raise BadPicture(
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
    except BadPicture:
        raise
    except BROKEN as error:
        raise BadPicture(
            f"{path}: cannot be read as a picture ({error}); repair or remove it"
        ) from error


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (C, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def square(image: Image.Image, size: int, path: Path, smallest: int | None = None) -> Tensor:
    """Centre square of a picture, scaled to uint8 (C, size, size).

    Args:
        image: the picture.
        size: height and width in pixels.
        path: its file, for the message.
        smallest: least height and width that it must have; `size` unless given.

    Raises:
        BadPicture: if it is smaller.
    """
    smallest = smallest or size
    if min(image.size) < smallest:
        raise BadPicture(
            f"{path}: is {image.width}x{image.height}, smaller than data.size {smallest}; remove it or lower data.size"
        )
    return to_tensor(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def picture_files(folder: Path) -> list[Path]:
    """All pictures anywhere in a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a .csv.

    Raises:
        UserError: if it is not in UTF-8, has no row, or lacks a column.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is not a table in UTF-8 ({error}); save it as one") from error
    if not rows or not rows[0].keys() >= set(columns):
        raise UserError(f"{path}: needs the columns {' and '.join(columns)}, and at least one row")
    return rows


def decode(path: Path, size: int, channels: int) -> Tensor:
    """Centre square of a picture file, scaled to (channels, size, size) uint8.

    Raises:
        BadPicture: as `read_picture` and `square`.
    """
    return square(read_picture(path, channels), size, path)


class FileImages:
    """Previews that are decoded when a batch asks for them.

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
        """One of the pictures."""
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
        """(N,) bool: pictures that have the attribute."""
        if attribute not in self.attributes:
            raise UserError(
                f"there is no attribute {attribute!r}; there are: {', '.join(self.attributes) or 'none'}"
            )
        return self.attributes[attribute]


def fits_into_memory(data: FileImages) -> bool:
    """Whether pictures are few and small enough to be kept as uint8."""
    return len(data) * data.channels * data.size**2 <= IN_MEMORY_BYTES


def read_all(
    data: FileImages, split: str, skip_bad: bool, keep: bool = True
) -> tuple[Tensor, Tensor]:
    """uint8 pictures (K, C, size, size) and the numbers (K,) of those that could be used.

    Args:
        data: pictures in files.
        split: their name, for the count of those that are skipped.
        skip_bad: leave out what cannot be used, and say how many, instead of stopping at the first.
        keep: keep the pictures; otherwise they are only tried, and come back with no height and
            width.

    Raises:
        BadPicture: unless `skip_bad`.
    """
    kept, images = [], []
    for number, path in enumerate(data.paths):
        try:
            image = data.read(path)
        except BadPicture:
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


class ImageFolder(ImageDataModule):
    """Your own pictures.

    Args:
        folder: see the module's docstring.
        size: height and width in pixels; pictures are cut to their centre square and scaled.
        channels: 3 for colour, 1 for grey.
        skip_bad: leave out files that cannot be used, and say how many, instead of stopping at the
            first.
        **kwargs: see `ImageDataModule`.
    """

    def __init__(
        self,
        folder: str,
        size: int = 64,
        channels: Literal[1, 3] = 3,
        skip_bad: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folder, self.size, self.channels, self.skip_bad = (
            Path(folder),
            size,
            channels,
            skip_bad,
        )
        if not self.folder.is_dir():
            raise UserError(
                f"data.folder {folder}: there is no such folder; give one with pictures"
            )
        self.files = {
            split: picture_files(self.folder / split) for split in ("train", "val", "test")
        }
        if not self.files["train"]:  # `val` and `test` are then names like any others
            self.files = {split: [] for split in self.files}
            for path in picture_files(self.folder):
                self.files[fold(path.relative_to(self.folder).as_posix())].append(path)
        found = sum(map(len, self.files.values()))
        if not found:
            raise UserError(
                f"data.folder {folder}: there are no pictures in it; put some there ({', '.join(sorted(SUFFIXES))})"
            )
        if not self.files["train"]:
            raise UserError(
                f"data.folder {folder}: none of its {found} pictures falls to the training split; add more"
            )
        self.classes, self._label_of = self._read_labels()

    def _read_labels(self) -> tuple[list[str], dict[Path, str]]:
        """Class names in alphabetical order, and the class of each file."""
        everything = [path for files in self.files.values() for path in files]
        table = self.folder / "labels.csv"
        if table.is_file():
            rows = read_table(table, ("file", "label"))
            incomplete = [
                line for line, row in enumerate(rows, 2) if not (row["file"] and row["label"])
            ]
            if incomplete:
                raise UserError(
                    f"{table}: line {incomplete[0]} is incomplete; write both a file and its label"
                )
            named = {self.folder / row["file"]: row["label"] for row in rows}
            missing = [path for path in everything if path not in named]
            if missing:
                raise UserError(
                    f"{table}: has no row for {missing[0].relative_to(self.folder)}; add one"
                )
            absent = named.keys() - set(everything)
            if absent:
                raise UserError(
                    f"{table}: {min(absent).relative_to(self.folder)} is no picture in the folder; remove its row"
                )
        else:
            tops = [
                self.folder,
                *(self.folder / split for split in self.files),
            ]  # their own names say nothing of a picture
            named = {path: "" if path.parent in tops else path.parent.name for path in everything}
        return sorted({named[path] for path in everything}), named

    @property
    def data_spec(self) -> dict[str, Any]:
        labels = (
            {"num_classes": len(self.classes)} if len(self.classes) > 1 else {}
        )  # one class tells nothing
        return {"image_shape": [self.channels, self.size, self.size], **labels}

    def load_split(self, split: str) -> InMemoryImages | FileImages:
        data = self._file_images(self.files[split])
        if split == "train":
            data = take_subset(data, self.max_samples)
        if not fits_into_memory(data):
            return (
                data.subset(read_all(data, split, skip_bad=True, keep=False)[1])
                if self.skip_bad
                else data
            )
        images, kept = read_all(data, split, self.skip_bad)
        return InMemoryImages(
            images,
            data.labels[kept],
            [self._label_of[data.paths[i]].lower() for i in kept.tolist()],
        )

    def _file_images(self, paths: list[Path]) -> FileImages:
        names = [self._label_of[path] for path in paths]
        labels = torch.tensor([self.classes.index(name) for name in names], dtype=torch.int64)
        attributes = {name: labels == number for number, name in enumerate(self.classes)}
        return FileImages(paths, labels, self.size, self.channels, attributes)


class CelebA(ImageDataModule):
    """202,599 faces with 40 attributes (Liu et al. 2015), in torchvision's layout:
    `<root>/celeba/img_align_celeba/*.jpg`.

    The label is the attribute `label`; all of them serve `sample.py --mode attribute`. The download
    fails as often as not: then place the files by hand
    (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html).

    Args:
        size: height and width in pixels, of the centre square.
        label: attribute that is the class.
        **kwargs: see `ImageDataModule`.
    """

    SPLITS = ("train", "val", "test")

    def __init__(
        self, size: int = 64, label: str = "Smiling", num_workers: int = 4, **kwargs: Any
    ) -> None:
        super().__init__(num_workers=num_workers, **kwargs)
        self.size, self.label = size, label
        self.folder = self.root / "celeba"

    @property
    def data_spec(self) -> dict[str, Any]:
        return {"image_shape": [3, self.size, self.size], "num_classes": 2}

    def prepare_data(self) -> None:
        if (self.folder / "img_align_celeba").is_dir():
            return
        from torchvision.datasets import CelebA as Download

        try:
            Download(self.root, download=True)
        except Exception as error:  # gdown, quotas, checksums: all end in the same mend
            raise UserError(
                f"CelebA is not under {self.folder} and could not be downloaded: place img_align_celeba/, list_attr_celeba.txt and "
                "list_eval_partition.txt there (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html)"
            ) from error

    def load_split(self, split: str) -> FileImages:
        partition = dict(
            line.split()
            for line in (self.folder / "list_eval_partition.txt").read_text().splitlines()
        )
        _, header, *lines = (self.folder / "list_attr_celeba.txt").read_text().splitlines()
        rows = {name: values for name, *values in map(str.split, lines)}
        files = [name for name in rows if partition[name] == str(self.SPLITS.index(split))]
        table = torch.tensor([[value == "1" for value in rows[name]] for name in files])
        attributes = dict(zip(header.split(), table.T))
        if self.label not in attributes:
            raise UserError(
                f"data.label {self.label}: CelebA's attributes are {', '.join(attributes)}"
            )
        paths = [self.folder / "img_align_celeba" / name for name in files]
        data = FileImages(paths, attributes[self.label].long(), self.size, 3, attributes)
        return take_subset(data, self.max_samples) if split == "train" else data
