"""Training speed of every system, compared with a plain loop of the same network: `make bench`.

Both contenders train the first recipe of a system on embedded data, with the same network,
optimizer, batches and learning rate schedule, in turns: every half second, plain makes as many
updates as ours has made.

- ours: `train.py fit` with the default callbacks and the CSV logger;
- plain: a loop over the same data loader, without Lightning, callbacks, seeds per batch, logging
  and checks, in its own process. As in any script, glibc returns freed memory to the system;
  `train.py` makes it keep the memory.

Neither validates or draws previews. Ours logs every 50 updates, as it does by default. The table
shows the speed of ours divided by the speed of plain, both over all turns, with a 95 % bootstrap
interval. The last column is the share of this machine's speed of matrix products that ours reaches.

The results are written to docs/speed.md, docs/speed.png and docs/speed.json. The exit code is 1
if the lower bound of a system is below 0.97.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.device_checks import first_recipes
from benchmarks.in_turns import silence
from benchmarks.plain_loop import PlainLoop

TARGET = 0.97  # smallest lower bound of a ratio that is not a regression
SECONDS = 0.5  # intended duration of a turn
MIN_UPDATES = 100  # measured updates of each contender, which are two logging intervals
WARM_UP = 50  # minimum number of updates before the first measurement


class PlainTurns(Callback):
    """Callback that lets a plain loop make as many updates as the run, in turns, and times both.

    Args:
        recipe: Path of the recipe.
        interval: Number of updates per turn.
        path: Path of the JSON file for the durations in seconds, one pair (ours, plain) each.
    """

    def __init__(self, recipe: str, interval: int, path: str) -> None:
        self.interval, self.path, self.update_periods = interval, Path(path), [interval]
        self.recipe = recipe
        self.pairs: list[tuple[float, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        command = [sys.executable, str(ROOT / "benchmarks/plain_loop.py"), self.recipe]
        self.plain = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        self._turn_of_plain()  # waits until the process has started
        self.begin = time.perf_counter()

    def _turn_of_plain(self) -> float:
        """Let the other process make updates, and return the seconds that they took."""
        assert self.plain.stdin is not None
        assert self.plain.stdout is not None
        print(self.interval, file=self.plain.stdin, flush=True)
        return float(self.plain.stdout.readline())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        if trainer.global_step % self.interval == 0:
            ours = time.perf_counter() - self.begin
            self.pairs.append((ours, self._turn_of_plain()))
            self.begin = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.plain.communicate()  # ends the process
        first = math.ceil(WARM_UP / self.interval)
        self.path.write_text(json.dumps(self.pairs[first:]), encoding="utf-8")


def durations(recipe: str, options: list[str], interval: int, pairs: int) -> list[list[float]]:
    """Run `train.py fit` with `PlainTurns`, and return pairs of seconds (ours, plain)."""
    from cli.training import TrainCLI

    with tempfile.TemporaryDirectory() as folder, silence():
        words = ["fit", "--config", str(ROOT / recipe), "--run_dir", f"{folder}/run", *options]
        updates = interval * (pairs + math.ceil(WARM_UP / interval))
        words += ["--trainer.max_steps", str(updates), "--trainer.max_epochs", "-1"]
        words += ["--trainer.limit_val_batches", "0", "--trainer.log_every_n_steps", "50"]
        words += ["--previews.every_n_train_steps", str(updates)]
        words += ["--trainer.callbacks+=benchmarks.systems.PlainTurns"]
        for name, value in (("recipe", recipe), ("interval", interval), ("path", f"{folder}/t")):
            words += [f"--trainer.callbacks.{name}", str(value)]
        TrainCLI(words)
        found: list[list[float]] = json.loads(Path(folder, "t").read_text(encoding="utf-8"))
    return found


def matrix_speed() -> float:
    """Return the speed of a product of two 1024 x 1024 matrices, in units of 1e9 operations/s."""
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begin)
    return 2 * 1024**3 / statistics.median(times) / 1e9


def compare(recipe: str, pairs: int) -> dict[str, Any]:
    """Measure both contenders in turns."""
    plain = PlainLoop(recipe)
    with silence():
        plain.start()
        plain.update()  # the first update allocates memory
        plain.update()
        pilot = 5 / plain.seconds(5)
        operations = plain.operations()
    interval = max(1, round(SECONDS * pilot))
    found = durations(
        recipe, plain.options, interval, max(pairs, math.ceil(MIN_UPDATES / interval))
    )
    return {
        "recipe": recipe,
        "gflop": operations,
        "interval": interval,
        **speeds(np.array(found), interval),
    }


def speeds(seconds: np.ndarray, updates: int) -> dict[str, float | int]:
    """Return statistics of pairs of durations (ours, plain), (pairs, 2), of some updates each.

    Returns:
        Speeds "ours" and "other" in updates per second; the ratio of both with the bounds "low" and
        "high" of its 95 % bootstrap interval over pairs; the number of "pairs".
    """
    ours, plain = seconds.sum(0)
    chosen = np.random.default_rng(0).integers(len(seconds), size=(2000, len(seconds)))
    totals = seconds[chosen].sum(1)
    low, high = np.percentile(totals[:, 1] / totals[:, 0], [2.5, 97.5])
    return {
        "ours": len(seconds) * updates / ours,
        "other": len(seconds) * updates / plain,
        "ratio": plain / ours,
        "low": float(low),
        "high": float(high),
        "pairs": len(seconds),
    }


def table(results: dict[str, Any]) -> str:
    """Format the results as the page docs/speed.md."""
    lines = [
        "# Speed on a CPU",
        "",
        "<!-- written by `make bench` -->",
        "`make bench` trains the first embedded recipe of each system, in turns with `train.py`",
        "and with a plain loop of the same network, optimizer and batches. The plain loop has no",
        "Lightning, callbacks, logging and checks. It runs in its own process, in which glibc",
        "returns freed memory to the system; `train.py` makes it keep the memory. Previews are",
        "switched off, because their number can be configured. A ratio above 1 means that",
        "`train.py` is",
        f"faster. Measured on {results['machine']}, PyTorch {results['torch']}; a product of two",
        f"matrices reaches {results['matrix']:.0f} GFLOP/s. The two take turns of half a second,",
        f"at least {min(one['pairs'] for one in results['systems'])} each.",
        "",
        "| Recipe | `train.py`, updates/s | plain | ratio (95 % interval) | of matrix speed |",
        "|---|---|---|---|---|",
    ]
    for one in results["systems"]:
        share = one["gflop"] * one["ours"] / results["matrix"]
        lines.append(
            f"| {one['recipe'].removeprefix('configs/').removesuffix('.yaml')} "
            f"| {one['ours']:.4g} | {one['other']:.4g} "
            f"| {one['ratio']:.2f} ({one['low']:.2f}–{one['high']:.2f}) | {share:.0%} |"
        )
    lines += ["", "![Ratio of speeds with its interval](speed.png)", ""]
    if results.get("peers"):
        lines += [
            "## Other libraries and loops",
            "",
            "`benchmarks/peers.py` describes each row. Speeds are updates per second; for the",
            "Transformer, they are tokens of the target language per second. Each ratio is the",
            f"median of {results['peers'][0]['pairs']} pairs of runs in turns. `make bench` fails",
            "if a ratio is below the required one.",
            "",
            "| Compared | `train.py` | other | ratio (95 % interval) | required ratio |",
            "|---|---|---|---|---|",
        ]
    for one in results.get("peers", []):
        lines.append(
            f"| {one['title']} | {one['ours']:.4g} | {one['other']:.4g} "
            f"| {one['ratio']:.2f} ({one['low']:.2f}–{one['high']:.2f}) | {one['target']} |"
        )
    return "\n".join([*lines, ""] if results.get("peers") else lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the ratios with their intervals."""
    from matplotlib.figure import Figure

    rows = results["systems"][::-1]
    figure = Figure((7, 0.35 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    middle = [one["ratio"] for one in rows]
    errors = [
        [one["ratio"] - one["low"] for one in rows],
        [one["high"] - one["ratio"] for one in rows],
    ]
    axes.errorbar(middle, range(len(rows)), xerr=errors, fmt="o", capsize=3)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_yticks(range(len(rows)), [one["recipe"].split("/")[1] for one in rows])
    axes.set_xlabel("speed of train.py / speed of a plain loop")
    figure.savefig(path, dpi=100)


def write_results(results: dict[str, Any], folder: Path) -> None:
    """Write speed.json, speed.md and speed.png."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    (folder / "speed.json").write_text(text, encoding="utf-8")
    (folder / "speed.md").write_text(table(results), encoding="utf-8")
    draw(results, folder / "speed.png")


def main() -> None:
    """Compare all systems and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=30, help="minimum number of turns per system")
    names = [recipe.split("/")[1] for recipe in first_recipes()]
    parser.add_argument(
        "--systems",
        nargs="+",
        default=names,
        choices=names,
        help="systems to measure (default: all); the values of others are kept",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the results")
    options = parser.parse_args()
    processor = platform.processor() or platform.machine()
    results: dict[str, Any] = {
        "machine": f"{os.cpu_count()} CPU cores ({processor})",
        "torch": torch.__version__.partition("+")[0],
        "matrix": matrix_speed(),
    }
    path = options.out / "speed.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results["peers"] = before.get("peers", [])
    rows = {one["recipe"]: one for one in before.get("systems", [])}
    measured = [recipe for recipe in first_recipes() if recipe.split("/")[1] in options.systems]
    for recipe in measured:
        rows[recipe] = one = compare(recipe, options.pairs)
        print(
            f"{recipe:40} ours {one['ours']:8.2f}/s  plain {one['other']:8.2f}/s  "
            f"ratio {one['ratio']:.3f} ({one['low']:.3f} to {one['high']:.3f})",
            flush=True,
        )
    results["systems"] = [rows[recipe] for recipe in first_recipes() if recipe in rows]
    write_results(results, options.out)
    slow = [recipe for recipe in measured if rows[recipe]["low"] < TARGET]
    if slow:
        sys.exit(f"slower than {TARGET} of the plain loop: {', '.join(slow)}")


if __name__ == "__main__":
    main()
