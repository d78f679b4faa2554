"""Shared code of the benchmarks: run contenders in turns, and compute or print ratios."""

import argparse
import contextlib
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Contenders = dict[str, Callable[[int], dict[str, float]]]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard what a program prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def throughput(
    config: dict[str, Any], warm_up: int, updates: int, options: Sequence[str] = ()
) -> list[dict[str, float]]:
    """Train with `train.py fit`, without validation and previews.

    Args:
        config: Configuration of the run.
        warm_up: Number of updates that are not measured.
        updates: Number of updates that are measured.
        options: Further options of `train.py fit`.

    Returns:
        Rows of `throughput.csv` after the warm-up, one per logging interval.
    """
    import train

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(json.dumps(config), encoding="utf-8")
        steps = str(warm_up + updates)
        words = ["--config", str(path), "--run_dir", f"{folder}/run", "--trainer.max_steps", steps]
        words += ["--trainer.max_epochs", "-1", "--trainer.limit_val_batches", "0"]
        words += ["--previews.every_n_train_steps", str(10 * (warm_up + updates)), *options]
        if code := train.main(["fit", *words]):
            sys.exit(code)
        with open(f"{folder}/run/throughput.csv", encoding="utf-8") as file:
            rows = [dict(zip(row, map(float, row.values()))) for row in csv.DictReader(file)]
    return [row for row in rows if row["step"] > warm_up]


def data_of(config: dict[str, Any]) -> Any:
    """Return the data module of a configuration, with its data prepared."""
    from cli.data import data_module

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(json.dumps(config), encoding="utf-8")
        return data_module(path)


def alternate(
    ours: Callable[[], float], other: Callable[[], float], pairs: int
) -> dict[str, float | int]:
    """Measure two speeds in turns in this process.

    Args:
        ours: Function that measures and returns the speed of this template.
        other: Function that measures and returns the speed of the other contender.
        pairs: Number of measurements of each.

    Returns:
        What `statistics_of` returns.
    """
    found: dict[str, list[float]] = {"ours": [], "other": []}
    turns = [("ours", ours), ("other", other)]
    for number in range(pairs):
        for name, contender in turns[:: 1 if number % 2 else -1]:
            with silence():
                found[name].append(contender())
    return statistics_of(found["ours"], found["other"])


def statistics_of(ours: list[float], other: list[float]) -> dict[str, float | int]:
    """Return statistics of pairs of speeds.

    Returns:
        Medians "ours" and "other" of the speeds; the median "ratio" of the pairs, with the bounds
        "low" and "high" of its 95 % bootstrap interval; the number of "pairs".
    """
    ratios = [one / another for one, another in zip(ours, other, strict=True)]
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, 1), [2.5, 97.5])
    return {
        "ours": statistics.median(ours),
        "other": statistics.median(other),
        "ratio": statistics.median(ratios),
        "low": float(low),
        "high": float(high),
        "pairs": len(ratios),
    }


def measure(script: str, contender: str, count: int, threads: int) -> dict[str, float]:
    """Run a contender in its own process and return the values that it prints last."""
    command = [sys.executable, script, "--contender", contender, "--steps", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    home = Path(script).parent.parent
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", cwd=home, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"error: {contender} failed: {done.stderr.strip().splitlines()[-1:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(
    script: str, what: str | None, contenders: Contenders, figure: str, steps: int, rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Measure three contenders: two that train, in turns, and one that generates.

    In the process of a contender, this function prints its values and exits.

    Args:
        script: Path of the benchmark script, which runs once per measurement.
        what: Description of the script for `--help`.
        contenders: Contenders by name, in the order ours, plain, generation.
        figure: Name of the value that is compared in training.
        steps: Default number of timed training steps.
        rounds: Default number of measurements of each contender.

    Returns:
        Median of `figure` for each training contender, and all values of the generating one.
    """
    parser = argparse.ArgumentParser(
        description=what, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contender", choices=list(contenders), help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=steps, help="timed training steps")
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each contender")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each contender")
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(contenders[options.contender](options.steps)))
        sys.exit()
    ours, plain, writing = contenders
    runs: dict[str, list[float]] = {ours: [], plain: []}
    for _ in range(options.rounds):
        for name, found in runs.items():
            found.append(measure(script, name, options.steps, options.threads)[figure])
    medians = {name: statistics.median(found) for name, found in runs.items()}
    return medians, measure(script, writing, options.rounds, options.threads)


def print_table(rows: Sequence[tuple[str, float, float, str]]) -> None:
    """Print rows of a title, two values, their ratio and its target."""
    width = max(len(title) for title, *_ in rows) + 2
    print(f"{'':{width}}{'':20}{'ratio':>8}  target")
    for title, more, less, target in rows:
        print(f"{title:{width}}{more:10.2f}{less:10.2f}{more / less:8.2f}  {target}")
