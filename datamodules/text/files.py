"""Corpus of your own text files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from datamodules.cache import sha256
from datamodules.splits import split_named
from datamodules.text.base import TextDataModule
from datamodules.text.documents import columns_of, texts_of
from datamodules.text_files import read_shards
from datamodules.text_folders import Role, read_folder
from datamodules.usage_report import report_usage

PLAIN = (".txt", ".text", ".md")
RECORDS = (".jsonl", ".json", ".parquet", ".arrow")
KINDS_OF_FILES = ".txt, .text, .md, .jsonl or .parquet"


class TextFiles(TextDataModule):
    """Corpus of your own text files.

    Plain text is `.txt`, `.text` or `.md`. Records are `.jsonl` (one JSON object per line),
    `.parquet`, or a folder that `save_to_disk` of Hugging Face `datasets` wrote; the last two need
    the package `pyarrow`. All files of a corpus are of one kind. Text files and `.jsonl` may be
    compressed (`.gz`). Suffixes may be in any case.

    Files are joined in the order of their names, with a line break after a file that ends without
    one. The documents of record files are joined in the same way; no end-of-text tokens are added.
    If `batching` is `records`, each non-empty line of plain text is an example, and so is each
    non-empty document of a record file, line breaks included.

    Args:
        Corpus:
        path: A text file, or a folder of text files. Files or sub-folders named train (or
            training), val (valid, validation, dev) and test (testing), in any case, are the splits.
            Without such names, all text files in the folder and its sub-folders are the corpus. A
            single file of any name is the corpus. Hidden files are ignored.
        column: Name of the text column of record files. Defaults to the only column with text.
        **kwargs: Arguments of `TextDataModule`.

    Raises:
        UserError: If `path` does not exist or has no text, if the file of a split is empty, or if
            it is not clear which files are validation or test data.
    """

    def __init__(self, path: str, column: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path, self.column = Path(path), column

    def sources(self) -> dict[str, list[Path]]:
        if not self.path.exists():
            raise UserError(
                f"data.path {self.path}: there is no such file or folder; give a text file "
                f"({KINDS_OF_FILES}), or a folder of them"
            )
        if self.path.is_dir():
            splits = saved_data_set(self.path) or self._folder()
        elif filled(self.path):
            splits = {"train": [self.path]}
        else:
            raise UserError(
                f"data.path {self.path}: is empty; give a text file ({KINDS_OF_FILES}) with text, "
                "or a folder of them"
            )
        self._check_kinds([path for paths in splits.values() for path in paths])
        return splits

    def _folder(self) -> dict[str, list[Path]]:
        """Return the text files of each split of a folder, and report what is left out.

        Raises:
            UserError: If the folder has no text files, or if all files of a split are empty.
        """
        found = read_folder("data.path", self.path, text_role)
        if not found.splits["train"]:
            others = sorted({path.suffix for path in found.left_out["of another kind"]} - {""})
            raise UserError(
                f"data.path {self.path}: has no text file ({KINDS_OF_FILES})"
                + (f", only {', '.join(others)}" if others else "")
                + "; add text files"
            )
        found.left_out["empty"] = []
        for paths in found.splits.values():
            empty = [path for path in paths if not filled(path)]
            if len(empty) == len(paths):
                raise UserError(f"{empty[0]}: is empty; put text into it, or remove it")
            found.left_out["empty"] += empty
            paths[:] = filter(filled, paths)
        found.report(self.path)
        return found.splits

    def _check_kinds(self, paths: list[Path]) -> None:
        """Check that a corpus does not mix plain text and records.

        Raises:
            UserError: If it does, or if `column` is given for plain text.
        """
        plain = [path for path in paths if not is_record_file(path)]
        if plain and len(plain) < len(paths):
            table = next(path for path in paths if is_record_file(path))
            raise UserError(
                f"data.path {self.path}: has both text ({plain[0].name}) and records "
                f"({table.name}); keep one kind, or give the path of one file"
            )
        if plain and self.column is not None:
            raise UserError(
                f"data.column {self.column}: {plain[0]} is plain text without columns; leave the "
                "option out"
            )

    def shards(self, source: list[Path]) -> Iterator[str]:
        """Yield the text of all files; insert a line break between two texts if there is none."""
        last = "\n"
        for path in source:
            for text in self._documents(path):
                if last != "\n":
                    yield "\n"
                for shard in text:
                    yield shard
                    last = shard[-1:] or last

    def _documents(self, path: Path) -> Iterator[Iterator[str]]:
        """Yield the texts of a file, each in shards: its documents, or the whole file."""
        if not is_record_file(path):
            yield read_shards(path)
            return
        wanted = None if self.column is None else [self.column]
        for (text,) in texts_of(path, columns_of(path, wanted, 1, "data.column")):
            if text.strip():
                yield iter([text])

    def examples(self, source: list[Path]) -> Iterator[str]:
        if not any(map(is_record_file, source)):
            yield from super().examples(source)
            return
        for path in source:
            for text in self._documents(path):
                yield f"{''.join(text)}\n"

    def digest(self) -> str:
        content = {
            split: [(path.name, sha256(path)) for path in paths]
            for split, paths in self.split_sources.items()
        }
        return repr(content if self.column is None else [content, self.column])


def filled(path: Path) -> bool:
    """Return whether a file has at least one byte."""
    return path.stat().st_size > 0


def is_record_file(path: Path) -> bool:
    """Return whether a file consists of records, by its name."""
    return text_suffix(path) in RECORDS


def text_suffix(path: Path) -> str:
    """Return the suffix of a file in lower case, without a final `.gz`."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.suffix.lower()


