"""Data module of your own captioned images."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import PositiveInt

from common.errors import UserError
from datamodules.captions.base import CaptionedImages, Images
from datamodules.images.files import SUFFIXES, FileImages, image_files
from datamodules.splits import split_of
from datamodules.text_files import read_table


class CaptionedFolder(CaptionedImages):
    """Your own images and captions.

    Without sub-folders `train`, `val` and `test`, images are split by a SHA-256 of their paths:
    80 % training, 10 % validation, 10 % test. The contents of files are not compared, so copies of
    an image may fall into different splits.

    Args:
        Corpus:
        path: Folder of images, or a .csv table. In a folder, the file `NAME.txt` beside an image
            `NAME.png` contains the captions of this image, one per line. A table has one row per
            caption and two columns: file (path of the image, relative to the table) and caption.
            Sub-folders `train`, `val` and `test` define the splits.
        size: Height and width in pixels. Each image is cropped to its centre square and resized.
        **kwargs: Arguments of `CaptionedImages`.

    Raises:
        UserError: If `path` does not exist or has no images.
    """

    def __init__(
        self,
        path: str,
        size: PositiveInt = 64,
        vocab_size: PositiveInt = 4000,
        text_length: PositiveInt = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocab_size=vocab_size, text_length=text_length, **kwargs)
        self.path, self.size = Path(path).absolute(), int(size)
        self.image_shape = [3, self.size, self.size]
        if not self.path.exists():
            raise UserError(
                f"data.path {path}: there is no such folder or table; give one with images and "
                "captions"
            )
        self.captions = self._table() if self.path.is_file() else self._folder()
        if not self.captions:
            raise UserError(
                f"data.path {path}: there are no images in it; add some "
                f"({', '.join(sorted(SUFFIXES))})"
            )

    def _folder(self) -> dict[Path, list[str]]:
        """Return the captions of each image in the folder, none if it has no text file."""
        found: dict[Path, list[str]] = {}
        for path in image_files(self.path):
            text = path.with_suffix(".txt")
            try:
                lines = text.read_text(encoding="utf-8-sig").splitlines() if text.exists() else []
            except UnicodeDecodeError as error:
                raise UserError(f"{text}: is not UTF-8 ({error}); save it in UTF-8") from error
            found[path] = [line for line in lines if line.strip()]
        return found

    def _table(self) -> dict[Path, list[str]]:
        """Return the captions of each image in the table."""
        found: dict[Path, list[str]] = {}
        for line, row in enumerate(read_table(self.path, ("file", "caption")), 2):
            if not row["file"]:
                raise UserError(f"{self.path}: line {line} has no file name; write one")
            captions = found.setdefault((self.path.parent / row["file"]).absolute(), [])
            if row["caption"] and row["caption"].strip():
                captions.append(row["caption"])
        return found

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """Image files of each split."""
        home = self.path if self.path.is_dir() else self.path.parent
        parts: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
        placed = any((home / split).is_dir() for split in parts)
        for path in self.captions:
            if not path.is_relative_to(home):
                raise UserError(
                    f"{self.path}: {path} is not below the folder of the table; move it there"
                )
            name = path.relative_to(home)
            split = name.parts[0] if placed else split_of(name.as_posix())
            if split not in parts:
                raise UserError(
                    f"{path}: is in none of the folders train, val and test; move it into one"
                )
            parts[split].append(path)
        if not parts["train"]:
            raise UserError(
                f"data.path {self.path}: none of its {len(self.captions)} images falls into the "
                "training split; add more images"
            )
        return parts

    def read(self, split: str) -> tuple[Callable[[list[int]], Images], list[list[str]], list[str]]:
        paths = self.files[split]

        def make_images(chosen: list[int]) -> Images:
            return FileImages(
                [paths[i] for i in chosen],
                torch.zeros(len(chosen), dtype=torch.int64),
                self.size,
                3,
                {},
            )

        return make_images, [self.captions[path] for path in paths], [str(path) for path in paths]
