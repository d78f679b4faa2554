"""Loggers of a run: CSV always, Weights & Biases and TensorBoard on request."""

import importlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from jsonargparse import Namespace
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.gradient_histograms import GradientHistograms
from callbacks.run_files import CSVLog
from callbacks.tracking import Tracking
from common.errors import UserError
from common.files import atomic_save
from common.run import Run

# Seconds between writes of W&B to its file. What is not written is lost if the process is killed.
FLUSH = 1.0

# Environment variable with the folder of the copies of tables and artifacts, which `wandb sync`
# uploads. The default of W&B is in the home directory; ours is the folder `wandb/` of the run.
DATA_DIR = "WANDB_DATA_DIR"


@dataclass
class WandbOptions:
    """Options of Weights & Biases (W&B). The run is logged to W&B if `project` is given.

    Args:
        project: W&B project; without an API key, the run is logged offline.
        group: Name of a group of runs in the project, such as an ablation.
        tags: Tags of the run, in the form [a,b]; for example [baseline,64px].
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
    out if the run has logged them before. The file `logged.json` beside the files of W&B has the
    last logged update of each value, keyed by id and name. It is written after W&B has saved
    everything. If the process is killed before, the resumed run logs the repeated values again: a
    value may be logged twice, but is never lost.

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
        self._record = run_dir / "wandb" / "logged.json"
        self._before = last_updates(self._record, run_id) if resumes and run_id else {}
        self._logged: dict[str, int] = {}
        self._own_data_dir = str(self._record.parent.resolve())
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

        if self._experiment is None:
            self._wandb_init["settings"] = wandb.Settings(x_transaction_log_flush_interval=FLUSH)
            if DATA_DIR not in os.environ:
                os.environ[DATA_DIR] = self._own_data_dir
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
            self._logged |= {name: max(step, self._logged.get(name, -1)) for name in metrics}
        super().log_metrics(metrics, step)

    @rank_zero_only
    def close(self, failed: bool) -> None:
        """End the run on W&B, if it has started, and record which values it has.

        Args:
            failed: Whether the run is marked as failed on W&B.
        """
        if self._experiment is None:
            return
        run_id = self._experiment.id
        self._experiment.finish(exit_code=int(failed))
        if os.environ.get(DATA_DIR) == self._own_data_dir:
            del os.environ[DATA_DIR]
        before = last_updates(self._record, run_id)
        updates = before | {
            name: max(step, before.get(name, -1)) for name, step in self._logged.items()
        }
        text = json.dumps({run_id: updates}) + "\n"
        atomic_save(self._record, lambda file: file.write(text.encode()))


def last_updates(record: Path, run_id: str) -> dict[str, int]:
    """Return the last logged update of each value of a W&B run, keyed by name.

    Args:
        record: Path of `logged.json`.
        run_id: Identifier of the W&B run.
    """
    content = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    found: dict[str, int] = content.get(run_id, {})
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
        UserError: If an option needs a logger that is not enabled, or the name of the project is
            not one of W&B.
    """
    wandb, step = options.wandb, checkpoint.get("global_step", 0)
    unused = [f"wandb.{name}" for name, value in vars(wandb).items() if value]
    if unused and not wandb.project and not checkpoint:
        raise UserError(f"--{unused[0]} needs W&B; add --wandb.project NAME, or leave it out")
    if options.gradient_histograms and not (wandb.project or options.tensorboard):
        raise UserError(
            "--gradient_histograms needs a logger; add --tensorboard or --wandb.project NAME"
        )
    if wandb.project and re.search(r"[/\\#?%:]", wandb.project):
        raise UserError(
            f"--wandb.project {wandb.project}: the name of a project has none of / \\ # ? % :; "
            "set the entity with the environment variable WANDB_ENTITY"
        )
    loggers: list[Logger] = [CSVLog(run.path / "metrics.csv", step)]
    if options.tensorboard:
        loggers.append(RunTensorBoardLogger(run.path, step + 1 if checkpoint else 0))
    if wandb.project and wandb_mode() != "disabled":
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


def close_wandb(loggers: Iterable[Logger]) -> None:
    """End the run on W&B, if there is one, so that this process can start a new one.

    Args:
        loggers: Loggers of the run.
    """
    failed = sys.exc_info()[0] is not None  # called while an exception is handled
    for logger in loggers:
        if isinstance(logger, RunWandbLogger):
            logger.close(failed)
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:  # of another logger, given by the user
        wandb.finish(exit_code=int(failed))
