"""Sweeps: train a recipe with each combination of values, and compare the results.

A sweep is a file `configs/_sweep/<name>.yaml` in the format of Weights & Biases. The options with
several values form the grid. Options with one value are the same in each run.
"""

import argparse
import csv
import io
import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock

from cli.options import number
from cli.recipes import purpose
from cli.reproduction import training_minutes
from common.errors import UserError
from common.files import ROOT, atomic_save
from common.run import Run

SWEEPS, RUNS = ROOT / "configs/_sweep", ROOT / "runs" / "sweep"

Point = dict[str, str]  # one value per parameter

# Parameters that set an option of both networks of a GAN: the options, and the form of the value.
OF_BOTH = {
    "lr": ("model.generator_optimizer.lr", "model.discriminator_optimizer.lr", "{}"),
    "beta1": (
        "model.generator_optimizer.betas",
        "model.discriminator_optimizer.betas",
        "[{},0.999]",
    ),
}


# Options of train.py that sweep.py passes to each run: the form of the value, and the help text.
LOGGING = {
    "wandb.project": ("NAME", "Also log to this Weights & Biases project."),
    "wandb.group": ("NAME", "Group of the runs (default: their folder, such as sweep/{})."),
    "wandb.tags": ("LIST", "Tags of the runs, in the form [a,b]."),
    "wandb.notes": ("TEXT", "Description of the runs."),
    "wandb.artifacts": ("true", "Save the checkpoints and samples of each run in W&B."),
}


class Sweep(NamedTuple):
    """Content of a file `configs/_sweep/<name>.yaml`.

    Attributes:
        name: Name of the file without suffix.
        text: Comment at the start of the file.
        metric: Name of the value that the runs are compared by.
        maximize: Whether a larger value is better.
        values: Values of each parameter.
    """

    name: str
    text: str
    metric: str
    maximize: bool
    values: dict[str, list[Any]]


def sweeps() -> dict[str, Sweep]:
    """Read all files `configs/_sweep/<name>.yaml`; return their contents, keyed by name."""
    found = {}
    for path in sorted(SWEEPS.glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        metric = content["metric"]
        values = {
            name: one.get("values") or [one["value"]] for name, one in content["parameters"].items()
        }
        maximize = metric["goal"] == "maximize"
        found[path.stem] = Sweep(path.stem, purpose(path), metric["name"], maximize, values)
    return found


def text_of(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value)


def add_parameters(parser: argparse.ArgumentParser, sweep: Sweep) -> None:
    """Add one option per parameter of a sweep; several values can be given."""
    for name, values in sweep.values.items():
        kind: Any = str
        if all(isinstance(value, int | float) for value in values):
            kind = number(float if any(isinstance(value, float) for value in values) else int)
        shown = ", ".join(map(text_of, values))
        parser.add_argument(
            f"--{name}",
            nargs="+",
            type=kind,
            default=values,
            metavar="VALUE",
            help=f"{meaning(name)} (default: {shown}).",
        )


def add_logging(parser: argparse.ArgumentParser, sweep: Sweep) -> None:
    """Add the options of train.py that log runs; they do not change the results of a sweep."""
    for name, (metavar, text) in LOGGING.items():
        parser.add_argument(f"--{name}", metavar=metavar, help=text.format(sweep.name))
    parser.add_argument("--tensorboard", action="store_true", help="Also log to TensorBoard.")


def logging_words(sweep: Sweep, options: Mapping[str, Any]) -> list[str]:
    """Return the options of train.py with which each run of a sweep is logged.

    The runs of a folder, which can be compared with each other, are one group in W&B.

    Args:
        sweep: Sweep that the runs belong to.
        options: Parsed options of sweep.py.

    Raises:
        UserError: If an option of W&B is given without a project.
    """
    given = {name: options.get(name) for name in LOGGING}
    unused = [name for name, value in given.items() if value]
    if unused and not given["wandb.project"]:
        raise UserError(f"--{unused[0]} needs W&B; add --wandb.project NAME, or leave it out")
    if given["wandb.project"] and not given["wandb.group"]:
        given["wandb.group"] = f"sweep/{folder_of(sweep, options).relative_to(RUNS).as_posix()}"
    words = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    return [*words, "--tensorboard"] if options.get("tensorboard") else words


def meaning(name: str) -> str:
    """Return the help text of a parameter."""
    if name in OF_BOTH:
        return f"Values of {name} of both networks of the GAN"
    return "Configuration file of the runs" if name == "config" else "Values of this option"


def points(sweep: Sweep, options: Mapping[str, Any]) -> Iterator[Point]:
    """Yield each combination of the values in `options`, which may differ from the file's."""
    columns = [[text_of(value) for value in options[name]] for name in sweep.values]
    for row in itertools.product(*columns):
        yield dict(zip(sweep.values, row))


def columns_of(sweep: Sweep, options: Mapping[str, Any]) -> list[str]:
    """Return the parameters with several values, in the file or in `options`."""
    return [name for name, one in sweep.values.items() if len(one) > 1 or len(options[name]) > 1]


def folder_of(sweep: Sweep, options: Mapping[str, Any]) -> Path:
    """Return the folder of the runs that can be compared with each other.

    Runs with another constant than the file's, and those of a W&B sweep, have their own folder.
    """
    constants = {
        name: text_of(options[name][0])
        for name in sweep.values
        if name not in columns_of(sweep, options)
    }
    changed = [
        f"{name}={value}".replace("/", "_")
        for name, value in constants.items()
        if value != text_of(sweep.values[name][0])
    ]
    return RUNS / sweep.name / os.environ.get("WANDB_SWEEP_ID", "") / ",".join(changed)


def run_name(columns: list[str], point: Point) -> str:
    """Return the name of a run: its values of the given parameters."""
    named = [f"{name.removeprefix('model.')}={point[name]}" for name in columns]
    return ",".join(named).replace("/", "_")


def words_of(point: Point) -> list[str]:
    """Return the options of train.py that set the values of a point."""
    words = []
    for name, value in point.items():
        *options, form = OF_BOTH.get(name, (name, "{}"))
        words += [f"--{option}={form.format(value)}" for option in options]
    return words


def train(sweep: Sweep, point: Point, folder: Path, logging: list[str]) -> float | None:
    """Train a run, unless it is finished, and return its metric; None if it became non-finite.

    Args:
        sweep: Sweep that the run belongs to.
        point: Value of each parameter.
        folder: Directory of the run. An interrupted run there is resumed.
        logging: Options of train.py that log the run.

    Raises:
        UserError: If the run fails for another reason.
    """
    if Run(folder).state != "finished":
        words = [*words_of(point), "--run_dir", str(folder), *logging]
        if Run(folder).checkpoint("last").exists():
            words += ["--ckpt_path", "last"]
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), "fit", *words],
            capture_output=True,
            encoding="utf-8",
            cwd=ROOT,
        )
        if done.returncode and "is not finite" in done.stderr:
            return None
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(
                f"the run {folder} failed: {reason.removeprefix('error: ')}; start it alone with "
                f"`python train.py fit {shlex.join(words)}`"
            )
    return result(sweep, folder)


