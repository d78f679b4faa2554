"""Restore what Lightning does not restore when a run resumes, and check the learning rates."""

import math
import sys
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import tensor
from torch.optim.lr_scheduler import LambdaLR

from common.errors import UserError
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.run_length import Position
from lightning_modules.optim.schedules import ConstantThenLinear


class Resume(Callback):
    """Restores metrics and the count of epochs, and checks the learning rates.

    Callbacks such as `EarlyStopping` read the last metrics, which a resumed run may need before its
    first validation.

    The learning rate schedule of many systems depends on the number of updates of the whole run. If
    this number has changed, the learning rate would jump. Without `extend`, this is an error.

    Args:
        extend: Whether the learning rate may change to the value that the schedule of the new
            length has at this update.
    """

    def __init__(self, extend: bool = False) -> None:
        self.extend = extend
        self._metrics: dict[str, float] | None = None  # of the checkpoint

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: GenerativeModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["metrics"] = {
            name: value.item() for name, value in trainer.callback_metrics.items()
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: GenerativeModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._metrics = checkpoint["metrics"]
            loop = checkpoint["loops"]["fit_loop"]
            progress = loop["epoch_loop.batch_progress"]["current"]
            trainer.datamodule.adapt_progress(progress)  # type: ignore[attr-defined]
            epoch = loop["epoch_progress"]["current"]["ready"] - 1
            # Tuners restore a checkpoint of the start, with no epoch. FSDP2 builds the schedules
            # before this hook, so they have the length that Lightning expects.
            if epoch >= 0 and not trainer.strategy.restore_checkpoint_after_setup:
                step = checkpoint["global_step"]
                pl_module.resumed_at = Position(step, epoch, progress["processed"])

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if self._metrics is None:
            return
        loop = trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        if loop.restarted_mid_epoch and epochs.processed == epochs.ready:
            # The checkpoint was saved after the last batch of an epoch. Lightning would not count
            # the start of the next epoch, and a second resumed run would train an epoch too many.
            loop.reset_restart_stage()
        trainer.callback_metrics.update(
            {name: tensor(value) for name, value in self._metrics.items()}
        )
        for config in trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            if isinstance(schedule, ConstantThenLinear) and schedule.has_ended:
                raise UserError(
                    f"the learning rate is 0 from update {schedule.constant + schedule.decay:,} "
                    "on, where its schedule ends; start a new run with --init_from to train longer"
                )
            if isinstance(schedule, LambdaLR):
                self._check_schedule(trainer, pl_module, schedule)

    def _check_schedule(
        self, trainer: Trainer, module: GenerativeModule, schedule: LambdaLR
    ) -> None:
        groups = schedule.optimizer.param_groups
        rates = [
            base * factor(schedule.last_epoch)
            for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas)
        ]
        changed = [
            (group["lr"], rate)
            for group, rate in zip(groups, rates)
            if not math.isclose(group["lr"], rate, rel_tol=1e-9, abs_tol=1e-15)
        ]
        if not changed:
            return
        if trainer.global_step == 0:  # `LearningRateFinder` leaves the schedule at the former rate
            schedule.base_lrs = [group["lr"] for group in groups]
            for group, base, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas):
                group["initial_lr"], group["lr"] = base, base * factor(0)
            return
        step, total = trainer.global_step, module.total_updates
        change = f"from {changed[0][0]:.3g} to {changed[0][1]:.3g}"
        if not self.extend:
            raise UserError(
                f"with a length of {total:,} updates, the schedule would change the learning rate "
                f"{change} at update {step:,}; add --extend to accept this, or start a new run "
                "with --init_from"
            )
        for group, rate in zip(groups, rates):
            group["lr"] = rate
        if trainer.is_global_zero:
            print(
                f"--extend: the schedule now ends at update {total:,}; the learning rate changes "
                f"{change} at update {step:,}",
                file=sys.stderr,
            )
