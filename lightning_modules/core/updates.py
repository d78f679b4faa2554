"""Several updates per step of the Trainer: small networks train at the speed of a plain loop.

Lightning calls the hooks of all callbacks and loggers around each batch. This takes 0.4 ms, which
is a large part of an update of a small network. Here, the first update of a step has all hooks.
`further_batches` yields the batches of further updates of the same step, and does between two
batches what Lightning does there: it counts batches and updates, steps the learning rate schedules
and moves the batch to the device.

A step ends after each update at which something happens: a row is logged, a checkpoint or preview
is due, validation starts, or the epoch or the run ends. The weights, logged values and checkpoints
therefore do not depend on the number of updates per step.
"""

import sys
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.core.hooks import DataHooks
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.strategies import DDPStrategy, ParallelStrategy, SingleDeviceStrategy
from pytorch_lightning.trainer.call import _call_strategy_hook
from torch import Tensor

from lightning_modules.core.ema import AveragingModule
from lightning_modules.core.graphs import UpdateGraphs
from lightning_modules.core.ranks import average_over_ranks

STEP_SECONDS = 0.2  # intended duration of a step
MAX_UPDATES = 64  # maximum number of updates that is chosen automatically

# Methods that only the first update of a step calls. A system or callback that overrides one of
# them has steps of one update.
HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)
METHODS = (*HOOKS, "training_step", "backward", "optimizer_step", "optimizer_zero_grad")

# Hooks that Lightning calls to move a batch; data modules override the last one.
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def overrides(instance: object, base: type, name: str) -> bool:
    """Return whether the class of an instance overrides a method of a base class."""
    return getattr(type(instance), name) is not getattr(base, name)


def hook_of_every_update(callback: Callback) -> str | None:
    """Return the name of a hook that a callback needs in each update; None if there is none.

    A callback whose hooks act at certain updates declares `update_periods`, a list of integers.
    Steps then end at the multiples of these numbers of updates, and its hooks are called once per
    step. All steps end at multiples of the logging interval.
    """
    if hasattr(callback, "update_periods") or isinstance(callback, Timer):
        return None
    for name in HOOKS:
        # `LambdaCallback` sets hooks of the instance, which have no `__func__`.
        if getattr(getattr(callback, name), "__func__", None) is not getattr(Callback, name):
            return name
    return None


