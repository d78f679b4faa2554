"""What benchmarks of systems over tokens share: contenders in processes of their own, in turns, and
a table of ratios.
"""

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
    """What a contender's process prints last."""
    command = [sys.executable, script, "--contender", contender, "--steps", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    home = Path(script).parent.parent
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=home, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"error: {contender} failed: {done.stderr.strip().splitlines()[-1:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(
    script: str, what: str | None, contenders: Contenders, figure: str, steps: int, rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of one figure of "ours" and "plain", which train in turns, and all figures of the
    third contender, which writes.

    Args:
        script: that is run; as a contender's process it prints its figures here, and ends.
        what: its description.
        contenders: those three, by name.
        figure: of training.
        steps: of each training.
        rounds: how often each contender is measured.
    """
    parser = argparse.ArgumentParser(
        description=what, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contender", choices=list(contenders), help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=1)
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
    """What is compared, two figures, their ratio, and what it should be."""
    width = max(len(title) for title, *_ in rows) + 2
    print(f"{'':{width}}{'':20}{'ratio':>8}  target")
    for title, more, less, target in rows:
        print(f"{title:{width}}{more:10.2f}{less:10.2f}{more / less:8.2f}  {target}")
