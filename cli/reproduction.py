"""Reproduce published results: train recipes, test them, and write the results."""

import csv
import difflib
import importlib
import inspect
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError
from common.files import ROOT
from common.run import Run

RUNS = ROOT / "runs" / "reproduce"
RESULTS = ROOT / "results"
SPLITS = ("train", "val", "test")
Entry = dict[str, Any]


def registry() -> dict[str, Entry]:
    """Read all files `configs/_reproduce/<id>.yaml`; return their contents, keyed by id."""
    return {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "configs/_reproduce").glob("*.yaml"))
    }


def reproduce(name: str, seeds: list[int], project: str | None = None) -> dict[str, Any]:
    """Run all seeds of a reproduction, write the result to `results/<id>.json` and return it.

    Args:
        name: Name of a file in `configs/_reproduce/`, without suffix.
        seeds: Random seed of each run.
        project: W&B project to log the runs to, as one group; None for no logging to W&B.

    Raises:
        UserError: If there is no such reproduction.
    """
    entries = registry()
    if name not in entries:
        near = ", ".join(difflib.get_close_matches(name, entries, n=3, cutoff=0))
        raise UserError(
            f"{name}: there is no such reproduction; "
            f"`python reproduce.py list` lists all; similar names: {near}"
        )
    entry = entries[name]
    variants = {
        variant: run_seeds(f"{name}/{variant}", with_overrides(entry, overrides), seeds, project)
        for variant, overrides in entry.get("variants", {}).items()
    }
    # The first variant has the settings of the paper, so the result is its mean value.
    runs = next(iter(variants.values()), None) or run_seeds(name, entry, seeds, project)
    values = [one["value"] for one in runs]
    result = {
        "id": name,
        "value": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "n_seeds": len(values),
        "signature": runs[0]["signature"],
        "epochs": runs[0]["epochs"],
        "minutes": round(statistics.fmean(one["minutes"] for one in runs), 1),
    }
    if "curve" in runs[0]:
        result["curve"] = runs[0]["curve"]
    if variants:
        result["variants"] = {variant: figures_of(those) for variant, those in variants.items()}
    if "figures" in entry:
        result |= {"figures": figures_of(runs), "signatures": runs[0]["signatures"]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def with_overrides(entry: Entry, overrides: dict[str, Any]) -> Entry:
    """Return a copy of a reproduction's settings with additional overrides."""
    return {**entry, "overrides": {**entry.get("overrides", {}), **overrides}}


def override_options(entry: Entry) -> list[str]:
    """Return the overrides of a reproduction as options of `train.py`."""
    given = entry.get("overrides", {})
    return [f"--{name}={'null' if value is None else value}" for name, value in given.items()]


def run_seeds(
    name: str, entry: Entry, seeds: list[int], project: str | None
) -> list[dict[str, Any]]:
    """Run a reproduction with each seed; return value, signature, epochs and minutes per run."""
    if "function" in entry:
        return [run_function(entry, seed) for seed in seeds]
    return [run_model(name, entry, seed, project) for seed in seeds]


def run_function(entry: Entry, seed: int) -> dict[str, Any]:
    """Run a reproduction that names a baseline function instead of a system.

    Parameters of the function that are named after data, such as `train_images` or `test_labels`,
    receive these data.
    """
    from cli.data import data_module
    from datamodules.images.base import InMemoryImages

    module, _, name = entry["function"].rpartition(".")
    function = getattr(importlib.import_module(module), name)
    data = data_module(ROOT / entry["config"], entry.get("data", {}))
    wanted = inspect.signature(function).parameters
    arguments = {**entry.get("arguments", {}), **({"seed": seed} if "seed" in wanted else {})}
    for parameter in wanted:
        split, _, kind = parameter.partition("_")
        if split in SPLITS and parameter not in arguments:
            value = data.texts(split) if kind == "texts" else getattr(data.split(split), kind)
            arguments[parameter] = value.images if isinstance(value, InMemoryImages) else value
    begin = time.perf_counter()
    value, signature = function(**arguments)
    minutes = (time.perf_counter() - begin) / 60
    return {"value": value, "signature": signature, "epochs": None, "minutes": minutes}


def run_model(name: str, entry: Entry, seed: int, project: str | None = None) -> dict[str, Any]:
    """Train the run of one seed unless it is complete, then test it.

    If the reproduction's YAML file has a key `evaluate`, the run is not tested. It is evaluated by
    `evaluate.py` with the options under this key.
    """
    from cli.training import TrainCLI  # imports torch, which takes seconds

    folder = (ROOT / entry["run_dir"] if "run_dir" in entry else RUNS / name) / f"seed{seed}"
    state = Run(folder)
    checkpoint = state.checkpoint(entry["stopping_rule"])
    config = ["--config", str(ROOT / entry["config"])]
    run = [*config, "--seed_everything", str(seed), "--run_dir", str(folder)]
    run += override_options(entry)
    if state.state != "finished":
        resume = ["--ckpt_path", "last"] if state.checkpoint("last").exists() else []
        if project:
            resume += ["--wandb.project", project, "--wandb.group", f"reproduce/{name}"]
        try:
            TrainCLI(["fit", *run, *resume])
        except SystemExit as stop:  # the run was complete
            if stop.code:
                raise
    if "evaluate" in entry:
        figures = scored(checkpoint, entry["evaluate"])
    else:
        tested = TrainCLI(["test", *run, "--ckpt_path", str(checkpoint)])
        values, signatures = tested.trainer.callback_metrics, tested.model.signatures
        names = [entry["metric"], *entry.get("figures", [])]
        figures = {name: (values[name].item(), signatures[name]) for name in names}
    value, signature = next(iter(figures.values()))
    return {
        "value": value,
        "signature": f"{signature} {entry['stopping_rule']}.ckpt",
        "figures": {name: value for name, (value, _) in figures.items()},
        "signatures": {name: signature for name, (_, signature) in figures.items()},
        "epochs": state.read()["epoch"],
        "minutes": max(training_minutes(folder).values()),
        "curve": validation_curve(folder),
    }


def scored(checkpoint: Path, options: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Run `evaluate.py` on a checkpoint; return values and signatures, keyed by metric.

    If the model has averaged weights, the values are computed with these.
    """
    import torch

    from cli.evaluation.options import parse
    from cli.evaluation.program import evaluate

    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = {"device": device, "weights": "averaged", **options}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    lines: dict[str, tuple[float, str]] = {}
    for line in evaluate(parse([str(checkpoint), *arguments])):
        lines.setdefault(line["metric"], (line["value"], line["signature"]))
    return lines


def training_minutes(folder: Path) -> dict[int, float]:
    """Return the training time of a run, with validation and resumed parts, after each row's step.

    Returns:
        Minutes since the start, keyed by the number of updates.
    """
    with open(folder / "throughput.csv", encoding="utf-8") as file:
        rows = [(int(row["step"]), float(row["seconds"]) / 60) for row in csv.DictReader(file)]
    return dict(zip([step for step, _ in rows], itertools.accumulate(time for _, time in rows)))


def validation_curve(folder: Path) -> dict[str, Any]:
    """Return the value that selects `best.ckpt` in the course of a run.

    Returns:
        Its "name", and at most 101 "points" of minutes of training and value. Empty if the run has
        no such value.
    """
    name = Run(folder).read().get("best", {}).get("name")
    minutes = training_minutes(folder)
    points = []
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if name and row.get(name):
                until = [time for step, time in minutes.items() if step <= int(row["step"])]
                points.append([round(max(until, default=0.0), 2), float(row[name])])
    step = len(points) // 100 + 1
    kept = points[: len(points) - 1 : step] + points[-1:]
    return {"name": name, "points": kept} if points else {}


def figures_of(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the mean of each metric over runs, and the standard deviation if there are several."""
    columns = {name: [one["figures"][name] for one in runs] for name in runs[0]["figures"]}
    return {
        name: [statistics.fmean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]
        for name, values in columns.items()
    }
