"""Corpus of your own text files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from common.errors import UserError
from datamodules.cache import sha256
from datamodules.text.base import TextDataModule
from datamodules.text_files import read_shards


class TextFiles(TextDataModule):
    """Corpus of your own text files.

    Args:
        Corpus:
        path: A `.txt` file, or a folder of `.txt` files. If the folder has a `train.txt`, the
            splits are `train.txt` and, optionally, `test.txt` and `val.txt` (or `valid.txt`,
            `validation.txt`). Without a `train.txt`, all `.txt` files are sorted by name and
            joined with line breaks; no end-of-text tokens are added.
        **kwargs: Arguments of `TextDataModule`.

    Raises:
        UserError: If `path` does not exist or has no text, or if the file of a split is empty.
    """

    SPLIT_FILES: ClassVar = {
        "train": ("train",),
        "val": ("val", "valid", "validation"),
        "test": ("test",),
    }

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = Path(path)

    def sources(self) -> dict[str, list[Path]]:
        if not self.path.exists():
            raise UserError(
                f"data.path {self.path}: there is no such file or folder; give a .txt file or "
                "a folder of .txt files"
            )
        files = sorted(self.path.rglob("*.txt")) if self.path.is_dir() else [self.path]
        if not files or not any(path.stat().st_size for path in files):
            raise UserError(
                f"data.path {self.path}: is empty; give a .txt file with text, or a folder of .txt "
                "files"
            )
        named = {path.stem: path for path in files if path.parent == self.path}
        parts = {
            split: [named[name]]
            for split, names in self.SPLIT_FILES.items()
            for name in names
            if name in named
        }
        for path in (paths[0] for paths in parts.values()):
            if not path.stat().st_size:
                raise UserError(f"{path}: is empty; put text into it, or remove it")
        return parts if "train" in parts else {"train": files}

    def shards(self, source: list[Path]) -> Iterator[str]:
        """Yield the text of all files; insert a line break between two files if there is none."""
        last = "\n"
        for path in source:
            if last != "\n":
                yield "\n"
            for text in read_shards(path):
                yield text
                last = text[-1:] or last

    def digest(self) -> str:
        return repr(
            {
                split: [(path.name, sha256(path)) for path in paths]
                for split, paths in self.sources().items()
            }
        )
