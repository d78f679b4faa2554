"""Training speed of every system, compared with a plain loop of the same network: `make bench`.

Both contenders train the first recipe of a system on embedded data, with the same network,
optimizer, batches and learning rate schedule, in turns in one process: after each logging interval
of ours, plain makes the same number of updates.

- ours: `train.py fit` with the default callbacks and the CSV logger;
- plain: a loop over the same data loader, without Lightning, callbacks, seeds per batch, logging
  and checks.

Neither validates. The ratio of a pair of intervals is the speed of ours divided by the speed of
plain. The table shows the median of the ratios and a 95 % bootstrap interval of this median. The
last column is the share of this machine's speed of matrix products that ours reaches.

The results are written to docs/speed.md, docs/speed.png and docs/speed.json. The exit code is 1
if the lower bound of a system is below 0.97.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.device_checks import Settings, class_of, first_recipes, small_options
from benchmarks.in_turns import silence, statistics_of
from cli.classes import init_parameters
from cli.data import data_module
from lightning_modules.core.adversarial import AdversarialModule
from lightning_modules.core.modes import frozen

TARGET = 0.97  # smallest lower bound of a ratio that is not a regression
SECONDS = 0.5  # intended duration of a logging interval
MAX_INTERVAL = 50  # updates per logging interval; fewer if an update is long
WARM_UP = 3  # intervals before the first measurement


class PlainLoop:
    """Hand-written training loop of one recipe.

    Args:
        recipe: Path of the recipe.
    """

    def __init__(self, recipe: str) -> None:
        config = yaml.safe_load((ROOT / recipe).read_text(encoding="utf-8"))
        self.options = small_options(recipe, Settings(tiny=False))
        nested = dict(zip(self.options[::2], map(json.loads, self.options[1::2])))
        self.data = data_module(ROOT / recipe)
        kind = class_of(config["model"]["class_path"])
        arguments = dict(config["model"].get("init_args", {}))
        arguments |= {name.removeprefix("--model."): value for name, value in nested.items()}
        wanted = init_parameters(kind)
        spec = {name: value for name, value in self.data.data_spec.items() if name in wanted}
        self.clip = config.get("trainer", {}).get("gradient_clip_val")
        self.make = lambda: kind(**self._built(wanted, arguments), **spec)
        self.steps = config.get("trainer", {}).get("max_steps") or 10_000
        self.state = SimpleNamespace()

    @staticmethod
    def _built(wanted: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments; functions that build optimizers and schedules are left out."""
        return {
            name: value
            for name, value in arguments.items()
            if not name.endswith(("_optimizer", "_schedule"))
        }

    def start(self) -> None:
        """Create an untrained network, its optimizers and an iterator of batches."""
        torch.manual_seed(0)
        self.model = self.make()
        self.model.trainer = self.trainer = SimpleNamespace(  # what systems read in training
            global_step=0,
            estimated_stepping_batches=self.steps,
            world_size=1,
            global_rank=0,
            is_global_zero=True,
            accumulate_grad_batches=1,
            datamodule=self.data,
            strategy=SimpleNamespace(
                all_gather=lambda tensor, **options: tensor,
                reduce=lambda tensor, **options: tensor,
            ),
            training=True,
        )
        self.model.log_train = lambda **values: None
        self.model.train()
        found = self.model.configure_optimizers()
        optimizers, schedules = found if isinstance(found, tuple) else (found, [])
        self.optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        self.schedules = [one["scheduler"] if isinstance(one, dict) else one for one in schedules]
        self.batches = self._batches()

    def _batches(self) -> Iterator[dict[str, Any]]:
        loader = self.data.loader("train", shuffle=True)
        while True:
            for batch in loader:
                yield self.data.transform(batch, training=True)

    def update(self) -> None:
        """Make one update."""
        batch, model = next(self.batches), self.model
        if isinstance(model, AdversarialModule):
            self._adversarial(batch)
        else:
            loss = model.loss(batch)["loss"]
            self.optimizers[0].zero_grad()
            loss.backward()
            if self.clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), self.clip)
            self.optimizers[0].step()
            model.update_ema(self.trainer.global_step + 1)
        for schedule in self.schedules:
            schedule.step()
        self.trainer.global_step += 1

    def _adversarial(self, batch: dict[str, Any]) -> None:
        model, (generator, discriminator) = self.model, self.optimizers
        generated = model.generate(batch)
        detached = torch.utils._pytree.tree_map(lambda value: value.detach(), generated)
        discriminator.zero_grad()
        model.discriminator_loss(batch, detached)["loss"].backward()
        discriminator.step()
        if (self.trainer.global_step + 1) % model.n_critic == 0:
            generator.zero_grad()
            with frozen(model.discriminator):
                model.generator_loss(batch, generated)["loss"].backward()
            generator.step()
            model.update_ema(self.trainer.global_step + 1)

    def seconds(self, updates: int) -> float:
        """Make updates and return the time that they took."""
        begin = time.perf_counter()
        for _ in range(updates):
            self.update()
        return time.perf_counter() - begin

    def operations(self) -> float:
        """Return the floating-point operations of one update, in units of 1e9."""
        with FlopCounterMode(display=False) as counter:
            self.update()
        return counter.get_total_flops() / 1e9


