"""Show the progress of training, validation and test on the terminal."""

import sys
from typing import Any

from pytorch_lightning import Trainer

from callbacks.checkpoint import monitored
from callbacks.throughput import Throughput
from common.progress import BARS, PERIOD, REFRESH, Task, duration, on_terminal
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.run_length import updates_of_run

LOSSES = ("train/loss", "train/loss_g", "train/loss_d")


def shown_values(trainer: Trainer, module: GenerativeModule) -> str:
    """Return the losses of the last logging interval and the last validation value, as text."""
    monitor = monitored(trainer, module)
    values = trainer.callback_metrics
    names = (*LOSSES, monitor[0] if monitor else "val/loss")
    return "  ".join(f"{name} {values[name].item():.4g}" for name in names if name in values)


class Progress(Throughput):
    """Shows losses, the last validation value, speed and remaining time; measures the throughput.

    On a terminal, a bar shows them. Otherwise, a line is printed every 10 seconds. Losses are means
    over the last logging interval. Validation and test have a bar or lines of their own. Nothing is
    shown if Lightning's own progress bar is enabled.
    """

    def __init__(self) -> None:
        self._task: Task | None = None  # of a validation or a test
        self._bar: Any = None
        self._next = 0.0  # time of the next update of the bar, or of the next line
        self._values, self._values_of = "", -1  # text, and update at which it was written

    @staticmethod
    def _is_silent(trainer: Trainer) -> bool:
        return not trainer.is_global_zero or trainer.progress_bar_callback is not None

    # Training

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self._is_silent(trainer):
            self._next = float("inf")
            return
        self._next = self.begin + PERIOD
        self._total = updates_of_run(trainer, pl_module)
        if on_terminal():
            self._bar = BARS.add("train", None if self._total == float("inf") else self._total)
            self._next = self.begin
            self._show(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.now >= self._next:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._close()

    def _show(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        step, total = trainer.global_step, self._total
        if self._values_of != (interval := self._interval_step):
            self._values, self._values_of = shown_values(trainer, pl_module), interval
        known = total != float("inf")
        parts = [f"{step:,}/{total:,}" if known else f"{step:,}"]
        if step > self.first_step:
            parts.append(f"{self.speed(trainer, pl_module):,.0f} {pl_module.throughput_unit}/s")
            left = (self.now - self.begin) / (step - self.first_step) * (total - step)
            parts += [f"{duration(left)} left"] if known else []
        if self._bar is not None:
            BARS.update(self._bar, step, "  ".join(parts), self._values)
            self._next = self.now + REFRESH
        else:
            shown = [f"step {parts[0]}", *([self._values] if self._values else []), *parts[1:]]
            print("  ".join(shown), file=sys.stderr, flush=True)
            self._next = self.now + PERIOD

    # Validation and test

    def on_validation_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._begin_evaluation(trainer, "validation", trainer.num_val_batches)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: GenerativeModule, *arguments: Any
    ) -> None:
        self._advance()

    def on_validation_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._end_evaluation()
        self._values_of = -1  # the validation value has changed

    def on_test_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._begin_evaluation(trainer, "test", trainer.num_test_batches)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: GenerativeModule, *arguments: Any
    ) -> None:
        self._advance()

    def on_test_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._end_evaluation()

    def _begin_evaluation(
        self, trainer: Trainer, what: str, batches: list[int | float] | int | float
    ) -> None:
        if self._is_silent(trainer):
            return
        total = sum(batches) if isinstance(batches, list) else batches
        self._done = 0
        fits = trainer.state.fn == "fit"
        self._task = Task(f"{what} batches", total, *(() if fits else (0.0,)))
        self._task.update(0)

    def _advance(self) -> None:
        if self._task is not None:
            self._done += 1
            self._task.update(self._done)

    def _end_evaluation(self) -> None:
        if self._task is not None:
            self._task.close()
            self._task = None

    # End

    def on_exception(
        self, trainer: Trainer, pl_module: GenerativeModule, exception: BaseException
    ) -> None:
        self._close()

    def teardown(self, trainer: Trainer, pl_module: GenerativeModule, stage: str) -> None:
        self._close()

    def _close(self) -> None:
        self._end_evaluation()
        if self._bar is not None:
            BARS.remove(self._bar)
            self._bar = None