def result(sweep: Sweep, folder: Path) -> float:
    """Return the metric of a run: its best value, or the last one of a figure of `health.csv`.

    Raises:
        UserError: If the run has not logged the metric.
    """
    file, name = "metrics.csv", sweep.metric
    if name.startswith("health/"):
        file, name = "health.csv", name.removeprefix("health/")
    values: list[float] = []
    if (folder / file).is_file():
        with open(folder / file, encoding="utf-8", newline="") as table:
            values = [float(row[name]) for row in csv.DictReader(table) if row.get(name)]
    if not values:
        raise UserError(
            f"the run {folder} has no value of {sweep.metric}; let it validate within its updates, "
            f"or correct the metric in configs/_sweep/{sweep.name}.yaml"
        )
    if file == "health.csv":
        return values[-1]
    return max(values) if sweep.maximize else min(values)


def run_sweep(sweep: Sweep, options: Mapping[str, Any]) -> Path:
    """Train all runs of a sweep, and print the table of their results.

    Args:
        sweep: Sweep to run.
        options: List of values of each parameter, and options that log the runs, keyed by name.

    Returns:
        Path of the table, `sweep.csv`, which also holds the earlier runs of this sweep.
    """
    folder, columns = folder_of(sweep, options), columns_of(sweep, options)
    logging = logging_words(sweep, options)
    grid = list(points(sweep, options))
    heading = [*columns, sweep.metric, "minutes"]
    widths = [max(len(name), *(len(point.get(name, "")) for point in grid), 10) for name in heading]
    print(table_row(heading, widths), flush=True)
    for count, point in enumerate(grid, 1):
        name = run_name(columns, point)
        print(f"run {count} of {len(grid)}: {name}", file=sys.stderr, flush=True)
        value = train(sweep, point, folder / name, logging)
        timed = (folder / name / "throughput.csv").is_file()
        found = {
            sweep.metric: "non-finite" if value is None else f"{value:.6g}",
            "minutes": f"{max(training_minutes(folder / name).values()):.1f}" if timed else "",
        }
        cells = [*(point[name] for name in columns), *found.values()]
        print(table_row(cells, widths), flush=True)
        add_row(folder / "sweep.csv", {"run": name, **point, **found})
    return folder / "sweep.csv"


def table_row(cells: list[str], widths: list[int]) -> str:
    """Return cells in one line, right-aligned in columns of the given widths."""
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of `sweep.csv`; none if the file does not exist."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def add_row(path: Path, row: dict[str, str]) -> None:
    """Add the row of a run to `sweep.csv`, in place of an earlier row of this run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # W&B agents run at the same time
        rows = [one for one in read_rows(path) if one["run"] != row["run"]] + [row]
        columns = list(dict.fromkeys(name for one in rows for name in one))
        lines = [columns, *([one.get(name) or "" for name in columns] for one in rows)]
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows(lines)
        atomic_save(path, lambda file: file.write(buffer.getvalue().encode()))