class PlainTurns(Callback):
    """Callback that runs a plain loop after each logging interval, and times both.

    Args:
        recipe: Path of the recipe.
        interval: Number of updates per interval.
        path: Path of the JSON file for the durations in seconds, one pair (ours, plain) each.
    """

    def __init__(self, recipe: str, interval: int, path: str) -> None:
        self.interval, self.path, self.update_periods = interval, Path(path), [interval]
        self.plain = PlainLoop(recipe)
        self.pairs: list[tuple[float, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.plain.start()
        self.begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        if trainer.global_step % self.interval == 0:
            ours = time.perf_counter() - self.begin
            self.pairs.append((ours, self.plain.seconds(self.interval)))
            self.begin = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path.write_text(json.dumps(self.pairs[WARM_UP:]), encoding="utf-8")


def durations(recipe: str, options: list[str], interval: int, pairs: int) -> list[list[float]]:
    """Run `train.py fit` with `PlainTurns`, and return pairs of seconds (ours, plain)."""
    from cli.training import TrainCLI

    with tempfile.TemporaryDirectory() as folder, silence():
        words = ["fit", "--config", str(ROOT / recipe), "--run_dir", f"{folder}/run", *options]
        words += ["--trainer.max_steps", str(interval * (pairs + WARM_UP))]
        words += ["--trainer.max_epochs", "-1", "--trainer.limit_val_batches", "0"]
        words += ["--trainer.log_every_n_steps", str(interval)]
        words += ["--previews.every_n_train_steps", "1000"]  # as in a run of 10,000 updates
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
        plain.update()  # DALL-E encodes all images first
        plain.update()
        pilot = 5 / plain.seconds(5)
        operations = plain.operations()
    interval = max(2, min(MAX_INTERVAL, round(SECONDS * pilot)))
    found = durations(recipe, plain.options, interval, pairs)
    return {
        "recipe": recipe,
        "gflop": operations,
        "interval": interval,
        **statistics_of([interval / one for one, _ in found], [interval / two for _, two in found]),
    }


def table(results: dict[str, Any]) -> str:
    """Format the results as the page docs/speed.md."""
    lines = [
        "# Speed on a CPU",
        "",
        "<!-- written by `make bench` -->",
        "`make bench` trains the first embedded recipe of each system, in turns with `train.py`",
        "and with a plain loop of the same network, optimizer and batches. The plain loop has no",
        "Lightning, callbacks, logging and checks. A ratio above 1 means that `train.py` is",
        f"faster. Measured on {results['machine']}, PyTorch {results['torch']}; a product of two",
        f"matrices reaches {results['matrix']:.0f} GFLOP/s. Each ratio is the median of",
        f"{results['systems'][0]['pairs']} pairs of intervals.",
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
            "`benchmarks/peers.py` describes each row. Speeds are updates per second, and target",
            f"tokens per second for the Transformer; {results['peers'][0]['pairs']} pairs.",
            "",
            "| Compared | `train.py` | other | ratio (95 % interval) | target |",
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
    parser.add_argument("--pairs", type=int, default=20, help="pairs of intervals per system")
    parser.add_argument("--systems", nargs="+", help="systems to measure; all if not given")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the results")
    options = parser.parse_args()
    processor = platform.processor() or platform.machine()
    results: dict[str, Any] = {
        "machine": f"{os.cpu_count()} CPU cores ({processor})",
        "torch": torch.__version__.partition("+")[0],
        "matrix": matrix_speed(),
        "systems": [],
    }
    if (before := options.out / "speed.json").exists():
        results["peers"] = json.loads(before.read_text(encoding="utf-8")).get("peers", [])
    for recipe in first_recipes():
        if options.systems and recipe.split("/")[1] not in options.systems:
            continue
        one = compare(recipe, options.pairs)
        results["systems"].append(one)
        print(
            f"{recipe:40} ours {one['ours']:8.2f}/s  plain {one['other']:8.2f}/s  "
            f"ratio {one['ratio']:.3f} ({one['low']:.3f} to {one['high']:.3f})",
            flush=True,
        )
    write_results(results, options.out)
    slow = [one["recipe"] for one in results["systems"] if one["low"] < TARGET]
    if slow:
        sys.exit(f"slower than {TARGET} of the plain loop: {', '.join(slow)}")


if __name__ == "__main__":
    main()
