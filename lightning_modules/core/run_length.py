"""Number of updates of a run, also of a run that is resumed with batches of another size."""

import math
from typing import NamedTuple

from pytorch_lightning import Trainer


class Position(NamedTuple):
    """Position at which a run resumes.

    Attributes:
        updates: Number of updates so far.
        epoch: Number of complete epochs.
        batch: Number of batches of this epoch, in the present batch size.
    """

    updates: int
    epoch: int
    batch: int


def updates_of_run(trainer: Trainer, resumed_at: Position | None) -> float:
    """Return the number of updates of the whole run; infinity if it has no limit.

    If the length of a run is given in epochs, and the batch size or the number of processes has
    changed, the updates so far are counted, and those of the remaining epochs added.
    """
    total: float = trainer.estimated_stepping_batches  # sets `num_training_batches`
    if resumed_at is None or trainer.max_epochs in (None, -1):
        return total
    batches, parts = trainer.num_training_batches, trainer.accumulate_grad_batches
    rest = math.ceil((batches - resumed_at.batch) / parts)
    epochs = trainer.max_epochs - resumed_at.epoch - 1
    total = resumed_at.updates + rest + math.ceil(batches / parts) * epochs
    return min(total, trainer.max_steps) if trainer.max_steps > 0 else total
