"""Random folders of images, and checks that a data module reads them correctly or refuses them.

Each image has one grey level, which tells the split of the folder that it is in. So a batch shows
from which split its images are.
"""

import os
import random
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from datamodules.base import DataModule
from datamodules.captions.folder import CaptionedFolder
from datamodules.images.folder import ImageFolder
from datamodules.pairs.folder import PairFolder
from datamodules.splits import SPLITS, split_named

LEVELS = {"train": 40, "val": 100, "test": 160, None: 220, "hidden": 10}
NAMES = {
    "train": ["train", "Train", "TRAIN", "training"],
    "val": ["val", "Valid", "validation", "DEV"],
    "test": ["test", "Test", "testing", "TESTING"],
}
CLASSES = ["cat", "Hund", "猫", "кошка", "chat noir", "e\u0301te\u0301", "😀", "a.b", "x" * 60]
STEMS = ["a", "IMG 1", "猫", "été", "b.c", "ё", "(1)", "1,2", "\udcff", "%20", "'q'", "-r"]
MODES = ["L", "RGB", "RGBA", "LA", "P", "CMYK", "I;16", "F"]
SUFFIXES = {
    "L": ["png", "jpg", "jfif", "PGM", "webp", "bmp", "tif", "gif", "avif", "JPE", "tga"],
    "RGB": ["png", "JPG", "jpeg", "ppm", "webp", "BMP", "tiff", "qoi", "AVIF"],
    "RGBA": ["png", "webp", "tif"],
    "LA": ["png"],
    "P": ["png", "gif"],
    "CMYK": ["jpg", "tif"],
    "I;16": ["png", "tif"],
    "F": ["tif"],
}


def is_hidden(name: str) -> bool:
    """Whether files and folders of this name are left out."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")


def png_header(width: int, height: int) -> bytes:
    """Beginning of a PNG of these dimensions, without pixels."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(content))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + content + checksum


@dataclass
class Folder:
    """Random folder.

    Attributes:
        make: Function that builds the data module, given `skip`.
        root: Folder of all files.
        linked: Whether the folder has links.
        kind: Name of the class of the data module.
    """

    make: Callable[[bool], DataModule]
    root: Path
    linked: bool
    kind: str