class UpdatingModule(AveragingModule):
    """LightningModule that makes several updates in one step of the Trainer.

    Attributes:
        updates_per_step: Maximum number of updates per step. None chooses it from the duration of
            the last updates, such that a step takes about 0.2 s.
        mid_update: True between the batches of one update, when no checkpoint can be written.
        is_further: Whether the current update is not the first one of its step.
        graphs: Graphs that replay updates (`--graph_updates`); None if all updates run eagerly.
        waiting_seconds: Total time in which this process has waited for batches within steps.
    """

    updates_per_step: int | None = None
    mid_update = is_further = False
    _interrupted = False  # a validation ran within the current update
    _current_update = 1  # number of the update that is being made; the first is 1
    graphs: UpdateGraphs | None = None

    def __init__(self) -> None:
        super().__init__()
        self.waiting_seconds = 0.0
        self._chosen = 1  # number of updates per step if `updates_per_step` is None
        self._checked: list[Callback] | None = None  # callbacks for which `_inspect` was called
        self._obstacle: str | None = None  # why each step has one update
        self._periods: list[int] = []  # steps end at multiples of these numbers of updates
        self._skips_transfer = False  # whether batches stay where they are, on the CPU
        self._began = 0.0  # time at which this step began
        self._updates, self._seconds = 0, 0.0  # updates since the last choice, their duration

    # Number of updates per step

    def _inspect(self) -> None:
        """Find what limits the number of updates per step: hooks and periods of callbacks."""
        self._checked = callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        self._obstacle = self._find_obstacle()
        periods = [getattr(callback, "update_periods", []) for callback in callbacks]
        self._periods = [self.trainer.log_every_n_steps, *chain(*periods)]  # type: ignore[attr-defined]
        data = getattr(self.trainer, "datamodule", None)
        self._skips_transfer = (
            self.device.type == "cpu"
            and isinstance(data, LightningDataModule)
            and not any(overrides(self, DataHooks, name) for name in TRANSFERS)
            and not any(overrides(data, DataHooks, name) for name in TRANSFERS[:-1])
            and type(self.trainer.precision_plugin) in (Precision, MixedPrecision)
        )
        if self._obstacle and (self.updates_per_step or 1) > 1:
            self._report_obstacle()

    def _find_obstacle(self) -> str | None:
        """Return why each step must have one update; None if it may have several."""
        for base in type(self).__mro__:
            own = not base.__module__.startswith(("lightning_modules.core.", "pytorch_lightning."))
            for name in METHODS:
                if own and name in vars(base):
                    return f"{base.__name__} overrides {name}"
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if hook := hook_of_every_update(callback):
                name = type(callback).__name__
                return f"{name} overrides {hook} and does not declare `update_periods`"
        if not isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            return f"{type(self.trainer.strategy).__name__} makes the updates itself"
        if getattr(self.trainer.precision_plugin, "scaler", None):
            return f"precision {self.trainer.precision} scales the loss"
        return None

    def _report_obstacle(self) -> None:
        if self.trainer.is_global_zero:
            count = self.updates_per_step
            unused = f"--updates_per_step {count} is not used. " if count else ""
            print(
                f"note: each step of the trainer makes one update, because {self._obstacle}. "
                f"{unused}Small networks train faster with several updates per step "
                "(docs/howto/train.md); --updates_per_step 1 turns this note off.",
                file=sys.stderr,
            )

    def _choose_updates_per_step(self) -> None:
        """Choose the number of updates from the duration of the last ones, equal on all ranks."""
        if not self._updates:
            return
        mean = torch.tensor(self._seconds / self._updates, device=self.device)
        seconds = float(self.trainer.strategy.reduce(mean, reduce_op="mean"))
        self._updates, self._seconds = 0, 0.0
        before, self._chosen = self._chosen, round(STEP_SECONDS / max(seconds, 1e-9))
        self._chosen = min(max(1, self._chosen), MAX_UPDATES)
        if self._obstacle and self._chosen > before == 1 and self.updates_per_step is None:
            self._report_obstacle()

    def _validates(self) -> bool:
        """Return whether a validation follows this batch, which may be within an update."""
        loop = self.trainer.fit_loop
        return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]

    def _is_due(self, made: int, maximum: int) -> bool:
        """Return whether this step ends after its update number `made`, also without validation."""
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop
        # Lightning counts the last update of automatic optimization after `optimizer_step`.
        update = trainer.global_step + self.automatic_optimization
        return (
            made >= maximum
            or update == trainer.max_steps
            or loop._num_ready_batches_reached()
            or any(update % period == 0 for period in self._periods)
        )

    # Updates

    def ends_interval(self) -> bool:
        """Return whether a row is logged after the current update."""
        return self._current_update % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        if not self.is_further:
            if batch_idx % self.trainer.accumulate_grad_batches == 0:
                self._began = time.perf_counter()
            self._current_update = self.trainer.global_step + 1
        if self.graphs is not None and not self.graphs.is_prepared:
            self._inspect()
            self.graphs.prepare(self, self._obstacle)  # type: ignore[arg-type]

    def on_validation_end(self) -> None:
        super().on_validation_end()
        self._interrupted = self.mid_update or self.trainer.fit_loop._should_accumulate()

    def on_fit_end(self) -> None:
        if self.graphs is not None:
            self.graphs.clear()

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Make the first update of a step as Lightning does, then the further ones."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.update_ema(self._current_update)
        if self.graphs is not None and optimizer_closure._result is not None:
            # Lightning keeps the loss, whose autograd graph belongs to another stream.
            optimizer_closure._result.closure_loss = None
        loop = self.trainer.fit_loop.epoch_loop
        count = loop.automatic_optimization.optim_progress.optimizer.step.total
        for batch, index in self.further_batches():
            if index % self.trainer.accumulate_grad_batches == 0:  # the first batch of an update
                count.completed += 1  # the update before
            self._further_update(self.trainer.optimizers[0], batch, index)
        # Lightning counts one more update, but a validation may end a step within an update.
        count.completed -= loop._should_accumulate()
        count.ready = count.completed + 1

    def _further_update(
        self, optimizer: torch.optim.Optimizer, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Do what Lightning's automatic optimization does with a batch, without hooks."""
        self._current_update = self.trainer.global_step + 1
        accumulates = self.trainer.fit_loop._should_accumulate()
        self.run_update(partial(self._make_update, optimizer, batch_idx, accumulates), batch)
        if not accumulates:
            self.update_ema(self._current_update)

    def _make_update(
        self,
        optimizer: torch.optim.Optimizer,
        batch_idx: int,
        accumulates: bool,
        batch: dict[str, Any],
    ) -> None:
        """Compute the gradients of a batch; update the weights unless the update `accumulates`."""
        trainer, strategy = self.trainer, self.trainer.strategy
        with self._synchronised(not accumulates):
            output: Any = _call_strategy_hook(trainer, "training_step", batch, batch_idx)
            loss = output["loss"] if isinstance(output, dict) else output
            if batch_idx % trainer.accumulate_grad_batches == 0:
                optimizer.zero_grad()
            strategy.pre_backward(loss)
            (loss / trainer.accumulate_grad_batches).backward()
        self.on_after_backward()
        if accumulates:
            return
        self.on_before_optimizer_step(optimizer)
        clip = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        self.configure_gradient_clipping(optimizer, *clip)
        optimizer.step()

    def run_update(
        self,
        make: Callable[[dict[str, Any]], None],
        batch: dict[str, Any],
        variant: Hashable = None,
    ) -> None:
        """Call `make(batch)`, or replay its graph (`UpdateGraphs.run`).

        The first update of a step has Lightning's hooks, and the last one of a logging interval
        computes the norm of the gradient. Neither is replayed.
        """
        ends = self.ends_interval()
        if self.graphs is None or not self.is_further or ends:
            make(batch)
        else:
            self.graphs.run(self, make, batch, variant)  # type: ignore[arg-type]
        if self.graphs is not None and ends:
            self.graphs.check(self)  # type: ignore[arg-type]

    def run_backward(self, loss: Tensor) -> None:
        """Run a backward pass of manual optimization, with all hooks only in the first update.

        With DDP, the pass exchanges no gradients: call `average_gradients` before the optimizer's
        step. DDP would exchange the gradients of both networks of an adversarial system in each
        pass, although a pass computes those of one. Other strategies exchange them as usual.
        """
        with self._synchronised(False):
            if self.is_further:
                self.trainer.strategy.pre_backward(loss)
                loss.backward()
            else:
                self.manual_backward(loss)

    def average_gradients(self, gradients: list[Tensor]) -> None:
        """Average gradients over all ranks, in place; only with DDP (see `run_backward`)."""
        if self.trainer.world_size > 1 and isinstance(self.trainer.strategy, DDPStrategy):
            average_over_ranks(gradients)

    def run_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Update weights in manual optimization, with all hooks only in the first update."""
        if self.is_further:
            self.on_before_optimizer_step(optimizer)
            optimizer.step()
        else:
            self.trainer.strategy.optimizer_step(optimizer, lambda: None)

    def _synchronised(self, synchronise: bool) -> AbstractContextManager[None]:
        """Return a context in which gradients are averaged over ranks only if `synchronise`."""
        strategy: Any = self.trainer.strategy
        blocks = not synchronise and isinstance(strategy, ParallelStrategy)
        return strategy.block_backward_sync() if blocks else nullcontext()

    def further_batches(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the batches of the further updates of this step and their numbers in the epoch."""
        if self._checked is not self.trainer.callbacks:  # type: ignore[attr-defined]
            self._inspect()  # at the start, and when a tuner has replaced the callbacks
        single = self._obstacle or self._interrupted
        maximum = 1 if single else self.updates_per_step or self._chosen
        made, waited, loop = 0, self.waiting_seconds, self.trainer.fit_loop
        try:
            while True:
                updated = not (self.mid_update or loop._should_accumulate())
                made += updated
                self._interrupted &= not updated
                # With one update per step, Lightning also fetches the other batches of an update.
                if maximum == 1 or (updated and self._is_due(made, maximum)) or self._validates():
                    break
                self.is_further = True
                yield self._next_batch()
        finally:
            self.is_further = False
        self._updates += made
        self._seconds += time.perf_counter() - self._began - (self.waiting_seconds - waited)

    def _next_batch(self) -> tuple[dict[str, Any], int]:
        """Do what Lightning does from the end of one update to the start of the next."""
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop
        progress, fetcher = loop.batch_progress, trainer.fit_loop._data_fetcher
        progress.increment_processed()
        loop.update_lr_schedulers("step", update_plateau_schedulers=False)
        progress.increment_completed()
        loop.update_lr_schedulers("step", update_plateau_schedulers=True)
        if not (self.mid_update or loop._should_accumulate()):
            loop._batches_that_stepped += 1
        begin = time.perf_counter()
        batch, _, _ = next(fetcher)  # type: ignore[arg-type]
        self.waiting_seconds += time.perf_counter() - begin
        progress.is_last_batch = fetcher.done  # type: ignore[union-attr]
        if self._skips_transfer:
            batch = trainer.datamodule.on_after_batch_transfer(batch, 0)  # type: ignore[attr-defined]
        else:
            batch = trainer.precision_plugin.convert_input(batch)
            batch = self._on_before_batch_transfer(batch, dataloader_idx=0)
            batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        progress.increment_ready()
        self.on_train_batch_start(batch, loop.batch_idx)
        progress.increment_started()
        return batch, loop.batch_idx
