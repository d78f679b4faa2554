"""One rule for folders of text: which files are training, validation and test data.

A file or a folder that stands directly in the corpus folder and has the name of a split
(train/training, val/valid/validation/dev, test/testing, in any case) is this split. If there are no
such names, all text files of the folder and its sub-folders are the corpus. Hidden files and
folders are ignored. Files that may be validation or test data but are not named by the rule are
refused, because a run would train on them.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from datamodules.splits import split_named
from datamodules.usage_report import report_usage

# Numbered parts of one table, named as by Hugging Face: train-00000-of-00002.parquet.
PART = re.compile(r"(.+)-(\d+)-of-(\d+)")


class Role(NamedTuple):
    """Split and language in the name of a text file.

    Attributes:
        name: Name without the extension, which may be the name of a split.
        group: Kind of file, of which a split has one: "" for a corpus of one file per split, or the
            language of a parallel corpus.
    """

    name: str
    group: str = ""


class TextFolder(NamedTuple):
    """Text files of a folder.

    Attributes:
        splits: Text files of each split, sorted. Without names of splits, all files are "train".
        named: Whether files or folders have the names of splits.
        found: Number of files that were found.
        left_out: Files that are not used, keyed by the reason.
    """

    splits: dict[str, list[Path]]
    named: bool
    found: int
    left_out: dict[str, list[Path]]

    def report(self, folder: Path) -> None:
        """Print one line on stderr: how many files are used, and which are left out."""
        shares = [f"{split} {len(paths)}" for split, paths in self.splits.items() if self.named]
        name = f"{folder} ({', '.join(shares)})" if shares else str(folder)
        report_usage(name, self.found, sum(map(len, self.splits.values())), self.left_out)


def read_folder(option: str, folder: Path, role: Callable[[Path], Role | None]) -> TextFolder:
    """Find the text files of a folder and assign them to splits.

    Args:
        option: Option that names the folder, such as "data.path".
        folder: Folder of the corpus.
        role: Function that returns the role of a file, or None if it is not text of this corpus.

    Raises:
        UserError: If two files stand for the same split, if there is validation or test data but no
            training data, if a file belongs to two splits, or if a file that would be trained on
            may be validation or test data.
    """
    left_out: dict[str, list[Path]] = {}
    files = walk(folder, left_out)
    roles = {path: found for path in files if (found := role(path)) is not None}
    other = [path for path in files if path not in roles]
    splits: dict[str, dict[tuple[str, str], list[Path]]] = {}
    unnamed = []
    for path, found in roles.items():
        top = path.relative_to(folder).parts[0]
        part = PART.fullmatch(found.name)
        name = top if path.parent != folder else part[1] if part else found.name
        split = split_named(name)
        # Files of one split must have one entry: one folder, one file, or the parts of one table.
        entry = name if part or path.parent != folder else path.name
        if split is None:
            unnamed.append(path)
        else:
            splits.setdefault(split, {}).setdefault((found.group, entry), []).append(path)
    for split, entries in splits.items():
        check_entries(folder, split, entries)
    if splits and "train" not in splits:
        held_out = " and ".join(sorted(entry for part in splits.values() for _, entry in part))
        raise UserError(
            f"{option} {folder}: has {held_out}, but no training data; name the training data train"
        )
    chosen = {
        split: sorted(path for paths in entries.values() for path in paths)
        for split, entries in sorted(splits.items(), key=lambda item: item[0] != "train")
    } or {"train": sorted(unnamed)}
    check_training(option, folder, chosen["train"], roles)
    left_out["of another kind"] = other
    left_out["not named as a split"] = unnamed if splits else []
    check_links(chosen, left_out)
    return TextFolder(
        chosen, bool(splits), sum(map(len, chosen.values())) + sum(map(len, left_out.values())),
        left_out,
    )  # fmt: skip


def walk(folder: Path, left_out: dict[str, list[Path]]) -> list[Path]:
    """Return the files of a folder and of its sub-folders, links included.

    Hidden files and folders, broken links, and links to a folder that was already visited are added
    to `left_out`.
    """
    files, visited = [], set()
    left_out |= {"hidden": [], "broken or repeated links": []}

    def stop(error: OSError) -> None:
        raise error

    for here, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        visited.add(os.path.realpath(here))
        for name in sorted(folders + names):
            path = Path(here, name)
            if name.startswith("."):
                left_out["hidden"].append(path)
            elif name in folders:
                if path.is_symlink() and os.path.realpath(path) in visited | parents(folder):
                    left_out["broken or repeated links"].append(path)
                    folders.remove(name)
            elif path.is_file():
                files.append(path)
            else:
                left_out["broken or repeated links"].append(path)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return files


def parents(folder: Path) -> set[str]:
    """Return the real path of a folder and of the folders that contain it."""
    real = Path(os.path.realpath(folder))
    return {str(real), *map(str, real.parents)}


def check_entries(folder: Path, split: str, entries: dict[tuple[str, str], list[Path]]) -> None:
    """Check that a split has one file of each group, or all parts of one table.

    Raises:
        UserError: If two files or folders stand for the split, or if a part of a table is missing.
    """
    groups: dict[str, str] = {}
    for group, entry in entries:
        if group in groups:
            raise UserError(
                f"{folder / groups[group]} and {folder / entry} are both the {split} split; rename "
                "or remove one"
            )
        groups[group] = entry
    for (_, entry), paths in entries.items():
        parts = [PART.match(path.name) for path in paths]
        if paths[0].parent == folder and parts[0] and len(parts) != int(parts[0][3]):
            raise UserError(
                f"{folder / entry}-*: {len(parts)} of {int(parts[0][3])} parts are there; add the "
                "others"
            )


def check_training(option: str, folder: Path, train: list[Path], roles: dict[Path, Role]) -> None:
    """Check that the names of training files do not suggest validation or test data.

    Raises:
        UserError: If a file or a folder is named like ptb.test.txt, or stands deeper in the folder
            than the names of splits.
    """
    for path in train:
        for name in (*path.relative_to(folder).parts[:-1], roles[path].name):
            words = [word for word in re.split(r"[\W\d_]+", name) if word]
            held_out = {split_named(word) for word in (*words[:1], *words[-1:])} - {None, "train"}
            if held_out:
                raise UserError(
                    f"{option} {folder}: {path} may be {held_out.pop()} data, and would be trained "
                    f"on; name the splits train, val and test directly in {folder}, or rename or "
                    "remove it"
                )


def check_links(splits: dict[str, list[Path]], left_out: dict[str, list[Path]]) -> None:
    """Leave out files that occur twice in a split through links.

    Raises:
        UserError: If a file belongs to two splits.
    """
    seen: dict[str, tuple[str, Path]] = {}
    for split, paths in splits.items():
        for path in list(paths):
            before = seen.setdefault(os.path.realpath(path), (split, path))
            if before[0] != split:
                raise UserError(
                    f"{before[1]} and {path} are the same file, in the {before[0]} and the {split} "
                    "split; remove one"
                )
            if before[1] != path:
                paths.remove(path)
                left_out["broken or repeated links"].append(path)
