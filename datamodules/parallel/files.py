"""Your own sentence pairs: two line-aligned files, or a table of two columns."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jsonargparse.typing import OpenUnitInterval

from common.errors import UserError
from datamodules.cache import sha256
from datamodules.parallel.base import SIDES, ParallelTextDataModule
from datamodules.text.documents import columns_of, texts_of
from datamodules.text.files import is_record_file, text_role, text_suffix
from datamodules.text_files import read_lines
from datamodules.text_folders import Role, read_folder

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

    def __init__(self, val_share: OpenUnitInterval = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val_share = val_share

    def files(self) -> dict[str, tuple[Path, Path]]:
        """Return the source and the target file of each split; both may be the same file."""
        raise NotImplementedError

    def sources(self) -> dict[str, Lines]:
        parts = {
            split: Lines(*files, 0, self.count(*files)) for split, files in self.files().items()
        }
        if "val" not in parts:
            whole = parts["train"]
            border = int(whole.last * (1 - self.val_share))
            parts["train"], parts["val"] = whole._replace(last=border), whole._replace(first=border)
        return parts

    def count(self, source: Path, target: Path) -> int:
        """Count the pairs of a source file and a target file."""
        return count_pairs(source, target)

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

    Args:
        Corpus:
        folder: Folder of the pairs. Files named train (or training), val (valid, validation, dev)
            and test (testing), in any case, are the splits. They may be in sub-folders with these
            names. Without such names, the folder must have one pair of files. Hidden files are
            ignored.
        source: Extension of the source files, such as de.
        target: Extension of the target files, such as en.
        **kwargs: Arguments of `FilePairs`.

    Raises:
        UserError: If the folder or a file is missing, if a file is empty, if the two files of a
            split differ in their number of lines, or if it is not clear which files are validation
            or test data.
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
        found = read_folder("data.folder", self.folder, self._role)
        if not found.splits["train"]:
            raise UserError(
                f"{self.folder / f'train.{self.source}'}: there is no such file; place the "
                "training pairs there"
            )
        pairs = {split: self._pair(split, paths) for split, paths in found.splits.items()}
        found.report(self.folder)
        return pairs

    def _role(self, path: Path) -> Role | None:
        """Return the name of a file without the extension of its language, and the language."""
        for language in (self.source, self.target):
            if path.name.lower().endswith(f".{language}".lower()):
                return Role(path.name[: -len(language) - 1], language)
        return None

    def _pair(self, split: str, paths: list[Path]) -> tuple[Path, Path]:
        """Return the source and the target file of a split.

        Raises:
            UserError: If the split does not have one file of each language, with equal names.
        """
        names: dict[str, str] = {}
        files: dict[str, Path] = {}
        for path in paths:
            role = self._role(path)
            assert role is not None  # `read_folder` returns only files with a role
            if role.group in files:
                raise UserError(
                    f"{files[role.group]} and {path} are both in the {split} split; join them, or "
                    "remove one"
                )
            files[role.group], names[role.group] = path, role.name
        for language in (self.source, self.target):
            if language not in files:
                (there,) = files.values()
                (name,) = names.values()
                raise UserError(
                    f"{there.with_name(f'{name}.{language}')}: there is no such file beside "
                    f"{there.name}; add it, or remove {there.name}"
                )
        source, target = files[self.source], files[self.target]
        if names[self.source].lower() != names[self.target].lower():
            raise UserError(
                f"{source} and {target} are both in the {split} split, but have different names; "
                "rename one, or remove both"
            )
        return source, target


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
    """Your own sentence pairs in a table with a source and a target column.

    The table is a `.tsv` of two tab-separated columns without a header, a `.jsonl` (one JSON object
    per line) or a `.parquet` file; the last one needs the package `pyarrow`. A `.tsv` or `.jsonl`
    may be compressed (`.gz`). Line breaks within a text of a `.jsonl` or `.parquet` table become
    spaces.

    Args:
        Corpus:
        path: A table, or a folder of tables. Tables named train (or training), val (valid,
            validation, dev) and test (testing), in any case, are the splits. They may be in
            sub-folders with these names. Without such names, the folder must have one table.
            Hidden files are ignored.
        columns: Names of the source and the target column of a `.jsonl` or `.parquet` table.
            Defaults to its two columns with text, in their order.
        **kwargs: Arguments of `FilePairs`.

    Raises:
        UserError: If a file is missing or empty, if a row does not have two texts, or if it is not
            clear which tables are validation or test data.
    """

    def __init__(self, path: str, columns: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path, self.columns = Path(path), columns
        if columns is not None and len(columns) != 2:
            raise UserError(
                f"data.columns {columns}: give two names, of the source and the target column"
            )

    def files(self) -> dict[str, tuple[Path, Path]]:
        if not self.path.exists():
            raise UserError(
                f"data.path {self.path}: there is no such table; give a .tsv, or a folder with "
                "train.tsv"
            )
        tables = {"train": [self.path]} if self.path.is_file() else self._folder()
        for split, paths in tables.items():
            if len(paths) > 1:
                raise UserError(
                    f"data.path {self.path}: {paths[0].name} and {paths[1].name} are both in the "
                    f"{split} split; join them, or name the splits train, val and test"
                )
        if self.columns is not None and not all(
            is_record_file(path) for (path,) in tables.values()
        ):
            raise UserError(
                f"data.columns {self.columns}: a .tsv has no names of columns; leave the option out"
            )
        return {split: (path, path) for split, (path,) in tables.items()}

    def _folder(self) -> dict[str, list[Path]]:
        """Return the tables of each split of a folder, and report what is left out."""
        found = read_folder("data.path", self.path, table_role)
        if not found.splits["train"]:
            raise UserError(
                f"data.path {self.path}: there is no table in it; give a .tsv, or a folder with "
                "train.tsv"
            )
        found.report(self.path)
        return found.splits

    def count(self, source: Path, target: Path) -> int:
        if not is_record_file(source):
            return count_pairs(source, target)
        return sum(1 for _ in self._records(source))

    def pairs(self, source: Lines) -> Iterator[tuple[str, str]]:
        rows = self._records if is_record_file(source.source) else tab_separated
        return itertools.islice(rows(source.source), source.first, source.last)

    def _records(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yield the pairs of a `.jsonl` or `.parquet` table, each text on one line."""
        for source, target in texts_of(path, columns_of(path, self.columns, 2, "data.columns")):
            yield " ".join(source.splitlines()), " ".join(target.splitlines())

    def where(self, split: str, line: int, side: int) -> str:
        part = self.split_sources[split]
        if not is_record_file(part.source):
            return super().where(split, line, side)
        return f"{part[side]} pair {part.first + line + 1}, {SIDES[side]}"

    def digest(self) -> str:
        return super().digest() + repr(self.columns or "")


def tab_separated(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a `.tsv` file.

    Raises:
        UserError: If a line does not have two columns.
    """
    for number, line in enumerate(read_lines(path), 1):
        columns = line.split("\t")
        if len(columns) != 2:
            raise UserError(
                f"{path} line {number}: has {len(columns)} columns; give the line two columns, "
                "separated by one tab"
            )
        yield columns[0], columns[1]


def table_role(path: Path) -> Role | None:
    """Return the role of a table by its name, or None for a file of another kind."""
    if text_suffix(path) == ".tsv":
        return Role(path.name[: path.name.lower().rindex(".tsv")])
    found = text_role(path)
    return found if found and is_record_file(path) else None
