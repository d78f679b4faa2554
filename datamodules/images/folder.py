"""Data module of your own folder of images.

Images may be at any depth of the folder. Classes are optional: one sub-folder per class, or a file
`labels.csv` in the folder with the columns `file` and `label`. Sub-folders `train`, `val` and
`test` define the splits, and may contain the sub-folders of classes. Without such
sub-folders, images are split by a SHA-256 of their paths: 80 % training, 10 % validation, 10 %
test. The contents of files are not compared, so copies of an image may fall into different splits.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveInt

from common.errors import UserError
from datamodules.images.base import ImageDataModule, InMemoryImages
from datamodules.images.files import SUFFIXES, FileImages, fits_into_memory, image_files, read_all
from datamodules.splits import split_of, take_subset
from datamodules.text_files import read_table


class ImageFolder(ImageDataModule):
    """Your own folder of images.

    Args:
        Corpus:
        folder: Folder of images. Sub-folders, or a `labels.csv` with the columns file and label,
            define classes. Sub-folders `train`, `val` and `test` define the splits. Without such
            sub-folders, a hash of the path assigns 80 % of the images to training, 10 % to
            validation and 10 % to test.
        size: Height and width in pixels. Each image is cropped to its centre square and resized.
        channels: Number of channels: 3 for colour, 1 for grey.
        skip_bad: Skip unusable files and print their number. If False, stop at the first unusable
            file.
        **kwargs: Arguments of `ImageDataModule`.

    Raises:
        UserError: If `folder` does not exist or has no training images, or if `labels.csv` does not
            match the files.
    """

    provides = (*ImageDataModule.provides, "num_classes")

    def __init__(
        self,
        folder: str,
        size: PositiveInt = 64,
        channels: Literal[1, 3] = 3,
        skip_bad: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folder, self.size, self.channels, self.skip_bad = (
            Path(folder),
            int(size),
            channels,
            skip_bad,
        )
        if not self.folder.is_dir():
            raise UserError(f"data.folder {folder}: there is no such folder; give one with images")
        self.files = {split: image_files(self.folder / split) for split in ("train", "val", "test")}
        if not self.files["train"]:  # `val` and `test` are then not splits
            self.files = {split: [] for split in self.files}
            for path in image_files(self.folder):
                self.files[split_of(path.relative_to(self.folder).as_posix())].append(path)
        found = sum(map(len, self.files.values()))
        if not found:
            raise UserError(
                f"data.folder {folder}: there are no images in it; add some "
                f"({', '.join(sorted(SUFFIXES))})"
            )
        if not self.files["train"]:
            raise UserError(
                f"data.folder {folder}: none of its {found} images falls into the training "
                "split; add more images"
            )
        self.classes, self._label_of = self._read_labels()

    def _read_labels(self) -> tuple[list[str], dict[Path, str]]:
        """Return the class names in alphabetical order, and the class name of each file."""
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
                    f"{table}: {min(absent).relative_to(self.folder)} is not an image in the "
                    "folder; remove its row"
                )
        else:
            # Images directly in one of these folders have no class.
            tops = [self.folder, *(self.folder / split for split in self.files)]
            named = {path: "" if path.parent in tops else path.parent.name for path in everything}
        return sorted({named[path] for path in everything}), named

    @property
    def data_spec(self) -> dict[str, Any]:
        labels = {"num_classes": len(self.classes)} if len(self.classes) > 1 else {}
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
