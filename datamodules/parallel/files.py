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

SLACK = (
    10  # characters that are added to a line's, so that the ratio of two short lines says little
)


class Lines(NamedTuple):
    """Lines `first` to `last` of two files, or of one that holds both sides."""

    source: Path
    target: Path
    first: int
    last: int


class FilePairs(ParallelTextDataModule):
    """Base of corpora whose pairs are lines of files. A subclass provides `files`, and `pairs` if
    both sides are in one.

    Args:
        val_share: last part of the training pairs, for validation, where there are no pairs for it.
        **kwargs: see `ParallelTextDataModule`.
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
        """Files of sources and of targets of each split; the same one where it holds both."""
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
    """Your own pairs in line-aligned files: `train.de` and `train.en`, `val.*` (or `valid.*`,
    `validation.*`, `dev.*`), `test.*`.

    Args:
        folder: with all of them.
        source: ending of the files with sources.
        target: ending of the files with targets.
        **kwargs: see `FilePairs`.

    Raises:
        UserError: if the folder or a file is missing or empty, or two files do not have as many
            lines.
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
                        "remove that one"
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
    """How many lines two files have.

    Raises:
        UserError: if one is empty, or they do not have as many.
    """
    sizes = [sum(1 for _ in read_lines(path)) for path in (source, target)]
    for path, size in zip((source, target), sizes):
        if not size:
            raise UserError(f"{path}: is empty; put text into it, or remove it")
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{source} has {sizes[0]:,} lines and {target} has {sizes[1]:,}: each line needs its "
            "other side; "
            f"look at line {suspicious_line(source, target):,} first"
        )
    return sizes[0]


def suspicious_line(source: Path, target: Path) -> int:
    """Number of the line at which two files most likely come apart: the first of which one side is
    empty, or else the one from which on the lengths of the shorter file's lines go better with the
    last lines of the longer file than with the first.
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
    return len(costs) - int(
        costs[::-1].argmin()
    )  # the last of equals: nothing is wrong before the end


class PairTable(FilePairs):
    """Your own pairs in a table of two columns with a tab between, and no heading.

    Args:
        path: a `.tsv`; or a folder with `train.tsv`, `val.tsv` (or `valid.tsv`, `validation.tsv`,
            `dev.tsv`) and `test.tsv`.
        **kwargs: see `FilePairs`.

    Raises:
        UserError: if a file is missing or empty, or a row has another number of columns.
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
                    f"{source.source} line {number}: has {len(columns)} columns; give it two, "
                    "with one tab between them"
                )
            yield columns[0], columns[1]
