"""Curves of a run, read from its CSV files and simplified for drawing."""

import csv
from pathlib import Path

import numpy as np

POINTS = 400  # maximum number of points of a curve; more are averaged in groups

Series = dict[str, tuple[np.ndarray, np.ndarray]]  # updates and values, keyed by name


def read_series(path: Path, prefix: str = "") -> Series:
    """Return the columns of a CSV file with a column `step`; empty and not finite cells are left
    out.
    """
    if not path.is_file():
        return {}
    columns: dict[str, list[tuple[int, float]]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if text and name != "step":
                    columns.setdefault(prefix + name, []).append((int(row["step"]), float(text)))
    series: Series = {}
    for name, pairs in columns.items():
        steps, values = np.array(pairs, dtype=float).T
        finite = np.isfinite(values)
        if finite.any():
            series[name] = steps[finite], values[finite]
    return series


def thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average a curve in groups of neighbours, so that at most `POINTS` points remain."""
    size = -(-len(values) // POINTS)
    starts = np.arange(0, len(values), size)
    counts = np.diff(np.append(starts, len(values)))
    return tuple(np.add.reduceat(one, starts) / counts for one in (steps, values))  # type: ignore[return-value]


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the running mean of a curve over a tenth of its length, centred."""
    half = max(1, len(values) // 20)
    total = np.cumsum(np.concatenate([[0.0], values]))
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
