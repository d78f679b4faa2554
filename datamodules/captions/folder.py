"""Data module of your own captioned images."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import PositiveInt

from common.errors import UserError
from datamodules.captions.base import CaptionedImages
from datamodules.images.file_options import ImageFileOptions
from datamodules.images.files import FileImages
from datamodules.images.finding import (
    NO_IMAGE,
    TWICE,
    ImageSearch,
    assign_splits,
    check_images,
    find_images,
)
from datamodules.splits import split_named
from datamodules.text_files import read_lines, read_table


class CaptionedFolder(ImageFileOptions, CaptionedImages):
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
        size: Height and width in pixels of the images of a batch; `resize` is the rule.
        **kwargs: Arguments of `ImageFileOptions` and `CaptionedImages`.

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
        self.path, self.size = Path(os.path.abspath(path)), int(size)  # without ".."
        self.image_shape = [3, self.size, self.size]
        if not self.path.exists():
            raise UserError(
                f"data.path {path}: there is no such folder or table; give one with images and "
                "captions"
            )
        if self.path.is_file():
            search, captions = table_captions(self.path)
        else:
            search = find_images(self.path)
            captions = folder_captions(search)
        check_images(search, f"data.path {path}")
        found = len(search.images)
        self.files, _ = assign_splits(search)
        if not self.files["train"]:
            raise UserError(
                f"data.path {path}: none of its {found} images falls into the training split; add "
                "more images"
            )
        self.captions = {path: captions[path] for path in search.images}
        search.report(str(self.path))

    def read(
        self, split: str
    ) -> tuple[Callable[[list[int]], FileImages], list[list[str]], list[str]]:
        paths, reader = self.files[split], self.reader(split, self.size, 3)

        def make_images(chosen: list[int]) -> FileImages:
            labels = torch.zeros(len(chosen), dtype=torch.int64)
            return FileImages([paths[i] for i in chosen], labels, reader)

        return make_images, [self.captions[path] for path in paths], [str(path) for path in paths]


def folder_captions(search: ImageSearch) -> dict[Path, list[str]]:
    """Return the captions of each image of a folder, none if it has no text file."""
    texts = {
        path.with_suffix(""): path
        for path in search.left_out.get(NO_IMAGE, [])
        if path.suffix.lower() == ".txt"
    }
    found: dict[Path, list[str]] = {}
    for path in search.images:
        text = texts.get(path.with_suffix(""))
        found[path] = [line for line in read_lines(text) if line.strip()] if text else []
    search.claim(texts[path.with_suffix("")] for path in found if path.with_suffix("") in texts)
    return found


def table_captions(table: Path) -> tuple[ImageSearch, dict[Path, list[str]]]:
    """Return the images that a table names, and the captions of each.

    Raises:
        UserError: If a row names no file, or a file that is not below the folder of the table, or
            if a link in the folder of one split leads to another split.
    """
    captions: dict[Path, list[str]] = {}
    for line, row in enumerate(read_table(table, ("file", "caption")), 2):
        if not row["file"]:
            raise UserError(f"{table}: line {line} has no file name; write one")
        path = Path(os.path.normpath(table.parent / row["file"]))
        if not path.is_relative_to(table.parent):
            raise UserError(
                f"{table}: line {line}: {path} is not below the folder of the table; move it there"
            )
        texts = captions.setdefault(path, [])
        if row["caption"] and row["caption"].strip():
            texts.append(row["caption"])
    search = ImageSearch(table.parent, sorted(captions))
    leave_out_links(search)
    return search, captions


def leave_out_links(search: ImageSearch) -> None:
    """Leave out links to images that are listed too, or that are in the folder of another split."""
    home = Path(os.path.realpath(search.root))
    real = {path: Path(os.path.realpath(path)) for path in search.images}
    places = {path: home / path.relative_to(search.root) for path in search.images}
    taken = {target for path, target in real.items() if target == places[path]}
    twice, elsewhere = [], []
    for path, target in real.items():
        if target == places[path]:
            continue
        if target in taken:
            twice.append(path)
        elif target.is_relative_to(home) and split_named(target.relative_to(home).parts[0]) not in (
            None,
            split_named(path.relative_to(search.root).parts[0]),
        ):
            elsewhere.append(path)
        else:
            taken.add(target)
    search.leave_out(TWICE, twice)
    search.leave_out("link into another split", elsewhere)
