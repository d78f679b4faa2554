"""Updates that are replayed as CUDA graphs: `train.py fit --graph_updates`.

A GPU executes the kernels of a small network faster than Python starts them. A CUDA graph contains
all kernels of an update, from the loss to the step of the optimizer, and one call starts them.

A graph repeats its kernels on the same memory. Numbers that Python computed in the recorded update
do not change. `UpdateGraphs` therefore runs the first update of each kind without a graph, and
observes whether it reads or changes such values. If so, no update is replayed.
"""

import random
import sys
import warnings
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.core.interval_means import IntervalMeans

if TYPE_CHECKING:
    from lightning_modules.core.module import GenerativeModule

Batch = dict[str, Any]
DEVICE = "cuda"
RATE_TYPE = torch.float32  # of learning rates, as fused optimizers need it on a GPU
MAX_GRAPHS = 8  # each shape of a batch needs its own graph
CHANGING = ("global_step", "current_epoch", "fit_loop", "callback_metrics")  # of the Trainer
LIBRARIES = ("torch", "pytorch_lightning", "torchmetrics")  # values in their objects do not count
OWN = {"_trainer", "_means", "recent_losses", "_grad_norm", "graphs"}  # attributes of base classes


def record(update: Callable[[], None]) -> Callable[[], None]:
    """Record the kernels that `update` starts, and return a function that starts them again.

    The kernels do not run while they are recorded.
    """
    graph = torch.cuda.CUDAGraph()
    # Threads that load data may use the GPU meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        update()
    return graph.replay


def make_capturable(optimizer: Optimizer) -> None:
    """Move the learning rates and step numbers of an optimizer to the device, as graphs need it."""
    for group in optimizer.param_groups:
        group["capturable"] = True
        # Learning rate schedules change a tensor in place.
        group["lr"] = torch.tensor(
            float(group["lr"]), dtype=RATE_TYPE, device=group["params"][0].device
        )
    for parameter, state in optimizer.state.items():
        state["step"] = state["step"].to(parameter.device)


def make_eager(checkpoint: dict[str, Any]) -> None:
    """Undo `make_capturable` in a checkpoint, so that it is the same with and without graphs."""
    for state in checkpoint["optimizer_states"]:
        for group in state["param_groups"]:
            group |= {"capturable": False, "lr": float(group["lr"])}
    for schedule in checkpoint["lr_schedulers"]:
        schedule["_last_lr"] = [float(rate) for rate in schedule["_last_lr"]]


