"""Data module of your own folder of images.

Images may be at any depth of the folder. Classes are optional: one sub-folder per class, or a file
`labels.csv` in the folder with the columns `file` and `label`. If an image is in no class folder,
there are no classes. Sub-folders `train`, `val` and `test` (or `training`, `valid`, `validation`,
`dev`, `testing`, in any case) define the splits, and may contain the sub-folders of classes.
Without such sub-folders, images are split by a SHA-256 of their paths: 80 % training, 10 %
validation, 10 % test. The contents of files are not compared, so copies of an image may fall into
different splits.
"""

import sys
import unicodedata
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveInt

from common.errors import UserError
from datamodules.images.base import ImageDataModule
from datamodules.images.file_options import ImageFileOptions
from datamodules.images.files import FileImages, Images, choose_samples, read_files
from datamodules.images.finding import (
    ImageSearch,
    assign_splits,
    check_images,
    find_images,
    find_table,
)
from datamodules.text_files import read_table


class ImageFolder(ImageFileOptions, ImageDataModule):
    """Your own folder of images.

    Files that are hidden or no images are left out and counted.

    Args:
        Corpus:
        folder: Folder of images. Sub-folders, or a `labels.csv` with the columns file and label,
            define classes. Sub-folders `train`, `val` and `test` define the splits. Without such
            sub-folders, a hash of the path assigns 80 % of the images to training, 10 % to
            validation and 10 % to test.
        size: Height and width in pixels of the images of a batch; `resize` is the rule.
        channels: Number of channels: 3 for colour, 1 for grey.
        skip_bad: Skip unusable files and print their number. If False, stop at the first unusable
            file.
        **kwargs: Arguments of `ImageFileOptions` and `ImageDataModule`.

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
        search = find_images(self.folder)
        check_images(search, f"data.folder {folder}")
        table, found = find_table(search, "labels.csv"), len(search.images)
        self.files, tops = assign_splits(search)
        if not self.files["train"]:
            raise UserError(
                f"data.folder {folder}: none of its {found} images falls into the training split; "
                "add more images"
            )
        loose: list[Path] = []
        if table:
            self.label_of = table_labels(table, search)
        else:
            # Images directly in one of these folders have no class.
            unlabelled = [self.folder, *tops.values()]
            self.label_of = {
                path: ""
                if path.parent in unlabelled
                else unicodedata.normalize("NFC", path.parent.name)
                for path in search.images
            }
            if any(self.label_of.values()):
                loose = [path for path, name in self.label_of.items() if not name]
        if tops:
            self._check_spelling()
        if loose:
            self.label_of = dict.fromkeys(search.images, "")
        self.classes = sorted(set(self.label_of.values()))
        self.class_names = dict(enumerate(self.classes))
        search.report(folder)
        if loose:
            print(
                f"note: data.folder {folder}: {loose[0].name} is in no class folder, so the images "
                "have no classes; move it to use the names of folders as classes",
                file=sys.stderr,
            )

    def _check_spelling(self) -> None:
        """Refuse held-out classes whose names differ from those of training only in their case."""
        trained = {self.label_of[path] for path in self.files["train"]}
        spelling = {name.casefold(): name for name in trained}
        for path in (*self.files["val"], *self.files["test"]):
            name = self.label_of[path]
            known = spelling.get(name.casefold(), name)
            if name not in trained and known != name:
                raise UserError(
                    f"{path}: its class {name} is spelt {known} in training; use one spelling"
                )

    @property
    def data_spec(self) -> dict[str, Any]:
        labels = {"num_classes": len(self.classes)} if len(self.classes) > 1 else {}
        return {"image_shape": [self.channels, self.size, self.size], **labels}

    def load_split(self, split: str) -> Images:
        files, not_chosen = choose_samples(
            self._file_images(split), self.max_samples if split == "train" else None
        )
        read = read_files(files, self.skip_bad)
        if not isinstance(read.data, FileImages):
            names = [self.label_of[files.paths[i]].lower() for i in read.kept.tolist()]
            read.data.names = names
        read.report(split, not_chosen)
        return read.data

    def _file_images(self, split: str) -> FileImages:
        paths, number_of = self.files[split], {name: i for i, name in enumerate(self.classes)}
        labels = torch.tensor([number_of[self.label_of[path]] for path in paths]).long()
        attributes = {name: labels == number for name, number in number_of.items()}
        return FileImages(paths, labels, self.reader(split, self.size, self.channels), attributes)


def table_labels(table: Path, search: ImageSearch) -> dict[Path, str]:
    """Return the label of each image by a table with the columns file and label.

    Raises:
        UserError: If a row is incomplete or names no image of the folder, if an image has no row,
            or if it has two rows with different labels.
    """
    named: dict[Path, str] = {}
    written: dict[Path, str] = {}  # paths as in the table
    for line, row in enumerate(read_table(table, ("file", "label")), 2):
        if not (row["file"] and row["label"]):
            raise UserError(f"{table}: line {line} is incomplete; write both a file and its label")
        path = search.root / row["file"]
        written[path] = row["file"]
        if named.setdefault(path, row["label"]) != row["label"]:
            raise UserError(
                f"{table}: line {line} gives {row['file']} the label {row['label']}, and a line "
                f"before it {named[path]}; remove one of them"
            )
    missing = [path for path in search.images if path not in named]
    if missing:
        raise UserError(f"{table}: has no row for {missing[0].relative_to(search.root)}; add one")
    left_out = {path for paths in search.left_out.values() for path in paths}
    absent = named.keys() - set(search.images) - left_out
    if absent:
        raise UserError(
            f"{table}: {written[min(absent)]} is not an image in the folder; remove its row"
        )
    return {path: named[path] for path in search.images}