class FolderWriter:
    """Writes random folders below `home`, by a seed."""

    def __init__(self, home: Path, seed: int) -> None:
        self.root, self.draw = home / f"folder {seed}", random.Random(seed)
        self.root.mkdir(parents=True)
        self.captions = False
        self.linked = False

    def image(self, path: Path) -> None:
        """Write an image, or now and then a broken one; its mode decides the suffix."""
        parts = path.relative_to(self.root).parts[:-1]
        level = LEVELS[self.mark(parts)]
        mode = self.draw.choice(MODES)
        side = self.draw.choice([(20, 20), (17, 40), (64, 48), (1, 1), (3, 200), (30, 12)])
        if self.draw.random() < 0.5:
            mode, side = "RGB", (24, 24)
        path = path.with_name(f"{path.name}.{self.draw.choice(SUFFIXES[mode])}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.draw.random() < 0.03:
            broken = [b"", b"no image", png_header(100_000, 100_000), png_header(20, 20)]
            path.write_bytes(self.draw.choice(broken))
        else:
            self.write(path, mode, side, level)
        if self.captions and self.draw.random() < 0.97:
            path.with_suffix(".txt").write_text("a grey square\nein Quadrat\n", encoding="utf-8")

    @staticmethod
    def mark(parts: tuple[str, ...]) -> str | None:
        """Return the split that the folders of an image name, or "hidden"."""
        if any(map(is_hidden, parts)):
            return "hidden"
        for part in parts:
            for name in (part, part[:-1]):
                if split_named(name):
                    return split_named(name)
        return None

    @staticmethod
    def write(path: Path, mode: str, side: tuple[int, int], level: int) -> None:
        """Write an image of one grey level."""
        size = side[::-1]
        if mode == "I;16":
            Image.fromarray(np.full(size, level * 257, np.uint16)).save(path)
        elif mode == "F":
            Image.fromarray(np.full(size, level / 255, np.float32)).save(path)
        else:
            colours: dict[str, Any] = {
                "RGB": (level,) * 3,
                "RGBA": (level,) * 3 + (255,),
                "LA": (level, 255),
                "CMYK": (0, 0, 0, 255 - level),
            }
            Image.new("L" if mode == "P" else mode, side, colours.get(mode, level)).convert(
                mode
            ).save(path)

    def images(self, folder: Path, count: int, classes: bool = False) -> None:
        """Write images, in folders of classes if asked."""
        names = self.draw.sample(CLASSES, 3) if classes else [""]
        for number in range(count):
            stem = f"{self.draw.choice(STEMS)}{number}"
            self.image(folder / self.draw.choice(names) / stem)

    def litter(self) -> None:
        """Add hidden folders, files of other types and links."""
        folders = [self.root, *sorted(path for path in self.root.rglob("*") if path.is_dir())]
        if self.draw.random() < 0.5:
            hidden = self.draw.choice([".ipynb_checkpoints", "__MACOSX", ".cache"])
            self.images(self.draw.choice(folders) / hidden, 3)
        for name in ("Thumbs.db", ".DS_Store", "notes.md", "clip.mp4", "x.json", "a.txt", "b.h5"):
            if self.draw.random() < 0.3:
                (self.draw.choice(folders) / name).write_bytes(b"\x00 a")
        if self.draw.random() < 0.4:
            self.linked = True
            folders, files = (
                sorted(
                    path
                    for path in (self.root, *self.root.rglob("*"))
                    if kind(path) and not any(map(is_hidden, path.relative_to(self.root).parts))
                )
                for kind in (Path.is_dir, Path.is_file)
            )
            for number in range(self.draw.randint(1, 4)):
                link = self.draw.choice(folders) / f"link{number}"
                target = self.draw.choice([*folders, *files, self.root.parent, Path("nowhere")])
                if target.is_file() and self.draw.random() < 0.8:
                    link = link.with_suffix(target.suffix)
                if not link.exists() and not link.is_symlink():
                    link.symlink_to(target)

    def split_names(self) -> list[str]:
        """Return names of folders of splits: all three, or some missing, or one twice."""
        names = [self.draw.choice(NAMES[split]) for split in SPLITS]
        chance = self.draw.random()
        if chance < 0.08:
            names.pop(0)
        elif chance < 0.2:
            names.pop()
        elif chance < 0.27:
            names.append(self.draw.choice(["valid", "Training", "dev"]))
        return names

    def table(self, name: str, column: str) -> Path:
        """Write a table of all images with one more column."""
        files = sorted(path for path in self.root.rglob("*") if path.suffix and path.is_file())
        rows = [
            f'"{os.fsdecode(path.relative_to(self.root))}",a square'
            for path in files
            if not any(map(is_hidden, path.relative_to(self.root).parts))
            and path.suffix not in (".md", ".mp4", ".json", ".txt", ".h5")
            and "\udcff" not in str(path)
        ]
        table = self.root / name
        table.write_text("\n".join([f"file,{column}", *rows]) + "\n", encoding="utf-8")
        return table

    def folder(self) -> Folder:
        """Write one folder."""
        kind = self.draw.choice(["ImageFolder", "PairFolder", "CaptionedFolder", "table"])
        self.captions = kind == "CaptionedFolder"
        home = self.root / "data" if self.draw.random() < 0.1 else self.root
        layout = self.draw.choice(["splits", "splits", "flat"])
        aside = self.draw.random() < 0.4
        if layout == "flat":
            self.images(home, self.draw.choice([1, 8, 30, 30]), self.draw.random() < 0.6)
        for name in self.split_names() if layout == "splits" else []:
            if kind == "PairFolder" and not aside:
                for side in self.draw.choice(["AB", "ab"]):
                    self.images(home / f"{name}{side}", self.draw.randint(2, 5))
            else:
                self.images(home / name, self.draw.randint(3, 7), self.draw.random() < 0.4)
        if layout == "splits" and self.draw.random() < 0.3:
            self.images(home / self.draw.choice(["other", "cat/Test", "unsorted"]), 2)
        self.litter()
        options: dict[str, Any] = {
            "size": self.draw.choice([8, 16]),
            "batch_size": 2,
            "resize": self.draw.choice(["crop", "pad", "stretch"]),
            "background": "#dcdcdc",
        }
        if options["resize"] == "pad":  # the padding of marked images has to have their level
            options["resize"] = "crop"
            options["position"] = "random"
        root = str(self.root)
        if kind == "PairFolder" and layout == "flat":
            root, options = "", {**options, "folder_a": root, "folder_b": root}
        if kind == "table":
            root = str(self.table("table.csv", "caption"))
        if kind == "ImageFolder" and self.draw.random() < 0.2:
            self.table(self.draw.choice(["labels.csv", "Labels.CSV"]), "label")
        if kind == "PairFolder":
            options["paired"] = aside and self.draw.random() < 0.5
        makers: dict[str, Callable[[bool], DataModule]] = {
            "ImageFolder": lambda skip: ImageFolder(root, skip_bad=skip, **options),
            "PairFolder": lambda skip: PairFolder(root or None, skip_bad=skip, **options),
            "CaptionedFolder": lambda skip: CaptionedFolder(root, skip=skip, **options),
        }
        make = makers["CaptionedFolder" if kind == "table" else kind]
        return Folder(make, self.root, self.linked, kind)


def levels_of(data: DataModule, split: str) -> set[str | None]:
    """Return the splits that the images of a split are marked with."""
    rows, found = len(data.split(split)), set()
    for start in range(0, rows, 2):
        batch = data.batch(split, list(range(start, min(start + 2, rows))))
        for key in ("image", "a", "b"):
            for image in batch.get(key, ()):
                level = (image.median().item() + 1) * 127.5
                found.add(min(LEVELS, key=lambda mark: abs(LEVELS[mark] - level)))
    return found


def check_folder(folder: Folder, skip: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """Load all splits of a folder; return "used", or the message that refuses it.

    Raises:
        AssertionError: If held-out or hidden images are trained on, if numbers do not add up, or if
            a message has more than one line.
    """
    reports: list[tuple[str, int, int]] = []

    def record(name: str, found: int, used: int, left_out: Any, *_: Any) -> None:
        assert found == used + sum(map(len, left_out.values()))
        reports.append((name, found, used))

    for module in ("files", "finding"):
        monkeypatch.setattr(f"datamodules.images.{module}.report_usage", record)
    try:
        data = folder.make(skip)
        marks = {split: levels_of(data, split) for split in SPLITS}
        batch = next(iter(data.train_dataloader()))
    except UserError as error:
        return str(error)
    assert len(batch["index"]) == 2
    has_splits = bool(marks["train"] & {"train"})
    assert marks["train"] <= ({"train"} if has_splits else {None}), marks
    held_out = {"val", "test"} if folder.kind == "PairFolder" else {"val"}
    assert marks["val"] <= (held_out if has_splits else {None}), marks
    assert marks["test"] <= ({"test"} | held_out - {"val"} if has_splits else {None}) | (
        held_out if folder.kind == "PairFolder" else set()
    ), marks
    check_counts(folder, reports)
    return "used"


def check_counts(folder: Folder, reports: list[tuple[str, int, int]]) -> None:
    """Compare the numbers in the reports with a count of all files, and with each other."""
    if folder.kind == "PairFolder":
        return
    (_, found, used), *splits = reports
    assert used == sum(number for _, number, _ in splits)
    if folder.linked or folder.kind == "table":
        return
    count = 0
    for _, folders, files in os.walk(folder.root):
        count += sum(map(is_hidden, folders)) + len(files)
        folders[:] = [name for name in folders if not is_hidden(name)]
    count -= any(path.name.lower() == "labels.csv" for path in folder.root.iterdir())
    if folder.kind == "CaptionedFolder":  # caption files are used
        paths = [
            path for path in folder.root.rglob("*.txt") if not re.search(r"/a\.txt$", str(path))
        ]
        count -= sum(not any(map(is_hidden, path.relative_to(folder.root).parts)) for path in paths)
    assert found == count


def check_seed(seed: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write and check the folder of a seed; return "used", or the message that refuses it."""
    torch.manual_seed(0)
    folder = FolderWriter(home, seed).folder()
    result = check_folder(folder, True, monkeypatch)
    assert "\n" not in result
    if seed % 3 == 0:  # without skipping, only the first unusable file may change the result
        strict = check_folder(folder, False, monkeypatch)
        assert strict == result or "unusable" not in strict
    return result
