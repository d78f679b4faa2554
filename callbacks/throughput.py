"""Write speed and memory use to `throughput.csv`."""

import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, Trainer

from callbacks.publish import log_values
from callbacks.run_files import CSVLog
from lightning_modules.core.module import GenerativeModule


class Throughput(Callback):
    """Writes throughput, total time, time outside of steps and peak memory to `throughput.csv`.

    One row is written per logging interval. Times are not in `metrics.csv`, because identical runs
    must write identical rows there.
    """

    update_periods: ClassVar[list[int]] = []  # may act after several updates

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._log = CSVLog(
            Path(trainer.default_root_dir) / "throughput.csv", keep_until=sys.maxsize
        )
        self.begin = self.now = self._interval_begin = time.perf_counter()
        self.first_step = self._interval_step = trainer.global_step
        self._inside = 0.0
        self._seen, self._waited = pl_module.units_seen, pl_module.waiting_seconds
        self._speed: float | None = None  # of the last logging interval

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: GenerativeModule, batch: Any, batch_idx: int
    ) -> None:
        self._entered = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.now = now = time.perf_counter()
        self._inside += now - self._entered
        step = trainer.global_step
        if step % trainer.log_every_n_steps == 0 and step != self._interval_step:  # type: ignore[attr-defined]  # set by a connector
            self._write(trainer, pl_module, now)

    def on_train_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if trainer.global_step != self._interval_step:
            self._write(trainer, pl_module, time.perf_counter())

    def speed(self, trainer: Trainer, pl_module: GenerativeModule) -> float:
        """Return the number of samples or tokens per second, of the last logging interval.

        In the first interval, it is the mean since the start of training.
        """
        if self._speed is not None:
            return self._speed
        units = (pl_module.units_seen - self._seen) * trainer.world_size
        return units / max(self.now - self._interval_begin, 1e-9)

    def _write(self, trainer: Trainer, pl_module: GenerativeModule, now: float) -> None:
        elapsed, step = now - self._interval_begin, trainer.global_step
        unit = pl_module.throughput_unit
        self._speed = (pl_module.units_seen - self._seen) * trainer.world_size / elapsed
        inside = self._inside - (pl_module.waiting_seconds - self._waited)
        row = {
            f"{unit}_per_second": round(self._speed, 1),
            "seconds": round(elapsed, 3),
            "seconds_outside_steps": round(elapsed - inside, 3),
            **peak_memory(),
        }
        if torch.cuda.is_available():
            row["peak_device_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
        self._log.log_metrics(row, step)
        named = {f"throughput/{name}": value for name, value in row.items()}
        log_values(trainer, {**named, "epoch": trainer.current_epoch}, step)
        self._interval_begin, self._interval_step, self._inside = now, step, 0.0
        self._seen, self._waited = pl_module.units_seen, pl_module.waiting_seconds


def peak_memory() -> dict[str, int]:
    """Return the peak memory of this process in MB as `peak_memory_mb`; nothing on Windows."""
    try:
        import resource
    except ImportError:  # Windows
        return {}
    unit = 1024**2 if sys.platform == "darwin" else 1024  # bytes on macOS, otherwise KB
    return {"peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)}
