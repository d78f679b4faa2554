"""Atomic writing of checkpoints, from which a run resumes with identical results."""

import errno
import math
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Checkpoint, Timer
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn

from callbacks.non_finite_guard import check_finite
from common.errors import UserError
from common.run import Run
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.sharded_checkpoints import SHARDS, consolidate, remove_shards


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in the same folder, then renames the file.

    Every `*.ckpt` on disk is therefore complete, even if the process is killed. Lightning's own
    writer moves the file from TMPDIR, which is atomic only within one file system.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f"{path.name}.tmp*"):
            leftover.unlink(missing_ok=True)
        temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            if SHARDS not in checkpoint:  # those of a run that was sharded before
                remove_shards(path)
        except (OSError, RuntimeError) as error:
            # torch.save raises a RuntimeError of its file writer if the disk is full.
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
                raise
            reason = getattr(error, "strerror", None) or "is the disk full?"
            last = path.parent / "last.ckpt"
            remedy = "resume with --ckpt_path last" if last.exists() else "start again"
            raise OSError(
                getattr(error, "errno", errno.ENOSPC),
                f"could not be written ({reason}); free some space and {remedy}",
                str(path),
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        content = super().load_checkpoint(path, map_location, weights_only)
        return consolidate(Path(path), content)


EPOCH_SECONDS = 30  # minimum time between two saves after epochs without validation


class RunCheckpoint(Checkpoint):
    """Saves `last.ckpt` regularly, and `best.ckpt` when the monitored metric improves.

    The metric is the system's `monitor`. For a system without one, it is the `best_metric` of the
    first callback that has one, such as the FID if `fid.count` is above 0. Without any metric, no
    `best.ckpt` is saved.

    All files are in the folder `checkpoints/` of the run. `last.ckpt` is saved after every
    validation, every `every_n_train_steps` updates and when training ends. After an epoch without
    validation, it is saved if 30 seconds (`EPOCH_SECONDS`) have passed since the last save. If a
    validation is due at the same step, the validation runs first. Otherwise, a run that is killed
    between saving and validation would skip this validation when it is resumed. A validation
    between two batches of one update saves `last.ckpt` when this update is complete.

    After SIGTERM or Ctrl-C, the run finishes the current update and a validation due at this step,
    saves a checkpoint and exits with code 143 or 130. A second signal exits at once. If the
    gradients are not finite, an error is raised and no checkpoint is overwritten.

    Args:
        every_n_train_steps: Number of updates between additional saves of `last.ckpt`, besides the
            saves after validation. None disables the additional saves.
        top_k: Number of best checkpoints to keep. `best.ckpt` is the best one; with 2 or more, all
            of them are also `top/<update>.ckpt`.
        keep_every_n_train_steps: Number of updates between checkpoints that are never deleted, in
            `kept/<update>.ckpt`. They are copies of the `last.ckpt` saved at or after these
            updates. None keeps no such checkpoints.
    """

    def __init__(
        self,
        every_n_train_steps: PositiveInt | None = None,
        top_k: PositiveInt = 1,
        keep_every_n_train_steps: PositiveInt | None = None,
    ) -> None:
        self.every_n_train_steps = every_n_train_steps
        self.top_k, self.keep_every_n_train_steps = int(top_k), keep_every_n_train_steps
        self.best: list[tuple[float, int]] = []  # values and updates, best first
        self._saved_at, self._saved_time = -1, 0.0
        self._signal = 0
        self._postponed = False  # a validation within an update could not save `last.ckpt`
        self._handlers: dict[int, Any] = {}

    @property
    def update_periods(self) -> list[int]:
        """Numbers of updates at whose multiples this callback acts."""
        periods = (self.every_n_train_steps, self.keep_every_n_train_steps)
        return [int(period) for period in periods if period]

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = [(value, step) for value, step in state_dict["best"]]

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._saved_at, self._saved_time = trainer.global_step, time.monotonic()
        # Replaces Lightning's handlers, which would abort a running validation.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._on_signal)

    def on_exception(
        self, trainer: Trainer, pl_module: GenerativeModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")  # Lightning does not call it after an exception

    def teardown(self, trainer: Trainer, pl_module: GenerativeModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            raise SystemExit(128 + number)
        self._signal = number
        if number == signal.SIGINT:
            # A signal may interrupt a `print`, which cannot be entered twice.
            os.write(2, b"\nfinishing this update, press Ctrl-C again to stop at once\n")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        loop = trainer.fit_loop
        if self._within_update(trainer, pl_module):
            return
        # Without validation samples Lightning does not call on_validation_end.
        validated = len(trainer.datamodule.split("val"))  # type: ignore[attr-defined]
        if validated and loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
            return  # on_validation_end saves this step
        step = trainer.global_step
        stop = self._received_signal(trainer)
        if step != self._saved_at and (
            any(step % period == 0 for period in self.update_periods)
            or stop
            or self._postponed
            or (trainer.is_last_batch and self._is_old(trainer))
            or trainer.should_stop
            or step == trainer.max_steps
        ):
            self._save(trainer, pl_module, "last")
        if stop:
            raise SystemExit(128 + stop)

    @staticmethod
    def _within_update(trainer: Trainer, pl_module: GenerativeModule) -> bool:
        """Return whether further batches of the current update follow.

        Checkpoints contain no gradients: saving before the optimizer step would lose them.
        """
        return trainer.fit_loop._should_accumulate() or pl_module.mid_update

    def _is_old(self, trainer: Trainer) -> bool:
        """Return whether 30 seconds have passed since the last save, on any rank."""
        old = time.monotonic() - self._saved_time > EPOCH_SECONDS
        return trainer.strategy.reduce_boolean_decision(old, all=False)

    def on_validation_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        monitor = monitored(trainer, pl_module)
        if monitor is not None:
            self._update_best(trainer, pl_module, *monitor)
        if self._within_update(trainer, pl_module):
            self._postponed = True
            return
        self._save(trainer, pl_module, "last")
        if stop := self._received_signal(trainer):
            raise SystemExit(128 + stop)

    def _update_best(
        self, trainer: Trainer, pl_module: GenerativeModule, name: str, mode: str
    ) -> None:
        """Save the best checkpoints if the value of the monitored metric is among the best."""
        if name not in trainer.callback_metrics:
            logged = [key for key in trainer.callback_metrics if key.startswith("val/")]
            raise UserError(
                f"{type(pl_module).__name__}.monitor is {name}, but validation does not "
                f"log this value; it logs {', '.join(sorted(logged)) or 'nothing'}; "
                "set monitor to one of the logged values"
            )
        value, step = trainer.callback_metrics[name].item(), trainer.global_step
        if math.isnan(value):
            return
        sign = 1 if mode == "min" else -1
        before = self.best
        # Python's sort is stable: of equal values, the first one stays the best.
        ranked = sorted([*before, (value, step)], key=lambda one: sign * one[0])
        self.best = ranked[: self.top_k]
        if (value, step) not in self.best:
            return
        run = Run(trainer.default_root_dir)
        if trainer.is_global_zero:
            best_value, best_step = self.best[0]
            run.record(best={"name": name, "value": best_value, "step": best_step})
        if self.top_k > 1:
            self._save(trainer, pl_module, f"top/{step}")
            for _, old in set(before) - set(self.best):
                if trainer.is_global_zero:
                    path = run.checkpoint(f"top/{old}")
                    path.unlink(missing_ok=True)
                    remove_shards(path)
        if self.best[0] == (value, step):
            self._save(trainer, pl_module, "best")

    def on_train_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if trainer.global_step != self._saved_at:
            self._save(trainer, pl_module, "last")
        if trainer.is_global_zero:
            run = Run(trainer.default_root_dir)
            run.record(epoch=trainer.current_epoch, ended_by=ended_by(trainer))

    def _received_signal(self, trainer: Trainer) -> int:
        """Return the number of the received signal, 0 for none; a signal to one rank stops all."""
        if trainer.world_size == 1:
            return self._signal
        number = torch.tensor(self._signal, device=trainer.strategy.root_device)
        # Lightning's `reduce` would also make all ranks wait at a barrier.
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        return int(number)

    def _save(self, trainer: Trainer, pl_module: GenerativeModule, name: str) -> None:
        check_finite(trainer, pl_module)
        run, step = Run(trainer.default_root_dir), trainer.global_step
        trainer.save_checkpoint(run.checkpoint(name))
        if name != "last":
            return
        period = self.keep_every_n_train_steps
        if period and step // period > max(0, self._saved_at) // period:
            trainer.save_checkpoint(run.checkpoint(f"kept/{step}"))
        self._saved_at, self._saved_time, self._postponed = step, time.monotonic(), False
        seen = pl_module.seen_by_all()
        if trainer.is_global_zero:
            unit = pl_module.throughput_unit
            run.record(step=step, epoch=trainer.current_epoch, **{f"{unit}_seen": seen})


def ended_by(trainer: Trainer) -> str:
    """Return the option or the kind of callback that has ended a training."""
    if trainer.global_step == trainer.max_steps:
        return "max_steps"
    if trainer.current_epoch == trainer.max_epochs:
        return "max_epochs"
    timers = any(isinstance(one, Timer) for one in trainer.callbacks)  # type: ignore[attr-defined]
    return "max_time" if timers else "the callback that has stopped it, such as EarlyStopping"


def monitored(trainer: Trainer, module: GenerativeModule) -> tuple[str, str] | None:
    """Return the name of the value that selects `best.ckpt`, and "min" or "max"; None without.

    A callback declares such a value in its attribute `best_metric`.
    """
    if module.monitor is not None:
        return module.monitor
    declared = [getattr(callback, "best_metric", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return next(filter(None, declared), None)
