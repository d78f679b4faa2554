"""Default place of the files that `sample.py` writes: the run of the checkpoint."""

import argparse
import hashlib
import re
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.run import Run, run_of
from lightning_modules.core.checkpoints import read_checkpoint
from lightning_modules.core.exports import is_export

MAX_BYTES = 120  # of the name of a folder

# Options that do not change what is sampled, or that are parts of the names of the files.
NOT_NAMED = ("out", "seeds", "num", "seed", "device", "data")


def run_folder(checkpoint: Path) -> Path | None:
    """Return the directory of a checkpoint's run, or an export; None without a configuration."""
    run = Run(checkpoint) if is_export(checkpoint) else run_of(checkpoint)
    return run.path if run and run.config.is_file() else None


def output_folder(
    checkpoint: Path, parser: argparse.ArgumentParser, options: argparse.Namespace
) -> Path:
    """Return the folder for images if `--out` is not given: `<run>/samples/<name>`.

    The name has the file name and the number of updates of the checkpoint, and the options that
    differ from their defaults, such as `best-step4000-mode-interpolate`.

    Raises:
        UserError: If the checkpoint is in no run.
    """
    run = run_folder(checkpoint)
    if run is None:
        raise UserError(
            f"{checkpoint} is not in the folder checkpoints/ of a run; give --out DIR for the "
            "images"
        )
    step = read_checkpoint(checkpoint, weights=False).get("global_step", 0)
    words = [f"{checkpoint.stem}-step{step}"]
    for name, value in vars(options).items():
        if name not in NOT_NAMED and value != parser.get_default(name):
            words.append(f"{name}-{as_words(value)}")
    name = re.sub(r"[^\w.=-]+", "-", "-".join(words)).strip("-")
    if len(name.encode()) > MAX_BYTES:  # file systems allow 255 bytes
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = name.encode()[:MAX_BYTES].decode(errors="ignore") + f"-{digest}"
    return run / "samples" / name


def as_words(value: Any) -> str:
    """Return an option's value as a part of a file name; of a path, only its last part."""
    if isinstance(value, Path):
        return value.stem
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