def text_role(path: Path) -> Role | None:
    """Return the role of a text file by its name, or None for a file of another kind.

    A `.json` file counts only if it has the name of a split, because folders of text often have
    `.json` files with settings. `.arrow` files belong to folders of Hugging Face `datasets`.
    """
    suffix = text_suffix(path)
    compressed = path.suffix.lower() == ".gz"
    name = path.with_suffix("").stem if compressed else path.stem
    if compressed and suffix == ".parquet":
        return None
    if suffix in (*PLAIN, ".jsonl", ".parquet") or (suffix == ".json" and split_named(name)):
        return Role(name)
    return None


def saved_data_set(folder: Path) -> dict[str, list[Path]] | None:
    """Return the files of each split of a data set that Hugging Face `datasets` saved to a folder.

    Returns:
        Arrow files of the splits; None if the folder is not such a data set.

    Raises:
        UserError: If the data set has no training split, or if a file is damaged.
    """
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return {"train": arrow_files(folder)}
    if not (folder / "dataset_dict.json").is_file():
        return None
    names = saved_json(folder / "dataset_dict.json", "splits")
    splits: dict[str, list[Path]] = {}
    others = []
    for name in names:
        split = split_named(name)
        if split in splits:
            raise UserError(f"{folder}: has two {split} splits ({', '.join(names)}); remove one")
        if split is None:
            others.append(folder / name)
        else:
            splits[split] = arrow_files(folder / name)
    if "train" not in splits:
        raise UserError(
            f"data.path {folder}: has the splits {', '.join(names)}, but none is named train; give "
            "the folder of the training split"
        )
    report_usage(str(folder), len(names), len(splits), {"not named as a split": others}, "splits")
    return splits


def arrow_files(folder: Path) -> list[Path]:
    """Return the data files of a data set that Hugging Face `datasets` saved to a folder."""
    files = [
        folder / entry["filename"] for entry in saved_json(folder / "state.json", "_data_files")
    ]
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: is missing from the data set; save the data set again")
    return files


def saved_json(path: Path, key: str) -> list[Any]:
    """Return a list from a JSON file of a saved data set.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        found: list[Any] = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); save the data set again") from error
    return found
