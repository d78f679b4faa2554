"""Selection of the validation samples that previews and plots show."""

from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor


def preview_batch(trainer: Trainer, count: int) -> dict[str, Any]:
    """Return at most `count` validation samples, evenly spaced, on the system's device.

    Training samples are used if there is no validation split.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    split = "val" if len(data.split("val")) else "train"
    batch = data.batch(split, spread(len(data.split(split)), count))
    return on_device(batch, trainer.lightning_module.device)


def spread(size: int, count: int) -> list[int]:
    """Return min(size, count) evenly spaced indices in 0 .. size - 1, in ascending order."""
    count = min(size, count)
    return [size * i // count for i in range(count)]


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a copy of a batch with all tensors on `device`."""
    return {
        key: value.to(device) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
