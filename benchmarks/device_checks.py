"""Checks of training on a device, one function per part of `gpu_check.py`."""

import argparse
import csv
import importlib
import inspect
import io
import json
import math
import statistics
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from cli.recipes import recipes
from common.files import ROOT

Result = dict[str, Any]
TOLERANCE = 2e-3  # images in [-1, 1] on two devices: 1e-3 of the range
# Systems whose first recipe a graph cannot repeat; those of DCGAN and GPT have Muon, which has no
# option `capturable`.
EAGER = ("clip", "cyclegan", "dalle", "dcgan", "dvae", "gpt", "rnn_lm", "seq2seq", "transformer")
GRAPH_TOLERANCE = 1e-3  # of weights in units of their standard deviation, in the median
PREVIEW = 4  # samples of each preview


class Settings(argparse.Namespace):
    """Command-line options."""

    device: str
    tiny: bool
    out: Path
    jobs: int
    parts: list[str]

    @property
    def accelerator(self) -> str:
        """Name of the device as Lightning's `accelerator`."""
        return "cpu" if self.device == "cpu" else "gpu"


class WatchSynchronisation(Callback):
    """Counts, per line of Python, how often code waits for the device between two updates.

    Args:
        first: Update after which counting starts.
        last: Update after which counting ends.
        path: Path of the JSON file with a count for each "file:line".
    """

    def __init__(self, first: int, last: int, path: str) -> None:
        self.first, self.last, self.path = first, last, path
        self.update_periods = [first, last]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        if trainer.global_step == self.first:
            self.caught = warnings.catch_warnings(record=True)
            self.seen = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        elif trainer.global_step == self.last:
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            found = Counter(
                f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}"
                for one in self.seen or ()
                if "synchroniz" in str(one.message) and "torch/cuda" not in one.filename
            )
            Path(self.path).write_text(json.dumps(found), encoding="utf-8")


# The recipes


def class_of(path: str) -> Any:
    """Import a class by its full path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def embedded_recipes() -> list[str]:
    """Recipes whose data comes with an installed package, without a download."""
    return [
        path.relative_to(ROOT).as_posix()
        for path in recipes()
        if class_of(yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["class_path"]).embedded
    ]


def small_options(recipe: str, settings: Settings) -> list[str]:
    """Options for an untrained nested system and, with `--tiny`, for small data and networks."""
    config = yaml.safe_load((ROOT / recipe).read_text(encoding="utf-8"))
    model, data = config["model"].get("init_args", {}), config["data"].get("init_args", {})
    options: list[str] = []
    if "dvae" in model:
        text = (ROOT / "configs/dvae/openmoji.yaml").read_text(encoding="utf-8")
        dvae = yaml.safe_load(text)["model"]
        names = ("codebook_size", "token_width", "patch", "width", "downsamplings", "blocks")
        nested = {k: v for k, v in dvae["init_args"].items() if k in names}
        nested["image_shape"] = [3, data["size"], data["size"]]
        options += ["--model.dvae", json.dumps(nested)]
    # The pool of CycleGAN is full before synchronisation is watched.
    options += ["--model.pool_size", "8"] if "/cyclegan/" in recipe else []
    if settings.tiny:
        batch = ["--data.batch_tokens", "64", "--data.max_length", "64"]
        options += batch if "batch_tokens" in data else ["--data.batch_size", "4"]
        options += ["--data.max_samples", "40"]
        options += ["--model.width", "8"] if model.get("width", 0) > 8 else []
        options += ["--data.size", "8"] if "/made/" in recipe else []
        options += ["--data.size", "32"] if data.get("size", 0) > 32 else []
    return options


def fit(recipe: str, run: Path, updates: int, settings: Settings, *options: str) -> None:
    """Train a recipe with `train.py`.

    Raises:
        RuntimeError: If the exit code is not 0.
    """
    import train

    arguments = ["fit", "--config", recipe, "--run_dir", str(run)]
    arguments += ["--trainer.accelerator", settings.accelerator, "--trainer.devices", "1"]
    arguments += ["--trainer.max_epochs", "-1", "--trainer.max_steps", str(updates)]
    arguments += ["--trainer.limit_val_batches", "1", "--previews.count", str(PREVIEW)]
    arguments += [*small_options(recipe, settings), *options]
    if code := train.main(arguments):
        raise RuntimeError(f"train.py ended with exit code {code}")


def rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file."""
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The checks


