"""Path of the repository's root, and atomic writing of files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def atomic_save(path: Path, write: Callable[[Any], None]) -> None:
    """Write a temporary file with `write`, then rename this file to `path`.

    If the process is killed meanwhile, `path` does not contain a partial file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
