"""Shared code of the benchmarks of token models: run contenders in turns and print ratios."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Contenders = dict[str, Callable[[int], dict[str, float]]]


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
