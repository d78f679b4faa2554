"""Run the `test_step` of a system and return its metrics, such as BLEU or perplexity."""

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer

from callbacks.progress import Progress
from cli.environment import silence_lightning
from cli.evaluation.scores import Line, line
from common.errors import UserError
from lightning_modules.core.module import GenerativeModule

FOR_IMAGES = ("metrics", "split", "num", "seed", "extractor", "ranker", "domain", "batch_size")


def own_figures(model: GenerativeModule, data: Any, options: argparse.Namespace) -> Iterator[Line]:
    """Yield the `test/*` metrics of a system on the test split.

    The caller selects averaged or current weights before the call.

    Raises:
        UserError: If the system logs no test metrics, or if an option for images is given.
    """
    if type(model).test_step is LightningModule.test_step:
        raise UserError(
            f"{options.source}: {type(model).__name__} generates no images and logs no test "
            "metrics; there is nothing to evaluate"
        )
    if unused := [f"--{name}" for name in FOR_IMAGES if name in options.changed]:
        raise UserError(
            f"{options.source}: {type(model).__name__} generates no images and is evaluated by its "
            f"own metrics on the test split; leave out {' and '.join(unused)}"
        )
    silence_lightning()
    device = torch.device(options.device)
    trainer = Trainer(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        logger=False,
        callbacks=[Progress()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.test(model, datamodule=data, verbose=False)
    for name, value in trainer.callback_metrics.items():
        if name.startswith("test/"):
            metric = name.removeprefix("test/")
            yield line(metric, value.item(), model.signatures.get(name, ""))