def check_training(recipe: str, settings: Settings) -> Result:
    """Check losses, lines that wait for the device, and samples on both devices."""
    updates = 4 if settings.tiny else 50
    found: Result = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("32-true", "bf16-mixed"):
            run = Path(folder, precision)
            options = ["--trainer.precision", precision]
            options += ["--trainer.log_every_n_steps", str(updates // 2)]
            if settings.device != "cpu" and precision == "32-true":
                options += ["--trainer.callbacks+=benchmarks.device_checks.WatchSynchronisation"]
                for name, value in (("first", 30), ("last", 45), ("path", f"{folder}/waits.json")):
                    options += [f"--trainer.callbacks.{name}", str(value)]
            fit(recipe, run, updates, settings, *options)
            metrics = [row for row in rows(run / "metrics.csv") if row["train/lr"]]
            losses = {
                name: [float(row[name]) for row in metrics]
                for name in metrics[0]
                if name in ("train/loss", "train/loss_g", "train/loss_d")
            }
            last = rows(run / "throughput.csv")[-1]
            found[precision] = {
                "losses": losses,
                "finite": all(math.isfinite(value) for those in losses.values() for value in those),
                "device_memory_mb": last.get("peak_device_memory_mb"),
                "ms_per_update": 1000 * float(last["seconds"]) / (updates - updates // 2),
            }
        waits = Path(folder, "waits.json")
        if waits.exists():
            found["waits"] = json.loads(waits.read_text(encoding="utf-8"))
        found["samples"] = compare_samples(Path(folder, "32-true"), settings)
    found["passed"] = (
        found["32-true"]["finite"] and found["bf16-mixed"]["finite"] and found["samples"]["passed"]
        and (not found.get("waits") or "seq2seq" in recipe)
    )  # fmt: skip
    return found


def compare_samples(run: Path, settings: Settings) -> Result:
    """Maximum difference of images, or share of equal texts, between the CPU and the device."""
    from callbacks.preview_batch import on_device
    from cli.data import data_module
    from lightning_modules import load
    from lightning_modules.core.module import GenerativeModule

    torch.backends.cudnn.allow_tf32 = False
    model, seeds = load(run / "checkpoints/last.ckpt"), list(range(4))
    if type(model).sample is GenerativeModule.sample:
        return {"passed": True}
    batch: Result = {}
    if "batch" in inspect.signature(model.sample).parameters:
        batch = data_module(run / "config.yaml").batch("val", seeds)
    samples = []
    for device in ("cpu", settings.device):
        model.to(device)
        given = {"batch": on_device(batch, torch.device(device))} if batch else {}
        samples.append(model.sample(seeds, **given))
    if isinstance(samples[0], torch.Tensor):
        difference = (samples[0] - samples[1].cpu()).abs().max().item()
        return {"difference": difference, "passed": difference <= TOLERANCE}
    equal = sum(map(str.__eq__, *samples)) / len(seeds)
    return {"equal_texts": equal, "passed": equal == 1}


def check_resuming(recipe: str, settings: Settings) -> Result:
    """Names of the values that differ between a resumed and an uninterrupted run."""
    from tests.runs import run_differences

    updates = 4 if settings.tiny else 20
    options = ["--trainer.log_every_n_steps", "3", "--trainer.deterministic", "true"]
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt"]
    stop += ["--trainer.callbacks.step", str(updates // 2)]
    with tempfile.TemporaryDirectory() as folder:
        straight, resumed = Path(folder, "straight"), Path(folder, "resumed")
        fit(recipe, straight, updates, settings, *options)
        with suppress(RuntimeError):  # exit code 143
            fit(recipe, resumed, updates, settings, *options, *stop)
        fit(recipe, resumed, updates, settings, *options, "--ckpt_path", "last")
        found = run_differences(straight, resumed)
    return {"differences": found[:5], "passed": not found}


def check_distributed(recipe: str, settings: Settings) -> Result:
    """Names of the values that differ between one process with and without a parallel strategy."""
    from tests.runs import run_differences

    updates = 4 if settings.tiny else 20
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder, "auto")
        other = Path(folder, "fsdp2" if "transformer" in recipe else "ddp")
        for run in (alone, other):
            fit(recipe, run, updates, settings, "--trainer.strategy", run.name)
        found = run_differences(alone, other)
    return {"differences": found[:5], "passed": not found}


def check_graphs(recipe: str, settings: Settings) -> Result:
    """Largest difference of weights with and without graphs, and of a resumed run with graphs."""
    from lightning_modules.core.checkpoints import read_checkpoint
    from tests.runs import run_differences

    updates = 6 if settings.tiny else 40
    options = ["--trainer.log_every_n_steps", "20", "--updates_per_step", "20"]
    options += ["--trainer.deterministic", "true"]
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt"]
    stop += ["--trainer.callbacks.step", str(updates // 2)]
    with tempfile.TemporaryDirectory() as folder:
        eager, graphs, resumed = (Path(folder, name) for name in ("eager", "graphs", "resumed"))
        fit(recipe, eager, updates, settings, *options)
        said = io.StringIO()
        with redirect_stderr(said):
            fit(recipe, graphs, updates, settings, *options, "--graph_updates")
        with suppress(RuntimeError):  # exit code 143
            fit(recipe, resumed, updates, settings, *options, *stop, "--graph_updates")
        fit(recipe, resumed, updates, settings, *options, "--ckpt_path", "last")
        before, after = (
            read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"] for run in (eager, graphs)
        )
        found = run_differences(graphs, resumed)
    distances = {
        name: float((weight - after[name]).abs().max() / (weight.std() + 1e-6))
        for name, weight in before.items()
        if weight.is_floating_point() and weight.numel() > 1
    }
    worst, median = max(distances.values()), statistics.median(distances.values())
    notes = [line for line in said.getvalue().splitlines() if "--graph_updates" in line]
    expected = settings.device == "cpu" or recipe.split("/")[1] in EAGER
    return {
        "difference": worst,
        "median_difference": median,
        "differences_if_resumed": found[:5],
        "notes": notes,
        "passed": median <= GRAPH_TOLERANCE and not found and bool(notes) == expected,
    }


def check_speed(contender: str, settings: Settings) -> Result:
    """Updates per second of one contender, named "<system> <way>", as in `speed_contenders`."""
    from benchmarks import gan, language, vae

    system, way = contender.split(" ")
    steps = 10 if settings.tiny else {"gpt": 300}.get(system, 1000)
    options = {
        "compiled": ["--compile", "inductor"],
        "single": ["--updates_per_step", "1"],
        "graphs": ["--graph_updates"],
    }
    where = ["--trainer.accelerator", settings.accelerator, "--trainer.devices", "1"]
    where += options.get(way, [])
    if settings.device != "cpu":  # the first updates select and compile kernels
        where += ["--trainer.log_every_n_steps", "100"]
        gan.WARMUP = language.WARMUP = language.LOG_EVERY = 100
    elif settings.tiny:
        language.WARMUP = 10
    if system == "vae":
        speed = (vae.plain(steps, settings.device) if way == "plain" else vae.ours(steps, where))[
            "steps_per_second"
        ]
    elif system == "gpt":
        step = (
            language.plain(steps, settings.device)
            if way == "plain"
            else language.ours(steps, where)
        )
        speed = 1 / step["step"]
    elif way == "plain":
        speed = gan.plain(system, steps, settings.device)
    else:
        speed = gan.ours(system, steps, where)
    return {"updates_per_second": speed, "passed": True}


def first_recipes() -> list[str]:
    """One embedded recipe of each system."""
    found: dict[str, str] = {}
    for recipe in embedded_recipes():
        found.setdefault(recipe.split("/")[1], recipe)
    return list(found.values())


def speed_contenders() -> list[str]:
    """Contenders in the order of measurement."""
    turns = [
        f"{name} {way}"
        for name in ("vae", "gan", "dcgan", "gpt")
        for way in ("ours", "single", "graphs", "plain")
    ]
    return turns + [f"{name} compiled" for name in ("vae", "gan", "gpt")]


DISTRIBUTED = ("vae/openmoji", "dcgan/openmoji", "transformer/emoji_names")
PARTS: dict[str, tuple[Callable[[str, Settings], Result], Callable[[], list[str]]]] = {
    "training": (check_training, embedded_recipes),
    "resuming": (check_resuming, first_recipes),
    "graphs": (check_graphs, first_recipes),
    "distributed": (
        check_distributed,
        lambda: [f"configs/{name}.yaml" for name in DISTRIBUTED],
    ),
    "speed": (check_speed, speed_contenders),
}
