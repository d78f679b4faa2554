"""Python state that an update depends on, which a CUDA graph of the update cannot repeat."""

import contextlib
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from lightning_modules.core.module import GenerativeModule

Batch = dict[str, Any]
LIBRARIES = ("torch", "pytorch_lightning", "torchmetrics")  # their objects are not looked into
CHANGING_TRAINER_ATTRIBUTES = (
    "global_step",
    "current_epoch",
    "fit_loop",
    "callback_metrics",
    "_results",
)
# Attributes of the base classes that an update may change.
IGNORED_ATTRIBUTES = {
    *("_trainer", "_means", "recent_losses", "_grad_norm", "graphs"),
    *("_checked", "_periods", "_obstacle"),
}


class ObservedTrainer:
    """Trainer that notes in `read` which of its changing attributes are read."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.read: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in CHANGING_TRAINER_ATTRIBUTES:
            self.read.append(name)
        return getattr(self._trainer, name)


class ObservedBatch(Batch):
    """Batch that notes in `reads_seed` whether its seed is read."""

    reads_seed = False

    def __getitem__(self, name: str) -> Any:
        self.reads_seed |= name == "seed"
        return super().__getitem__(name)


class HostTensors(TorchDispatchMode):
    """Notes in `used` whether an operation has a tensor on the CPU as an argument."""

    used = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        self.used |= any(isinstance(one, Tensor) and one.device.type == "cpu" for one in leaves)
        return func(*args, **(kwargs or {}))


def snapshot(value: Any, seen: set[int]) -> Any:
    """Return the numbers and strings in an object, and the identities of tensors and modules.

    Args:
        value: Any Python object.
        seen: Identities of the objects visited so far, whose contents are not repeated.
    """
    if isinstance(value, bool | int | float | str | None):
        return value
    if id(value) in seen:
        return id(value)
    seen.add(id(value))
    if isinstance(value, dict):
        parts = value
    elif isinstance(value, list | tuple | deque):
        parts = dict(enumerate(value))
    elif (
        isinstance(value, type | torch.nn.Module)
        or not hasattr(value, "__dict__")
        or type(value).__module__.partition(".")[0] in LIBRARIES
    ):
        return id(value)
    else:
        parts = vars(value)
    return [(name, snapshot(part, seen)) for name, part in parts.items()]


def attributes_of(model: torch.nn.Module) -> dict[str, Any]:
    """Return snapshots of all attributes of a system and its submodules, by dotted name."""
    return {
        f"{prefix}.{name}".lstrip("."): snapshot(value, set())
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if prefix or name not in IGNORED_ATTRIBUTES
    }


def generator_states(device: torch.device) -> list[Any]:
    """Return the states of the random generators that a graph does not use."""
    _, keys, position, *_ = np.random.get_state()
    states = [random.getstate(), np.asarray(keys).tobytes(), position]
    return states if device.type == "cpu" else [*states, torch.get_rng_state().tolist()]


@contextlib.contextmanager
def synchronisations(device: torch.device) -> Iterator[list[str]]:
    """Yield a list that receives each line of code which waits for the device, on a GPU."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for one in caught:
        if "called a synchronizing CUDA operation" in str(one.message):
            found.append(f"{one.filename}, line {one.lineno}")


def python_state(
    model: "GenerativeModule", update: Callable[[Batch], None], batch: Batch
) -> str | None:
    """Run an update and return which Python state it depends on; None if it has none."""
    for name, value in batch.items():
        if not isinstance(value, Tensor | int | float | str | None):
            update(batch)
            return f"batch[{name!r}] is a {type(value).__name__}"
    trainer, observed, host = ObservedTrainer(model._trainer), ObservedBatch(batch), HostTensors()
    attributes, states = attributes_of(model), generator_states(model.device)
    model._trainer = trainer  # type: ignore[assignment]
    try:
        with (
            synchronisations(model.device) as lines,
            host if model.device.type != "cpu" else contextlib.nullcontext(),
        ):
            update(observed)
    finally:
        model._trainer = trainer._trainer
    if trainer.read:
        return f"the loss reads trainer.{trainer.read[0]}"
    if observed.reads_seed:
        return "the loss reads the seed of the batch"
    for name, value in attributes_of(model).items():
        if attributes.get(name, ...) != value:
            return f"the loss changes the attribute {name}"
    if generator_states(model.device) != states:
        return "the loss uses random numbers of the CPU"
    if lines:
        return f"{lines[0]}, waits for the device"
    return "the loss uses a tensor on the CPU" if host.used else None