class ObservedTrainer:
    """Trainer that notes in `read` which of its changing values are read."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.read: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in CHANGING:
            self.read.append(name)
        return getattr(self._trainer, name)


class ObservedBatch(dict[str, Any]):
    """Batch that notes in `reads_seed` whether its seed is read."""

    reads_seed = False

    def __getitem__(self, name: str) -> Any:
        self.reads_seed |= name == "seed"
        return super().__getitem__(name)


def values_of(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """Return the numbers and texts in an object, and the identities of tensors and modules.

    Args:
        value: Any Python object.
        inside: Identities of the objects that contain `value`.
    """
    if isinstance(value, bool | int | float | str | None):
        return value
    inside = *inside, id(value)
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
    return [
        (name, values_of(part, inside)) for name, part in parts.items() if id(part) not in inside
    ]


def attributes_of(model: torch.nn.Module) -> dict[str, Any]:
    """Return the values of all attributes of a system and its submodules, by dotted name."""
    return {
        f"{prefix}.{name}".lstrip("."): values_of(value)
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if prefix or name not in OWN
    }


def generator_states(device: torch.device) -> list[Any]:
    """Return the states of the random generators that a graph does not use."""
    _, keys, position, *_ = np.random.get_state()
    states = [random.getstate(), np.asarray(keys).tobytes(), position]
    return states if device.type == "cpu" else [*states, torch.get_rng_state().tolist()]


def observe(model: "GenerativeModule", update: Callable[[Batch], None], batch: Batch) -> str | None:
    """Run an update and return why a graph cannot repeat it; None if it can."""
    trainer, observed = ObservedTrainer(model._trainer), ObservedBatch(batch)
    attributes, states = attributes_of(model), generator_states(model.device)
    model._trainer = trainer  # type: ignore[assignment]
    waits: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            if model.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            update(observed)
    finally:
        model._trainer = trainer._trainer
        if model.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    if trainer.read:
        return f"the loss reads trainer.{trainer.read[0]}"
    if observed.reads_seed:
        return "the loss reads the seed of the batch"
    for name, value in attributes_of(model).items():
        if attributes.get(name, ...) != value:
            return f"the loss changes the attribute {name}"
    if generator_states(model.device) != states:
        return "the loss uses random numbers of the CPU"
    for wait in waits:
        if "synchroniz" in str(wait.message):
            return f"{wait.filename}, line {wait.lineno}, waits for the device"
    return None


class UpdateGraph:
    """Graph of one update, for batches of one shape.

    Args:
        model: System that is trained.
        update: Function that makes an update with a batch.
        batch: Batch whose shape the graph is for.
    """

    def __init__(
        self, model: "GenerativeModule", update: Callable[[Batch], None], batch: Batch
    ) -> None:
        self.inputs = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        self.tensors = [name for name, value in batch.items() if isinstance(value, Tensor)]
        before = model._means, model.recent_losses
        self.means = IntervalMeans()
        self.losses: deque[tuple[int, Tensor, Tensor]] = deque()
        model._means, model.recent_losses = self.means, self.losses
        try:
            self.replay = record(partial(update, self.inputs))
        finally:
            model._means, model.recent_losses = before

    def run(self, model: "GenerativeModule", batch: Batch) -> None:
        """Make the update with another batch."""
        torch._foreach_copy_(
            [self.inputs[name] for name in self.tensors], [batch[name] for name in self.tensors]
        )
        self.replay()
        model._means.include(self.means)
        for _, loss, _ in self.losses:
            model.record_loss(loss.clone(), batch)


class UpdateGraphs:
    """Graphs of the updates of a system.

    Attributes:
        obstacle: Why no update is replayed; None if updates are replayed.
        is_prepared: Whether `prepare` was called.
    """

    def __init__(self) -> None:
        self.obstacle: str | None = None
        self.is_prepared = False
        self._graphs: dict[Hashable, UpdateGraph | None] = {}  # None: observed, not yet recorded

    def prepare(self, model: "GenerativeModule", obstacle: str | None) -> None:
        """Prepare the optimizers at the start of training.

        Args:
            model: System that is trained.
            obstacle: Why each step of the trainer has one update, which is never replayed.
        """
        self.is_prepared = True
        self._refuse(model, obstacle or self._find_obstacle(model))
        if self.obstacle is None:
            for optimizer in model.trainer.optimizers:
                make_capturable(optimizer)

    def _find_obstacle(self, model: "GenerativeModule") -> str | None:
        trainer = model.trainer
        if model.device.type != DEVICE:
            return f"the device is {model.device.type}, not {DEVICE}"
        if model.updates_per_step == 1:
            return "--updates_per_step is 1"
        if not isinstance(trainer.strategy, SingleDeviceStrategy):
            return f"{type(trainer.strategy).__name__} exchanges gradients between processes"
        if trainer.accumulate_grad_batches * getattr(model, "accumulate", 1) > 1:
            return "an update uses the gradients of several batches"
        for optimizer in trainer.optimizers:
            if any("capturable" not in group for group in optimizer.param_groups):
                return f"the optimizer {type(optimizer).__name__} has no argument `capturable`"
        return None

    def _refuse(self, model: "GenerativeModule", obstacle: str | None) -> None:
        self.obstacle = obstacle
        if obstacle:
            self._graphs.clear()
            if model.trainer.is_global_zero:
                print(f"note: --graph_updates has no effect, because {obstacle}", file=sys.stderr)

    def run(
        self,
        model: "GenerativeModule",
        update: Callable[[Batch], None],
        batch: Batch,
        variant: Hashable,
    ) -> None:
        """Make an update: without a graph at first, then with the graph of its batch's shape.

        Args:
            model: System that is trained.
            update: Function that makes an update with a batch.
            batch: Batch to train on.
            variant: Further value for which an update needs its own graph.
        """
        if self.obstacle:
            update(batch)
            return
        kind = (
            variant,
            *(
                (name, value.shape, value.dtype)
                if isinstance(value, Tensor)
                else (name, repr(value))
                for name, value in batch.items()
                if name != "seed"
            ),
        )
        if kind not in self._graphs:
            self._graphs[kind] = None
            obstacle = observe(model, update, batch)
            if len(self._graphs) > MAX_GRAPHS:
                obstacle = f"batches have more than {MAX_GRAPHS} shapes"
            self._refuse(model, obstacle)
            return
        graph = self._graphs[kind] = self._graphs[kind] or UpdateGraph(model, update, batch)
        graph.run(model, batch)
