"""Loggers of a run: CSV always, Weights & Biases and TensorBoard on request."""

import importlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlparse

from jsonargparse import Namespace
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.gradient_histograms import GradientHistograms
from callbacks.publish import log_table
from callbacks.run_files import CSVLog
from callbacks.tracking import Tracking
from cli.recipes import read_config
from common.errors import UserError
from common.run import Run, run_of
from lightning_modules.core.checkpoints import read_checkpoint


@dataclass
class WandbOptions:
    """Options of Weights & Biases (W&B). The run is logged to W&B if `project` is given.

    Args:
        project: W&B project; without an API key, the run is logged offline.
        group: Name of a group of runs in the project, such as an ablation.
        tags: Tags of the run, such as [baseline,64px].
        notes: Description of the run.
        name: Name of the run in W&B (default: the run directory).
        artifacts: Save the checkpoints and the folder samples/ in W&B when training ends.
    """

    project: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    notes: str | None = None
    name: str | None = None
    artifacts: bool = False


class RunWandbLogger(WandbLogger):
    """W&B logger that logs no value twice when a run is resumed.

    A resumed run repeats the updates after its checkpoint. The values of these updates are left
    out if the run has logged them before. What has been logged is recorded in the file
    `logged.jsonl` beside the files of W&B: a line with id, update and names per call.

    Args:
        run_dir: Directory of the run.
        options: Values of `WandbOptions`, keyed by name.
        run_id: Identifier of the W&B run to continue; None for a new run.
        resumes: Whether the run is trained further, and thus repeats updates.
    """

    def __init__(
        self,
        run_dir: Path,
        options: Mapping[str, Any],
        run_id: str | None,
        resumes: bool = False,
    ) -> None:
        self._record = run_dir / "wandb" / "logged.jsonl"
        self._file: TextIO | None = None
        self._before = last_updates(self._record, run_id) if resumes and run_id else {}
        super().__init__(
            project=options["project"],
            name=options.get("name") or run_name(run_dir),
            save_dir=run_dir,
            id=run_id,
            group=options.get("group"),
            tags=options.get("tags"),
            notes=options.get("notes"),
            mode=wandb_mode(),
        )
        self._wandb_init.pop("anonymous", None)  # set by Lightning; W&B warns of it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B run; it is started when this property is read for the first time."""
        import wandb

        try:
            return super().experiment
        except wandb.errors.Error as error:
            raise UserError(
                f"--wandb.project {self.name}: W&B cannot be used ({error}); check the network and "
                "`wandb login`, or set WANDB_MODE=offline"
            ) from error

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, because the callback `Tracking` logs the complete configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is not None:
            metrics = {
                name: value for name, value in metrics.items() if step > self._before.get(name, -1)
            }
            if not metrics:
                return
            run_id = self.experiment.id
            if self._file is None:
                self._record.parent.mkdir(exist_ok=True)
                self._file = open(self._record, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
            self._file.write(json.dumps([run_id, step, *metrics]) + "\n")
        super().log_metrics(metrics, step)


def last_updates(record: Path, run_id: str) -> dict[str, int]:
    """Return the last logged update of each value of a W&B run, keyed by name.

    Args:
        record: Path of `logged.jsonl`.
        run_id: Identifier of the W&B run.
    """
    found: dict[str, int] = {}
    for line in record.read_text(encoding="utf-8").splitlines() if record.is_file() else ():
        try:
            owner, step, *names = json.loads(line)
        except ValueError:  # the run was killed while it wrote this line
            continue
        if owner == run_id:
            found |= {name: max(step, found.get(name, -1)) for name in names}
    return found


class RunTensorBoardLogger(TensorBoardLogger):
    """TensorBoard logger that logs no value twice when a run is resumed.

    Args:
        run_dir: Directory of the run.
        purge_step: Update from which on TensorBoard ignores what the run has logged before; None
            keeps all values.
    """

    def __init__(self, run_dir: Path, purge_step: int | None = None) -> None:
        importlib.import_module("tensorboard")  # names the package if it is missing
        super().__init__(run_dir, name="", version="tensorboard", purge_step=purge_step)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, because the callback `Tracking` logs the complete configuration."""

    @rank_zero_only
    def save(self) -> None:
        """Write the logged values to disk."""
        self.experiment.flush()


def run_loggers(run: Run, checkpoint: dict[str, Any], options: Namespace) -> list[Logger]:
    """Create the loggers of a run.

    Args:
        run: Directory of the run's files.
        checkpoint: Content of the checkpoint to resume; an empty dictionary for a new run.
        options: Options of `train.py`.

    Raises:
        UserError: If an option needs a logger that is not enabled.
    """
    wandb, step = options.wandb, checkpoint.get("global_step", 0)
    unused = [f"wandb.{name}" for name, value in vars(wandb).items() if value]
    if unused and not wandb.project and not checkpoint:
        raise UserError(f"--{unused[0]} needs W&B; add --wandb.project NAME, or leave it out")
    if options.gradient_histograms and not (wandb.project or options.tensorboard):
        raise UserError(
            "--gradient_histograms needs a logger; add --tensorboard or --wandb.project NAME"
        )
    loggers: list[Logger] = [CSVLog(run.path / "metrics.csv", step)]
    if options.tensorboard:
        loggers.append(RunTensorBoardLogger(run.path, step + 1 if checkpoint else 0))
    if wandb.project:
        run_id = checkpoint.get("wandb_id")
        loggers.append(RunWandbLogger(run.path, vars(wandb), run_id, resumes=run_id is not None))
    return loggers


def tracking(options: Namespace, config: dict[str, Any]) -> list[Callback]:
    """Return the callbacks that W&B and TensorBoard need; none if both are disabled.

    Args:
        options: Options of `train.py`.
        config: Configuration that is saved as `config.yaml`.
    """
    if not (options.wandb.project or options.tensorboard) or options.trainer.logger is False:
        return []
    callbacks: list[Callback] = [Tracking(config, options.wandb.artifacts)]
    return [*callbacks, GradientHistograms()] if options.gradient_histograms else callbacks


def run_name(run_dir: Path) -> str:
    """Return the path of a run directory below `runs/`, or its last part if it is elsewhere."""
    path = run_dir.resolve()
    for parent in path.parents:
        if parent.name == "runs":
            return path.relative_to(parent).as_posix()
    return path.name


def wandb_mode() -> str:
    """Return the mode of W&B: that of WANDB_MODE, else "offline" without an API key.

    W&B would ask for a key on the terminal if it were online without one.

    Raises:
        UserError: If WANDB_MODE is "online" and there is no API key.
    """
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        has_key = netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):  # no readable ~/.netrc
        has_key = False
    has_key = has_key or bool({"WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"} & os.environ.keys())
    mode = os.environ.get("WANDB_MODE", "online" if has_key else "offline")
    if mode in ("online", "run") and not has_key:
        raise UserError(
            f"WANDB_MODE={mode} needs an API key; run `wandb login`, or unset WANDB_MODE to log "
            "offline"
        )
    return mode


def close_wandb() -> None:
    """End the run on W&B, if there is one, so that this process can start a new one."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        failed = sys.exc_info()[0] is not None  # called while an exception is handled
        wandb.finish(exit_code=int(failed))


@rank_zero_only
def log_figures(path: Path, figures: dict[str, float], signatures: dict[str, str]) -> None:
    """Log the figures of a checkpoint to W&B and TensorBoard, if its run has these loggers.

    The signatures are logged as a table, named like "test/signatures".

    Args:
        path: Path of the checkpoint, in the folder `checkpoints/` of its run.
        figures: Values, keyed by name; the names have one prefix, such as "test/".
        signatures: Signature of each value: a text that describes how it was computed.
    """
    run = run_of(path)
    if run is None or not run.config.is_file() or not figures:
        return
    config = read_config(run.config)
    options = config.get("wandb", {})
    if not (config.get("tensorboard") or options.get("project")):
        return
    checkpoint = read_checkpoint(path)
    loggers: list[Logger] = []
    if config.get("tensorboard"):
        loggers.append(RunTensorBoardLogger(run.path))
    if options.get("project") and "wandb_id" in checkpoint:
        loggers.append(RunWandbLogger(run.path, options, checkpoint["wandb_id"]))
    step = checkpoint["global_step"]
    rows = [[name, f"{value:.6g}", signatures.get(name, "")] for name, value in figures.items()]
    prefix = next(iter(figures)).partition("/")[0]
    try:
        for logger in loggers:
            logger.log_metrics(figures, step)
            log_table(logger, f"{prefix}/signatures", ["figure", "value", "signature"], rows, step)
            logger.save()
    finally:
        close_wandb()
