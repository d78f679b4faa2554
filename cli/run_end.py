"""What `train.py` prints when a run ends: its values, its directory, and what to do next."""

import shlex
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from callbacks.checkpoint import monitored
from callbacks.fid import why_no_fid
from common.run import Run
from datamodules.base import DataModule
from lightning_modules.core.module import GenerativeModule

INPUTS = {  # options that tell `sample.py` what to generate from
    "text-to-image": ' --prompt "red apple"',
    "text-to-text": ' --input "some text"',
}


def last_figures(trainer: Trainer) -> dict[str, float]:
    """Return the values of the last validation or test, keyed by name."""
    logged = trainer.callback_metrics.items()
    return {name: value.item() for name, value in logged if name.startswith(("val/", "test/"))}


def figure_lines(figures: dict[str, float], signatures: dict[str, str]) -> list[str]:
    """Return a heading, and a line for each value with its signature; nothing without values."""
    lines = [
        f"{name} {value:.6g}  {signatures.get(name, '')}".rstrip()
        for name, value in figures.items()
    ]
    tested = any(name.startswith("test/") for name in figures)
    return [f"{'test' if tested else 'last validation'}:", *lines] if lines else []


def end_lines(run: Run, trainer: Trainer, model: GenerativeModule, data: DataModule) -> list[str]:
    """Return the last lines of a training: directory, best value, sample command and logs."""
    best = run.read().get("best")
    monitor = monitored(trainer, model)
    if best:
        value = f"{best['name']} {best['value']:.6g} at update {best['step']:,}, best.ckpt"
    elif monitor:
        value = f"none, because no validation has measured {monitor[0]}{validation_hint(trainer)}"
    else:
        value = "none, because no value selects it"
        if why_no_fid(model, data) is None:
            value += "; --fid.count 2000 measures FID in validations"
    lines = [f"run: {run.path}", f"best: {value}"]
    if type(model).sample is not GenerativeModule.sample:
        checkpoint = run.checkpoint("best" if best else "last")
        if checkpoint.is_file():
            options = INPUTS.get(model.modality, "")
            lines.append(f"samples: python sample.py {shlex.quote(str(checkpoint))}{options}")
    places = log_places(run, trainer)
    return [*lines, f"logs: {'; '.join(places)}"] if places else lines


def validation_hint(trainer: Trainer) -> str:
    """Return the option with which a run of at least one epoch would have validated."""
    every = trainer.check_val_every_n_epoch or 1
    if not trainer.enable_validation or not 0 < trainer.current_epoch < every:
        return ""
    return "; --trainer.check_val_every_n_epoch 1 validates after every epoch"


def log_places(run: Run, trainer: Trainer) -> list[str]:
    """Return the files and commands that show the logs of a run."""
    files = [run.path / "samples" / "curves.png", run.path / "metrics.csv"]
    places = [", ".join(str(path) for path in files if path.exists())]
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            places.append(f"tensorboard --logdir {shlex.quote(logger.log_dir)}")
        elif isinstance(logger, WandbLogger):
            sync = sync_command(run.path)
            places.append(sync or f"W&B project {logger.name}")
    return [place for place in places if place]


def sync_command(folder: Path, runs: str = "") -> str | None:
    """Return the command that uploads all offline runs of W&B; None if there are none.

    Args:
        folder: Directory of a run, or folder of several runs.
        runs: Pattern of the runs in the folder, such as "*/"; "" if the folder is a run.
    """
    pattern = f"{runs}wandb/offline-run-*"
    found = next(folder.glob(pattern), None)
    return f"wandb sync {shlex.quote(str(folder))}/{pattern}" if found else None
