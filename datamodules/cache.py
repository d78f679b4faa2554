"""Cached folders of prepared data, each written once, by one process."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def token_folder(root: Path, settings: list[Any]) -> Path:
    """Return the cache folder of an encoded corpus, whose name is a hash of `settings`."""
    name = hashlib.blake2b(repr(settings).encode(), digest_size=12).hexdigest()
    return root / "tokens" / name


def make_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Create a folder and fill it by calling `write`, unless the folder already exists.

    One process writes to a temporary folder and renames it at the end; other processes wait.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return
        for leftover in folder.parent.glob(f"{folder.name}.tmp*"):  # left by a killed process
            shutil.rmtree(leftover)
        temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
        temporary.mkdir()
        try:
            write(temporary)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
