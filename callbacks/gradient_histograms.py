"""Histograms of the gradients, for `--gradient_histograms`."""

from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from lightning_modules.core.module import GenerativeModule

BINS = 32


def histograms(values: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Count the elements of each tensor in `BINS` intervals of equal width.

    Returns:
        Counts (BINS,) and interval limits (BINS + 1,) of each tensor, on the CPU. A tensor with an
        element that is not finite has counts of 0.
    """
    limits = torch.stack([torch.stack(value.aminmax()).float() for value in values]).cpu()
    edges = [
        torch.linspace(low, high if high > low else low + 1e-12, BINS + 1, dtype=torch.float64)
        for low, high in limits.nan_to_num(0, 0, 0).tolist()
    ]
    counts = []
    for value, limit, edge in zip(values, limits, edges):
        if not limit.isfinite().all():
            counts.append(torch.zeros(BINS, dtype=torch.int64, device=value.device))
            continue
        width = float(edge[-1] - edge[0]) / BINS
        index = ((value.flatten().float() - float(edge[0])) / width).long().clamp(0, BINS - 1)
        counts.append(torch.bincount(index, minlength=BINS))  # deterministic, unlike histc
    return list(zip(torch.stack(counts).cpu(), edges))


class GradientHistograms(Callback):
    """Logs a histogram of each parameter's gradient, before clipping, once per logging interval.

    The histograms are named `gradients/<parameter>`. A generator that is updated less often than
    the discriminator has histograms only for intervals that end with one of its updates.
    """

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: GenerativeModule, optimizer: torch.optim.Optimizer
    ) -> None:
        update = trainer.global_step + 1
        if update % trainer.log_every_n_steps or not trainer.is_global_zero:  # type: ignore[attr-defined]  # set by a connector
            return
        mine = {id(one) for group in optimizer.param_groups for one in group["params"]}
        gradients = {
            name: parameter.grad
            for name, parameter in pl_module.named_parameters()
            if id(parameter) in mine and parameter.grad is not None
        }
        if not gradients:
            return
        found = dict(zip(gradients, histograms(list(gradients.values()))))
        for logger in trainer.loggers:
            log_histograms(logger, found, update)


def log_histograms(logger: Logger, found: dict[str, tuple[Tensor, Tensor]], step: int) -> None:
    """Log histograms to Weights & Biases or TensorBoard.

    Args:
        logger: Logger of the run; other loggers than these two log no histograms.
        found: Counts and interval limits, keyed by name.
        step: Number of updates so far.
    """
    if isinstance(logger, WandbLogger):
        import wandb

        values: Any = {
            f"gradients/{name}": wandb.Histogram(np_histogram=(counts.numpy(), edges.numpy()))
            for name, (counts, edges) in found.items()
        }
        logger.log_metrics(values, step)
    elif isinstance(logger, TensorBoardLogger):
        for name, (counts, edges) in found.items():
            centres = (edges[1:] + edges[:-1]) / 2
            logger.experiment.add_histogram_raw(
                f"gradients/{name}",
                min=edges[0].item(),
                max=edges[-1].item(),
                num=int(counts.sum()),
                sum=float((counts * centres).sum()),
                sum_squares=float((counts * centres**2).sum()),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=step,
            )
