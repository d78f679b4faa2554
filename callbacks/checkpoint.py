"""Atomic writing of checkpoints, from which a run resumes with identical results."""

import errno
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn

from callbacks.non_finite_guard import check_finite
from common.errors import UserError
from lightning_modules.core.module import GenerativeModule

TERMINATED = 128 + signal.SIGTERM  # 143, the exit code that shells report after SIGTERM


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
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the disk fills up
            reason = getattr(error, "strerror", None) or "is the disk full?"
            raise OSError(
                getattr(error, "errno", errno.ENOSPC),
                f"could not be written ({reason}); the last good checkpoint is kept: "
                "free some space and resume with --ckpt_path last",
                str(path),
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


class RunCheckpoint(Checkpoint):
    """Saves `last.ckpt` regularly, and `best.ckpt` when the system's metric `monitor` improves.

    Both files are in the folder `checkpoints/` of the run. `last.ckpt` is saved after every
    validation, or after every epoch if there is no validation. It is also saved every
    `every_n_train_steps` updates and when training ends. If a validation is due at the same step,
    the validation runs first. Otherwise, a run that is killed between saving and validation would
    skip this validation when it is resumed.

    After SIGTERM, the run finishes the current step and a validation due at this step, saves a
    checkpoint and exits with code 143. A second SIGTERM exits at once. If the gradients are not
    finite, an error is raised and no checkpoint is overwritten.

    Args:
        every_n_train_steps: Number of updates between additional saves of `last.ckpt`, besides the
            saves after validation. None disables the additional saves.
    """

    def __init__(self, every_n_train_steps: PositiveInt | None = None) -> None:
        self.every_n_train_steps = every_n_train_steps
        self.best: float | None = None
        self._saved_at = -1
        self._terminated = False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._saved_at = trainer.global_step
        # Replaces Lightning's SIGTERM handler, which would abort a running validation.
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if self._terminated:
            raise SystemExit(TERMINATED)
        self._terminated = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        loop = trainer.fit_loop
        # Checkpoints contain no gradients: saving before the optimizer step would lose them.
        if loop._should_accumulate() or pl_module.mid_update:
            return
        # Without validation samples Lightning does not call on_validation_end.
        validated = len(trainer.datamodule.split("val"))  # type: ignore[attr-defined]
        if validated and loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
            return  # on_validation_end saves this step
        step = trainer.global_step
        stop = self._told_to_stop(trainer)
        periodic = bool(self.every_n_train_steps) and step % (self.every_n_train_steps or 1) == 0
        if step != self._saved_at and (
            periodic
            or stop
            or trainer.is_last_batch
            or trainer.should_stop
            or step == trainer.max_steps
        ):
            self._save(trainer, pl_module, "last")
        if stop:
            raise SystemExit(TERMINATED)

    def on_validation_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        monitor = pl_module.monitor
        if monitor is not None:
            if monitor[0] not in trainer.callback_metrics:
                logged = [name for name in trainer.callback_metrics if name.startswith("val/")]
                raise UserError(
                    f"{type(pl_module).__name__}.monitor is {monitor[0]}, but validation does not "
                    f"log this value; it logs {', '.join(sorted(logged)) or 'nothing'}; "
                    "set monitor to one of the logged values"
                )
            value = trainer.callback_metrics[monitor[0]].item()
            sign = 1 if monitor[1] == "min" else -1
            if self.best is None or sign * value < sign * self.best:
                self.best = value
                self._save(trainer, pl_module, "best")
        self._save(trainer, pl_module, "last")
        if self._told_to_stop(trainer):
            raise SystemExit(TERMINATED)

    def on_train_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if trainer.global_step != self._saved_at:
            self._save(trainer, pl_module, "last")

    def _told_to_stop(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self._terminated
        # A signal to one rank stops all ranks.
        return trainer.strategy.reduce_boolean_decision(self._terminated, all=False)

    def _save(self, trainer: Trainer, pl_module: GenerativeModule, name: str) -> None:
        check_finite(trainer, pl_module)
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt")
        if name == "last":
            self._saved_at = trainer.global_step
