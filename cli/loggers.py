"""Loggers of a run: CSV always, Weights & Biases and TensorBoard on request."""

import os
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from callbacks.run_files import CSVLog


def run_loggers(
    run_dir: Path, checkpoint: dict[str, Any], wandb_project: str | None, tensorboard: bool
) -> list[Logger]:
    """Create the loggers of a run.

    Args:
        run_dir: Directory of the run's files.
        checkpoint: Content of the checkpoint to resume; an empty dictionary for a new run.
        wandb_project: Project of Weights & Biases; None disables this logger.
        tensorboard: Whether to log to TensorBoard.
    """
    loggers: list[Logger] = [CSVLog(run_dir / "metrics.csv", checkpoint.get("global_step", 0))]
    if tensorboard:
        loggers.append(TensorBoardLogger(run_dir, name="", version="tensorboard"))
    if wandb_project:
        loggers.append(wandb_logger(wandb_project, run_dir, checkpoint.get("wandb_id")))
    return loggers


def wandb_logger(project: str, run_dir: Path, run_id: str | None) -> WandbLogger:
    """Create the Weights & Biases logger.

    Without an API key, the logger runs offline, because online mode would fail.
    """
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        stored = netrc().authenticators(host) is not None
    except (OSError, NetrcParseError):  # no readable ~/.netrc
        stored = False
    offline = not stored and not {"WANDB_API_KEY", "WANDB_MODE"} & os.environ.keys()
    return WandbLogger(
        project=project, save_dir=run_dir, id=run_id, resume="allow", offline=offline
    )


def close_wandb(loggers: list[Logger]) -> None:
    """End the run on Weights & Biases, so that this process can start a new one."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
