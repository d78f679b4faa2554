"""Your own sentence pairs: two line-aligned files, or a table of two columns."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jsonargparse.typing import OpenUnitInterval

from common.errors import UserError
from datamodules.cache import sha256
from datamodules.parallel.base import ParallelTextDataModule
from datamodules.text_files import read_lines

SLACK = 10  # characters added to each length, because ratios of short lengths are unreliable


class Lines(NamedTuple):
    """Lines `[first:last]`, counted from 0, of a source file and a target file.

    Both may be the same file.
    """

    source: Path
    target: Path
    first: int
    last: int


class FilePairs(ParallelTextDataModule):
    """Base class of corpora whose pairs are lines of files.

    A subclass implements `files`, and `pairs` if one file holds both sides.

    Args:
        Corpus:
        val_share: Share of the training pairs, in (0, 1), that is held out for validation. The
            last pairs are held out. Ignored if the corpus has its own validation pairs.
        **kwargs: Arguments of `ParallelTextDataModule`.
    """

    SPLIT_FILES: ClassVar = {
        "train": ("train",),
        "val": ("val", "valid", "validation", "dev"),
        "test": ("test",),
    }

    def __init__(self, val_share: OpenUnitInterval = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val_share = val_share

    def files(self) -> dict[str, tuple[Path, Path]]:
        """Return the source and the target file of each split; both may be the same file."""
        raise NotImplementedError

    def sources(self) -> dict[str, Lines]:
        parts = {
            split: Lines(*files, 0, count_pairs(*files)) for split, files in self.files().items()
        }
        if "val" not in parts:
            whole = parts["train"]
            border = int(whole.last * (1 - self.val_share))
            parts["train"], parts["val"] = whole._replace(last=border), whole._replace(first=border)
        return parts

    def pairs(self, source: Lines) -> Iterator[tuple[str, str]]:
        return itertools.islice(
            zip(read_lines(source.source), read_lines(source.target)), source.first, source.last
        )

    def where(self, split: str, line: int, side: int) -> str:
        part = self.split_sources[split]
        return f"{part[side]} line {part.first + line + 1}"

    def digest(self) -> str:
        def content(part: Lines) -> list[Any]:
            return [(path.name, sha256(path)) for path in part[:2]] + [part.first, part.last]

        return repr({split: content(part) for split, part in self.split_sources.items()})


class ParallelFiles(FilePairs):
    """Your own sentence pairs in line-aligned files, such as `train.de` and `train.en`.

    Validation files are `val.*` (or `valid.*`, `validation.*`, `dev.*`); test files are `test.*`.

    Args:
        Corpus:
        folder: Folder with the files `train.*` and, optionally, `val.*` and `test.*`.
        source: Extension of the source files, such as de.
        target: Extension of the target files, such as en.
        **kwargs: Arguments of `FilePairs`.

    Raises:
        UserError: If the folder or a file is missing, if a file is empty, or if the two files of a
            split differ in their number of lines.
    """

    def __init__(self, folder: str, source: str, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder, self.source, self.target = Path(folder), source, target

    def files(self) -> dict[str, tuple[Path, Path]]:
        if not self.folder.is_dir():
            raise UserError(
                f"data.folder {self.folder}: there is no such folder; give one with "
                f"train.{self.source} and train.{self.target}"
            )
        found: dict[str, tuple[Path, Path]] = {}
        for split, names in self.SPLIT_FILES.items():
            for name in names:
                files = (
                    self.folder / f"{name}.{self.source}",
                    self.folder / f"{name}.{self.target}",
                )
                there = [path for path in files if path.exists()]
                if len(there) == 1:
                    missing = files[1 - files.index(there[0])]
                    raise UserError(
                        f"{missing}: there is no such file beside {there[0].name}; add it, or "
                        f"remove {there[0].name}"
                    )
                if there:
                    found.setdefault(split, files)
        if "train" not in found:
            raise UserError(
                f"{self.folder / f'train.{self.source}'}: there is no such file; place the "
                "training pairs there"
            )
        return found


def count_pairs(source: Path, target: Path) -> int:
    """Count the lines of two line-aligned files.

    Raises:
        UserError: If a file is empty, or if the files differ in their number of lines.
    """
    sizes = [sum(1 for _ in read_lines(path)) for path in (source, target)]
    for path, size in zip((source, target), sizes):
        if not size:
            raise UserError(f"{path}: is empty; put text into it, or remove it")
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{source} has {sizes[0]:,} lines and {target} has {sizes[1]:,}: the files must have "
            "the same number of lines; "
            f"look at line {suspicious_line(source, target):,} first"
        )
    return sizes[0]


def suspicious_line(source: Path, target: Path) -> int:
    """Estimate the line number at which two files stop being aligned.

    It is the first line that is empty in exactly one file. If there is no such line, line lengths
    are compared. The shorter file is aligned with the start of the longer file up to some line,
    and with its end from that line on. The estimate is the line for which the lengths of
    aligned lines correspond best.
    """
    sides = [
        np.array([len(line.strip()) for line in read_lines(path)]) for path in (source, target)
    ]
    short, long = sorted(sides, key=len)
    lone = (short == 0) != (long[: len(short)] == 0)
    if lone.any():
        return int(lone.argmax()) + 1

    def misfit(partners: np.ndarray) -> np.ndarray:
        ratio = np.log((partners + SLACK) / (short + SLACK))
        return np.abs(ratio - np.median(ratio))

    together = np.cumsum(misfit(long[: len(short)]) - misfit(long[-len(short) :]))
    costs = np.concatenate([[0.0], together])
    return len(costs) - int(costs[::-1].argmin())  # last position of the minimum


class PairTable(FilePairs):
    """Your own sentence pairs in a table of two tab-separated columns, without a header.

    Args:
        Corpus:
        path: A `.tsv` file, or a folder with `train.tsv` and, optionally, `test.tsv` and `val.tsv`
            (or `valid.tsv`, `validation.tsv`, `dev.tsv`).
        **kwargs: Arguments of `FilePairs`.

    Raises:
        UserError: If a file is missing or empty, or if a row does not have two columns.
    """

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = Path(path)

    def files(self) -> dict[str, tuple[Path, Path]]:
        tables = {
            split: [self.path / f"{name}.tsv" for name in names]
            for split, names in self.SPLIT_FILES.items()
        }
        found = {split: path for split, paths in tables.items() for path in paths if path.exists()}
        if self.path.is_file():
            found = {"train": self.path}
        if "train" not in found:
            raise UserError(
                f"data.path {self.path}: there is no such table; give a .tsv, or a folder with "
                "train.tsv"
            )
        return {split: (path, path) for split, path in found.items()}

    def pairs(self, source: Lines) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(
            itertools.islice(read_lines(source.source), source.first, source.last), source.first + 1
        ):
            columns = line.split("\t")
            if len(columns) != 2:
                raise UserError(
                    f"{source.source} line {number}: has {len(columns)} columns; give the line two "
                    "columns, separated by one tab"
                )
            yield columns[0], columns[1]
