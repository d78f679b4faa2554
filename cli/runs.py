"""`train.py runs`: list runs with state, progress, best value, age and size."""

import argparse
import time
from pathlib import Path

from common.errors import UserError
from common.run import Run, runs_in

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def age(seconds: float) -> str:
    """Return a duration in its largest unit, such as "3 h"."""
    unit, size = next((one for one in UNITS if seconds >= one[1]), UNITS[-1])
    return f"{seconds / size:.0f} {unit}"


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 for a folder, and for a file that was just deleted."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def row(run: Run, folder: Path) -> tuple[str, ...]:
    """Return the cells of a run: path, state, updates, best value, age and size."""
    content = run.read()
    best = content.get("best")
    size = sum(size_of(path) for path in run.path.rglob("*"))
    return (
        run.path.relative_to(folder).as_posix(),
        content["state"],
        f"{content.get('step', 0):,}",
        f"{best['name']} {best['value']:.5g} at {best['step']:,}" if best else "",
        age(time.time() - content["updated"]),
        f"{size / 2**20:,.0f} MB",
    )


def run_list(argv: list[str]) -> str:
    """Return the table that `train.py runs [FOLDER]` prints.

    Raises:
        UserError: If the folder does not exist or holds no run.
    """
    parser = argparse.ArgumentParser(prog="train.py runs", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="default: runs")
    folder = parser.parse_args(argv).folder
    runs = [run for run in runs_in(folder) if "state" in run.read()]
    if not runs:
        raise UserError(f"{folder} holds no run; start one with `python train.py fit`")
    rows = [("run", "state", "updates", "best", "age", "size"), *(row(run, folder) for run in runs)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths)).rstrip()
        for cells in rows
    )
