"""Updates that are replayed as CUDA graphs: `train.py fit --graph_updates`.

A GPU executes the kernels of a small network faster than Python starts them. A CUDA graph contains
all kernels of an update, from the loss to the step of the optimizer, and one call starts them.

A graph repeats its kernels on the same memory, and values that Python computed are constants in it.
`UpdateGraphs` therefore runs the first update of each kind without a graph, and checks whether it
reads or changes such values. If it does, all updates run without graphs.
"""

import sys
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from datamodules.samplers import accumulated_batches
from lightning_modules.core.interval_means import IntervalMeans
from lightning_modules.core.python_state import python_state

if TYPE_CHECKING:
    from lightning_modules.core.module import GenerativeModule

Batch = dict[str, Any]
DEVICE = "cuda"
RATE_TYPE = torch.float32  # type of learning rates that fused optimizers read from the device
MAX_GRAPHS = 8  # each shape of a batch needs its own graph


def record(update: Callable[[], None], pool: Any) -> Callable[[], None]:
    """Record the kernels that `update` starts, and return a function that starts them again.

    The kernels do not run while they are recorded.

    Args:
        update: Function that makes an update.
        pool: Memory pool that all graphs share, since only one of them runs at a time.
    """
    graph = torch.cuda.CUDAGraph()
    # An earlier autograd graph that still exists would bring kernels to another stream.
    override = getattr(torch.autograd.graph, "set_override_stale_capture_stream", lambda on: None)
    override(True)
    try:
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # restored if recording fails
            # Threads that load data may use the GPU meanwhile.
            torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
        ):
            update()
    finally:
        override(False)
    return graph.replay


