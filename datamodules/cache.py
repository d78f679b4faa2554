"""Folders of prepared corpora: written once, by one process, under the hash of their content."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def token_folder(root: Path, settings: list[Any]) -> Path:
    """Folder of an encoded corpus, named by the hash of everything that its content depends on."""
    name = hashlib.blake2b(repr(settings).encode(), digest_size=12).hexdigest()
    return root / "tokens" / name


def make_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder, once, which appears when it is whole; other processes wait for
    the one that does.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return
        for leftover in folder.parent.glob(f"{folder.name}.tmp*"):  # of a process that was killed
            shutil.rmtree(leftover)
        temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
        temporary.mkdir()
        try:
            write(temporary)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
