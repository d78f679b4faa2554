"""Number of updates of a run, also of a run that is resumed with batches of another size."""

import math
from typing import Any, NamedTuple

from pytorch_lightning import Trainer

from datamodules.samplers import accumulated_batches


class Position(NamedTuple):
    """Position at which a run resumes.

    Attributes:
        updates: Number of updates so far.
        epoch: Number of the epoch, from 0.
        batch: Number of batches of this epoch so far, in the present batch size.
    """

    updates: int
    epoch: int
    batch: int


def planned_updates(trainer: Trainer, module: Any, batches: int) -> float:
    """Return the number of updates of the whole run; infinity if it has no limit.

    If the length of a run is given in epochs, and the batch size or the number of processes has
    changed, the updates so far are counted, and those of the remaining epochs added.

    Args:
        trainer: Trainer of the run.
        module: System that is trained.
        batches: Number of batches of an epoch.
    """
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs not in (None, -1):
        parts = accumulated_batches(trainer, module)
        per_epoch = math.ceil(batches / parts)
        updates, epoch, batch = module.resumed_at or Position(0, 0, 0)
        rest = per_epoch - batch // parts if batch < batches else 0
        limits.append(updates + max(0, rest + per_epoch * (trainer.max_epochs - epoch - 1)))
    return min(limits, default=math.inf)


def updates_of_run(trainer: Trainer, module: Any) -> float:
    """Return the number of updates of the whole run; infinity if it has no limit."""
    total: float = trainer.estimated_stepping_batches  # sets `num_training_batches`
    # Lightning counts neither the updates before a resume nor the accumulated batches of a GAN.
    by_lightning = module.resumed_at is None and getattr(module, "accumulate", 1) == 1
    if by_lightning or trainer.max_epochs in (None, -1):
        return total
    return planned_updates(trainer, module, int(trainer.num_training_batches))
