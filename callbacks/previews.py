"""Save images or texts that a system outputs in training, always with the same seeds."""

import sys
import time
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from callbacks.animation import write_animation
from callbacks.preview_batch import preview_batch
from callbacks.publish import publish
from common.images import are_points, captioned
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.run_length import updates_of_run

MAX_STEPS = 20  # a preview that takes longer than 20 training steps is generated less often
MAX_SHARE = 0.1  # maximum fraction of the training time that such long previews take
MIN_PERIOD, MAX_PERIOD = 20, 1000  # bounds of the default number of updates between two previews


def title_of(module: GenerativeModule, name: str, step: int) -> str:
    """Return the title of a preview, such as "VAE: reconstructions, update 1,000"."""
    before = " (before training)" if step == 0 else ""
    return f"{type(module).__name__}: {name.replace('_', ' ')}, update {step:,}{before}"


def default_period(updates: float) -> int:
    """Return the number of updates between two previews: a tenth of the run, between 20 and 1,000.

    Args:
        updates: Number of updates of the whole run, which may be infinite.
    """
    return int(min(MAX_PERIOD, max(MIN_PERIOD, updates / 10)))


class Previews(Callback):
    """Saves previews before training, at regular intervals and when training ends.

    A preview contains images or texts that the system outputs. Before training, real images are
    saved too. When training ends, the previews become one animation, of the samples or else of the
    first kind of images. If a preview takes longer than 20 training steps (`MAX_STEPS`), previews
    are generated less often, such that they take at most 10 % of the training time (`MAX_SHARE`).

    Args:
        every_n_train_steps: Number of updates between two previews. Defaults to a tenth of the run,
            at least 20 and at most 1,000.
        count: Number of validation samples in a preview.
    """

    def __init__(
        self, every_n_train_steps: PositiveInt | None = None, count: PositiveInt = 32
    ) -> None:
        self.every_n_train_steps, self.count = every_n_train_steps, count
        self._period = every_n_train_steps or MAX_PERIOD
        self._drawn_at = -1
        self._seconds = 0.0  # duration of the last preview
        self._announced = False
        self._animated: str | None = None  # name of the previews in the animation

    @property
    def update_periods(self) -> list[int]:
        """Numbers of updates at whose multiples this callback acts."""
        return [self._period]

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if self.every_n_train_steps is None:
            self._period = default_period(updates_of_run(trainer, pl_module))
        if trainer.is_global_zero and trainer.global_step == 0:
            batch = preview_batch(trainer, self.count)
            if "image" in batch:
                kind = "samples" if are_points(batch["image"]) else "images"
                title = f"real {kind}, validation split"
                publish(trainer, "real", captioned(batch["image"], title), None, title)
            self._draw(trainer, pl_module)
        self._since, self._since_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        due = step % self._period == 0 and step != self._drawn_at
        if trainer.is_global_zero and due and not self._too_long(step):
            self._draw(trainer, pl_module)
            self._since, self._since_step = time.perf_counter(), step

    def on_train_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if trainer.is_global_zero and trainer.global_step != self._drawn_at:
            self._draw(trainer, pl_module)
        if trainer.is_global_zero and self._animated:
            write_animation(Path(trainer.default_root_dir) / "samples", self._animated)

    def _too_long(self, step: int) -> bool:
        """Return whether a preview now would exceed both limits, `MAX_STEPS` and `MAX_SHARE`."""
        trained = time.perf_counter() - self._since
        steps = self._seconds / trained * (step - self._since_step)
        if steps <= MAX_STEPS or self._seconds <= MAX_SHARE * trained:
            return False
        if not self._announced:
            self._announced = True
            print(
                f"a preview takes {self._seconds:.1f} s, as long as {steps:.0f} training steps: "
                f"previews are generated less often than every {self._period} updates "
                f"and take at most {MAX_SHARE:.0%} of the training time",
                file=sys.stderr,
            )
        return True

    def _draw(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        begin, self._drawn_at = time.perf_counter(), trainer.global_step
        batch = preview_batch(trainer, self.count)
        shown, real = pl_module.preview(batch), batch.get("image")
        images = [name for name, content in shown.items() if isinstance(content, Tensor)]
        self._animated = "samples" if "samples" in images else next(iter(images), None)
        for name, content in shown.items():
            if "/" in name:  # rows or captions of other entries
                continue
            title = title_of(pl_module, name, trainer.global_step)
            rows, captions = (shown.get(f"{name}/{kind}", []) for kind in ("rows", "captions"))
            if isinstance(content, Tensor):
                content = captioned(content, title, rows, captions, real=real)  # type: ignore[arg-type]
            elif rows:
                title += f" ({'; '.join(rows)})"
            publish(trainer, name, content, trainer.global_step, title)
        self._seconds = time.perf_counter() - begin
