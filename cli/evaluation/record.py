"""Values of `train.py test` and `evaluate.py`: the file `evaluation.csv`, W&B and TensorBoard."""

import csv
import io
import shlex
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.publish import log_table
from cli.loggers import RunTensorBoardLogger, RunWandbLogger, close_wandb, wandb_mode
from cli.recipes import read_config
from common.run import Run, run_of
from lightning_modules.core.checkpoints import read_checkpoint


class Figure(NamedTuple):
    """Value of a checkpoint, as a row of `evaluation.csv`.

    Attributes:
        time: Local time, such as "2026-11-27 21:30:00".
        checkpoint: File name without suffix, such as "best".
        step: Number of updates of the checkpoint.
        name: Name, such as "test/nll/best" or "evaluate/test/fid/averaged/best".
        value: Value of the metric.
        signature: Text that describes how the value was computed.
        command: Command line of the program.
    """

    time: str
    checkpoint: str
    step: int
    name: str
    value: float
    signature: str
    command: str


class Evaluation:
    """Values of one checkpoint, which are written to the run that it belongs to.

    Nothing is written for a checkpoint that is in no run. Only rank 0 writes.

    Args:
        checkpoint: Path of the checkpoint, in the folder `checkpoints/` of its run.
    """

    def __init__(self, checkpoint: Path) -> None:
        run = run_of(checkpoint)
        self.run = run if run and run.config.is_file() else None
        self.checkpoint = checkpoint
        self._figures: dict[str, float] = {}
        content = read_checkpoint(checkpoint, weights=False) if self.run else {}
        self._step, self._wandb_id = content.get("global_step", 0), content.get("wandb_id")

    @rank_zero_only
    def add(self, name: str, value: float, signature: str) -> None:
        """Append a value to `evaluation.csv` in the directory of the run.

        Args:
            name: Name such as "test/nll"; the name of the checkpoint is added.
            value: Value of the metric.
            signature: Text that describes how the value was computed.
        """
        if self.run is None:
            return
        stem = self.checkpoint.stem
        now, command = time.strftime("%Y-%m-%d %H:%M:%S"), shlex.join(sys.argv)
        figure = Figure(now, stem, self._step, f"{name}/{stem}", value, signature, command)
        self._figures[figure.name] = value
        path = self.run.path / "evaluation.csv"
        buffer = io.StringIO(newline="")
        rows = csv.writer(buffer)
        if not path.is_file():
            rows.writerow(Figure._fields)
        rows.writerow(figure)
        try:
            with open(path, "a", encoding="utf-8", newline="") as file:
                file.write(buffer.getvalue())
        except OSError as error:
            print(f"{path} cannot be written: {error.strerror}", file=sys.stderr)

    @rank_zero_only
    def log(self) -> None:
        """Log the values to W&B and TensorBoard, if the run has these loggers.

        All rows of `evaluation.csv` are logged as the table `evaluation`.
        """
        if self.run is None or not self._figures:
            return
        loggers = self._loggers(self.run)
        rows = read_rows(self.run)
        try:
            for logger in loggers:
                logger.log_metrics(self._figures, self._step)
                log_table(logger, "evaluation", list(Figure._fields), rows, self._step)
                logger.save()
        finally:
            close_wandb(loggers)

    def _loggers(self, run: Run) -> list[Logger]:
        """Return the loggers with which the run was trained, without the one of `metrics.csv`."""
        config = read_config(run.config)
        options = config.get("wandb", {})
        loggers: list[Logger] = []
        if config.get("tensorboard"):
            loggers.append(RunTensorBoardLogger(run.path))
        if options.get("project") and self._wandb_id and wandb_mode() != "disabled":
            loggers.append(RunWandbLogger(run.path, options, self._wandb_id))
        return loggers


def read_rows(run: Run) -> list[list[str]]:
    """Return the rows of `evaluation.csv` without its heading; none without this file."""
    path = run.path / "evaluation.csv"
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]
