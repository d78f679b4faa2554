"""What all systems promise: seeded steps, cheap logging, checkpoints of plain values, and `sample` and `preview`.

Logging in Lightning costs half a millisecond per call and step, so training values are summed on the device by `log_train`
and written once per window of `trainer.log_every_n_steps` updates. The sums are part of the checkpoint: a resumed run
writes the same rows.
"""

import importlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar, cast

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torchmetrics import Metric

from console import UserError

P = ParamSpec("P")
R = TypeVar("R")


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed Python, NumPy and the generator of the device, without the 200 us that `torch.manual_seed` takes."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def evaluating(module: torch.nn.Module, mode: bool = False) -> Iterator[None]:
    """Put every submodule into eval mode (or train mode), and each back into the one it had."""
    modes = {part: part.training for part in module.modules()}
    module.train(mode)
    try:
        yield
    finally:
        for part, was in modes.items():
            part.training = was


def sampling(method: Callable[P, R]) -> Callable[P, R]:
    """Decorator of `sample` and `preview`: no gradients, every submodule in eval mode, and all as it was afterwards.

    The one policy for batch norm and dropout, unless a system's paper wants another and its method says so.
    """

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        module = cast(torch.nn.Module, args[0])
        with torch.no_grad(), evaluating(module):
            return method(*args, **kwargs)

    return wrapped


def seeded_normal(seeds: list[int], shape: list[int] | tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """(N, *shape) standard normal numbers; row i depends on `seeds[i]` alone and is the same on every device."""
    rows = [torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(device)


class GenerativeModule(LightningModule):
    """Base of every system.

    A subclass calls `save_hyperparameters()` in an `__init__` that takes plain values only, implements Lightning's steps,
    and offers

    - `sample(seeds, *, batch=None, <options>)`: pictures (N, C, H, W) in [-1, 1], strips of pictures (N, S, C, H, W), or
      N strings. Row i depends on `seeds[i]` alone. Its signature becomes the options of `sample.py`.
    - `preview(batch)`: named pictures (N, C, H, W), rows of pictures to be compared (R, N, C, H, W), or texts.

    Attributes:
        monitor: validation metric that decides `best.ckpt` with "min" or "max", or None.
        unit: what `train/samples_seen` counts, "samples" or "tokens".
    """

    monitor: ClassVar[tuple[str, str] | None] = None
    unit: ClassVar[str] = "samples"
    if TYPE_CHECKING:
        hparams: Any  # Lightning types it as a plain mapping

    def __init__(self) -> None:
        super().__init__()
        self.signatures: dict[str, str] = {}
        self.grad_norm: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._seen = 0

    # Randomness

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        seed_generators(batch["seed"], self.device)
        self._seen += self.batch_units(batch)

    def on_validation_batch_start(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        seed_generators(batch["seed"], self.device)

    def on_test_batch_start(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        seed_generators(batch["seed"], self.device)

    def batch_units(self, batch: dict[str, Any]) -> int:
        """Samples in a batch; systems over tokens count those."""
        return len(batch["index"])

    # Logging

    def log_train(self, **values: Tensor | float) -> None:
        """Add to the window's means of `train/<name>`; nothing is computed, moved or written before the window ends."""
        for name, value in values.items():
            value = value.detach().float() if isinstance(value, Tensor) else torch.tensor(value, device=self.device)
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Record the norm of the gradient before clipping, and close the window at its last update."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(gradients)
        self.log_train(grad_norm=self.grad_norm)
        update = self.trainer.global_step + 1
        if update % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set by a connector
            self._write_window(update, lr=optimizer.param_groups[0]["lr"])

    def _window_means(self) -> Tensor:
        """Sums and counts over ranks, shape (2, number of names)."""
        sums = torch.stack(list(self._sums.values()))
        counts = torch.tensor(list(self._counts.values()), dtype=sums.dtype, device=sums.device)
        window: Tensor = self.trainer.strategy.reduce(torch.stack([sums, counts]), reduce_op="mean")
        return window

    def _write_window(self, update: int, **extra: float) -> None:
        sums, counts = self._window_means()
        means = dict(zip(self._sums, (sums / counts).tolist(), strict=True))
        self._sums, self._counts = {}, {}
        row = {f"train/{name}": value for name, value in {**means, **extra}.items()}
        row[f"train/{self.unit}_seen"] = self._seen * self.trainer.world_size
        for logger in self.loggers:
            logger.log_metrics(row, step=update)
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in row.items()})

    def log_metric(self, name: str, metric: Metric) -> None:
        """Log a metric of `metrics/` and remember its `signature`, without which its number means nothing."""
        self.log(name, metric, on_step=False, on_epoch=True)
        self.signatures[name] = metric.signature  # type: ignore[assignment]

    def on_validation_epoch_end(self) -> None:
        self.log("step", float(self.trainer.global_step))  # Lightning's name for the x axis of this row

    def on_test_epoch_end(self) -> None:
        self.log("step", float(self.trainer.global_step))

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["class_path"] = f"{type(self).__module__}.{type(self).__qualname__}"
        means = self._window_means() if self._sums else torch.empty(2, 0)
        checkpoint["window"] = {"names": list(self._sums), "sums": means[0], "counts": means[1], "seen": self._seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        window = checkpoint["window"]
        self._sums = dict(zip(window["names"], window["sums"].clone()))
        self._counts = {name: round(count) for name, count in zip(window["names"], window["counts"].tolist())}
        self._seen = window["seen"]

    # What a user calls

    def sample(self, seeds: list[int], **options: Any) -> Tensor | list[str]:
        """Pictures or texts, one per seed. Systems that do not generate leave this out."""
        raise UserError(f"{type(self).__name__} does not generate; its `preview` shows what it does")

    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """What the picture and text callbacks draw, from one batch of validation data."""
        return {}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that holds nothing but tensors and plain values.

    Raises:
        UserError: if the file is missing, cut short, or would have to run code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises half a dozen kinds here
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UserError(f"{path}: refused, since it can only be read by running code from it (pickle)") from error
        raise UserError(f"{path}: not a readable checkpoint (cut short, or another kind of file)") from error
    if not isinstance(checkpoint, dict) or "class_path" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of this template (it names no class)")
    return checkpoint


def system_class(class_path: str, source: str | Path) -> type[GenerativeModule]:
    """The class that a checkpoint names.

    Raises:
        UserError: if it cannot be imported or is no `GenerativeModule`.
    """
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{source}: its system {class_path} is not here ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, GenerativeModule)):
        raise UserError(f"{source}: {class_path} is not a GenerativeModule")
    return cls


def load(path: str | Path) -> Any:
    """The system of a checkpoint, on the CPU and in eval mode, ready for `sample`, `embed` or `reconstruct`.

    Raises:
        UserError: as `read_checkpoint`, or if the weights do not fit the class.
    """
    checkpoint = read_checkpoint(path)
    cls = system_class(checkpoint["class_path"], path)
    try:
        module = cls.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: does not fit {cls.__name__} as it is here ({reason})") from error
    return module.eval()


def warmup(step: int, steps: int) -> float:
    """Linear from 0 to 1 over `steps` updates, then 1; 1 throughout where `steps` is 0."""
    return min(1.0, step / steps) if steps else 1.0
