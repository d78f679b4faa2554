"""Weights & Biases and TensorBoard: configuration, x axis, best value and artifacts of a run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.checkpoint import RunCheckpoint, monitored
from callbacks.publish import log_values
from callbacks.run_description import describe_run
from common.run import Run
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.sharded_checkpoints import checkpoint_files

# Name of the number of updates in W&B: the x axis of all values. Lightning's logger uses this name.
X_AXIS = "trainer/global_step"


class Tracking(Callback):
    """Logs the configuration and the best value of a run to Weights & Biases and TensorBoard.

    The best value of the system's `monitor` (or of the FID) is logged as `best/<name>` whenever it
    improves, with its number of updates as `best/update`. The last values are therefore those of
    the best validation.

    Args:
        config: Configuration that is saved as `config.yaml`.
        artifacts: Whether to save the checkpoints and the folder `samples/` in Weights & Biases
            when training ends.
    """

    def __init__(self, config: Mapping[str, Any], artifacts: bool = False) -> None:
        self.config, self.artifacts = config, artifacts
        self._best = math.nan

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunCheckpoint) and callback.best:
                self._best = callback.best[0][0]  # of the resumed checkpoint
        about = describe_run(self.config, trainer, pl_module)
        monitor = monitored(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(about, allow_val_change=True)
                if monitor is not None:
                    logger.experiment.define_metric(
                        monitor[0], step_metric=X_AXIS, summary=f"{monitor[1]},last"
                    )
            elif isinstance(logger, TensorBoardLogger):
                log_hparams(logger, about, monitor[0] if monitor else "train/loss_g")

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        monitor = monitored(trainer, pl_module)
        if trainer.state.fn != "fit" or monitor is None:
            return
        name, mode = monitor
        if name not in trainer.callback_metrics:  # `RunCheckpoint` reports this
            return
        value = trainer.callback_metrics[name].item()
        better = value < self._best if mode == "min" else value > self._best
        if better or (math.isnan(self._best) and not math.isnan(value)):
            self._best = value
            best = {f"best/{name}": value, "best/update": float(trainer.global_step)}
            log_values(trainer, best, trainer.global_step)

    @rank_zero_only
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: GenerativeModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write what TensorBoard has buffered: a resumed run does not repeat earlier updates."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.save()

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        for logger in trainer.loggers if self.artifacts else ():
            if isinstance(logger, WandbLogger):
                save_artifacts(logger, Run(trainer.default_root_dir))


def log_hparams(logger: TensorBoardLogger, about: Mapping[str, Any], metric: str) -> None:
    """Log values for TensorBoard's tab HPARAMS.

    Args:
        logger: Logger of the run.
        about: Nested plain values; names are joined by dots.
        metric: Name of the logged value that the tab shows for each run.
    """
    from torch.utils.tensorboard.summary import hparams

    writer = logger.experiment._get_file_writer()
    for summary in hparams(flat(about), {metric: 0.0}):  # 0.0 is not written
        writer.add_summary(summary, 0)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return nested values in one dictionary, keyed by names joined by dots; None is left out."""
    found: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            plain = isinstance(value, bool | int | float | str)
            found[f"{prefix}{name}"] = value if plain else str(value)
    return found


def save_artifacts(logger: WandbLogger, run: Run) -> None:
    """Save the checkpoints `last` and `best` and the folder `samples/` of a run in W&B."""
    import wandb

    content = run.read()
    for kind, paths in {
        "checkpoints": [
            path for name in ("last", "best") for path in checkpoint_files(run.checkpoint(name))
        ],
        "samples": sorted(path for path in (run.path / "samples").rglob("*") if path.is_file()),
    }.items():
        artifact = wandb.Artifact(
            f"{kind}-{logger.version}",
            type="model" if kind == "checkpoints" else kind,
            metadata={"step": content.get("step"), "best": content.get("best")},
        )
        for path in paths:
            artifact.add_file(str(path), name=relative(path, run.path / kind))
        if paths:
            logger.experiment.log_artifact(artifact)


def relative(path: Path, folder: Path) -> str:
    """Return the path of a file below a folder, with forward slashes."""
    return path.relative_to(folder).as_posix()