def settings_of(group: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a parameter group that are constants in a graph."""
    return {name: value for name, value in group.items() if name not in ("params", "lr")}


class UpdateGraph:
    """Graph of one update, for batches of one shape.

    The learning rates are tensors on the device, which are set before each replay.

    Args:
        model: System that is trained.
        update: Function that makes an update with a batch.
        batch: Batch whose shape the graph is for.
        pool: Memory pool of the graphs.
    """

    def __init__(
        self, model: "GenerativeModule", update: Callable[[Batch], None], batch: Batch, pool: Any
    ) -> None:
        self.tensors = [name for name, value in batch.items() if isinstance(value, Tensor)]
        self.inputs = {name: value for name, value in batch.items() if name != "seed"}
        self.inputs |= {name: batch[name].clone() for name in self.tensors}
        self.groups = [group for one in model.trainer.optimizers for group in one.param_groups]
        self.settings = [settings_of(group) for group in self.groups]
        self.rates = [
            torch.full((), group["lr"], dtype=RATE_TYPE, device=model.device)
            for group in self.groups
        ]
        self.written: list[float] = [group["lr"] for group in self.groups]
        self.means = IntervalMeans()
        self.losses: deque[tuple[int, Tensor, Tensor]] = deque()
        before = model._means, model.recent_losses
        model._means, model.recent_losses = self.means, self.losses
        for group, rate in zip(self.groups, self.rates):
            group |= {"lr": rate, "capturable": True}
        try:
            self.replay = record(partial(update, self.inputs), pool)
        finally:
            model._means, model.recent_losses = before
            for group, number, settings in zip(self.groups, self.written, self.settings):
                group |= {"lr": number, **settings}

    def changed_setting(self) -> str | None:
        """Return the name of an optimizer setting that differs from the recorded one."""
        for group, settings in zip(self.groups, self.settings):
            for name, value in settings_of(group).items():
                if settings.get(name, ...) != value:
                    return name
        return None

    def run(self, model: "GenerativeModule", batch: Batch) -> None:
        """Make the update with another batch."""
        for number, group in enumerate(self.groups):
            if group["lr"] != self.written[number]:
                self.written[number] = group["lr"]
                self.rates[number].fill_(group["lr"])
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
        self.clear()

    def clear(self) -> None:
        """Remove all graphs, at the end of training."""
        self.obstacle: str | None = None
        self.is_prepared = False
        self._graphs: dict[Hashable, UpdateGraph | None] = {}  # None: checked, not yet recorded
        self._flags: list[bool] = []  # `requires_grad` and `training` when the graphs were recorded
        self._limit_noted = False
        self._pool: Any = None

    def prepare(self, model: "GenerativeModule", obstacle: str | None) -> None:
        """Check at the start of training whether updates can be replayed.

        Args:
            model: System that is trained.
            obstacle: Reason for one update per step, in which case nothing is replayed; None if a
                step may have several.
        """
        self.is_prepared = True
        self._flags = flags_of(model)
        if reason := obstacle or self._find_obstacle(model):
            self._refuse(model, reason)

    def _find_obstacle(self, model: "GenerativeModule") -> str | None:
        trainer = model.trainer
        if model.device.type != DEVICE:
            return f"the device is {model.device.type}, not {DEVICE}"
        if model.updates_per_step == 1:
            return "--updates_per_step is 1"
        if not isinstance(trainer.strategy, SingleDeviceStrategy):
            return f"{type(trainer.strategy).__name__} exchanges gradients between processes"
        if accumulated_batches(trainer, model) > 1:
            return "an update uses the gradients of several batches"
        for optimizer in trainer.optimizers:
            if not is_capturable(optimizer):
                return f"{type(optimizer).__name__} has no option `capturable` or is not fused"
        return None

    def _refuse(self, model: "GenerativeModule", obstacle: str) -> None:
        self.obstacle = obstacle
        replayed = any(self._graphs.values())
        self._graphs.clear()
        if model.trainer.is_global_zero:
            what = "updates are no longer replayed" if replayed else "no update is replayed"
            print(f"note: --graph_updates: {what}, because {obstacle}", file=sys.stderr)

    def check(self, model: "GenerativeModule") -> None:
        """Remove the graphs if parameters were frozen or a mode has changed, once per interval."""
        if (flags := flags_of(model)) != self._flags:
            self._graphs.clear()
            self._flags = flags

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
                else (name, str(value))
                for name, value in batch.items()
                if name != "seed"
            ),
        )
        if kind not in self._graphs:
            self._first_update(model, update, batch, kind)
            return
        graph = self._graphs[kind]
        if graph is None:
            try:
                graph = self._graphs[kind] = self._record(model, update, batch)
            except Exception as error:  # an operation that cannot be recorded
                for optimizer in model.trainer.optimizers:
                    optimizer.zero_grad()
                reason = str(error).strip().partition("\n")[0]
                self._refuse(model, f"recording failed: {type(error).__name__}: {reason}")
                update(batch)
                return
        if name := graph.changed_setting():
            self._refuse(model, f"the optimizer's {name} changes")
            update(batch)
            return
        graph.run(model, batch)

    def _first_update(
        self,
        model: "GenerativeModule",
        update: Callable[[Batch], None],
        batch: Batch,
        kind: Hashable,
    ) -> None:
        """Make the first update of a kind and check whether a graph can repeat it."""
        if len(self._graphs) == MAX_GRAPHS:
            update(batch)
            if not self._limit_noted and model.trainer.is_global_zero:
                print(
                    f"note: --graph_updates: batches have more than {MAX_GRAPHS} shapes; updates "
                    "with further shapes are not replayed",
                    file=sys.stderr,
                )
            self._limit_noted = True
            return
        self._graphs[kind] = None
        if reason := python_state(model, update, batch):
            self._refuse(model, reason)

    def _record(
        self, model: "GenerativeModule", update: Callable[[Batch], None], batch: Batch
    ) -> UpdateGraph:
        if self._pool is None and DEVICE == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        return UpdateGraph(model, update, batch, self._pool)


def flags_of(model: torch.nn.Module) -> list[bool]:
    """Return whether each parameter needs a gradient and each module is in training mode."""
    flags = [parameter.requires_grad for parameter in model.parameters()]
    return flags + [module.training for module in model.modules()]


def is_capturable(optimizer: Optimizer) -> bool:
    """Return whether a graph can contain the steps of an optimizer."""
    return "capturable" in optimizer.defaults and all(
        group.get("fused") for group in optimizer.param_groups
    )
