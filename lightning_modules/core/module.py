"""Base class of all systems: seeding, logging and checkpoints.

Each call of Lightning's `log` takes half a millisecond. `log_train` therefore sums training values
on the device, and their means are written once per `trainer.log_every_n_steps` updates. The sums
are saved in checkpoints, so a resumed run writes the same rows as an uninterrupted run.
"""

import inspect
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import Metric

from common.errors import UserError
from datamodules.tokenizers.base import Tokenizer
from datamodules.tokenizers.kinds import tokenizer_from_json
from lightning_modules.core.interval_means import IntervalMeans
from lightning_modules.core.losses import total_loss
from lightning_modules.core.modes import sampling
from lightning_modules.core.networks import ExportedNetwork
from lightning_modules.core.run_length import Position, updates_of_run
from lightning_modules.core.seeding import seed_generators
from lightning_modules.core.sharding import full_tensor
from lightning_modules.core.updates import UpdatingModule

MAX_RECENT = 1000  # maximum number of losses in `recent_losses`

# Kind of input and output of `sample`:
# - images: generates images from seeds.
# - text: generates texts from seeds.
# - image-to-image: translates images, `batch["a"]` or `batch["b"]` by the option `direction`.
# - text-to-text: translates texts `batch["source"]`.
# - text-to-image: generates images from captions, `prompt` or `batch["tokens"]`.
# - embeddings: generates no samples.
Modality = Literal[
    "images", "text", "image-to-image", "text-to-text", "text-to-image", "embeddings"
]


def plain(value: Any) -> Any:
    """Convert numbers of restricted types, such as `PositiveInt`, to int or float, recursively."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(part) for part in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


def gradients_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the gradients of an optimizer's parameters that have one."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


class GenerativeModule(UpdatingModule):
    """Base class of all systems.

    A subclass calls `save_hyperparameters()` in an `__init__` that takes plain values only,
    implements Lightning's steps, and defines

    - `sample(seeds, *, batch=None, <options>)`: Returns images (N, C, H, W) in [-1, 1], strips of S
      images (N, S, C, H, W), or N strings. Row i depends on `seeds[i]`, not on other seeds.
      The parameters of `sample` become the options of `sample.py`.
    - `preview(batch)`: Returns a dictionary of named results: images (N, C, H, W), R rows of images
      to compare (R, N, C, H, W), or texts. Texts named `<name>/rows` are the names of the R rows of
      images, or explain the parts of texts. `<name>/captions` are N or R * N captions of images.

    Attributes:
        monitor: Validation metric that selects `best.ckpt`, and "min" or "max"; None writes none.
        modality: Kind of input and output of `sample`, such as "images" or "text-to-text".
        has_latent_space: True if the system has `encode`, `decode` and `latent_dim`.
        scores_captions: True if `score(images, captions)` rates how well images match captions.
        token_score: Meaning of the scores of `score_tokens(text)`; empty if there are none.
        throughput_unit: Unit of the amount of training data in logs: "samples" or "tokens".
        sampling_settings: Hyper-parameters that are part of the signatures of metrics of samples.
        precisions: Supported values of `trainer.precision`.
        replaced_trainer_options: Trainer options that are not supported, and what to do instead.
        tokenizer: Tokenizer of text data, stored in every checkpoint; None if there is no text.
        units_seen: Amount of training data that this process has seen, in `throughput_unit`. Rank 0
            of a resumed run also counts that of all ranks before.
        resumed_at: Position at which the run was resumed, if it was.
        recent_losses: Update, loss and sample indices of the last batches, for `NonFiniteGuard`.
        optimizer_factories: Functions that build each optimizer and its schedule, or None.
    """

    monitor: ClassVar[tuple[str, str] | None] = None
    modality: ClassVar[Modality] = "images"
    has_latent_space: ClassVar[bool] = False
    scores_captions: ClassVar[bool] = False
    token_score: ClassVar[str] = ""
    throughput_unit: ClassVar[str] = "samples"
    sampling_settings: ClassVar[tuple[str, ...]] = ()
    precisions: ClassVar[tuple[str, ...]] = ("32-true", "bf16-mixed")
    replaced_trainer_options: ClassVar[dict[str, str]] = {}
    optimizer_factories: Sequence[tuple[OptimizerCallable, LRSchedulerCallable | None]] = ()

    def __init__(self) -> None:
        super().__init__()
        self.signatures: dict[str, str] = {}
        self._grad_norm: Tensor | None = None  # of this update, for clipping
        self._means = IntervalMeans()
        self.units_seen = 0
        self.resumed_at: Position | None = None
        self.recent_losses: deque[tuple[int, Tensor, Tensor]] = deque(maxlen=MAX_RECENT)
        self.tokenizer: Tokenizer | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for method in (cls.sample, cls.preview):
            if not getattr(method, "is_sampling", False):
                raise TypeError(
                    f"{cls.__name__}.{method.__name__} needs the decorator @sampling "
                    "(lightning_modules.core.modes)"
                )

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Save hyper-parameters as plain values, so that reading a checkpoint runs no code."""
        frame = frame or inspect.currentframe().f_back  # type: ignore[union-attr]
        super().save_hyperparameters(*args, ignore=ignore, frame=frame, logger=logger)
        self.hparams.update(plain(dict(self.hparams)))

    def setup(self, stage: str) -> None:
        if len(inspect.signature(type(self).__init__).parameters) > 1 and not self.hparams:
            raise TypeError(f"{type(self).__name__}.__init__ must call save_hyperparameters()")
        if self.ema is None and self.hparams.get("ema_decay"):
            raise TypeError(f"{type(self).__name__}.__init__ must call init_ema() at its end")
        if stage == "fit" and self.trainer.precision not in self.precisions:
            # In fp16, the scaled loss may overflow, and NonFiniteGuard would stop the run.
            raise UserError(
                f"trainer.precision {self.trainer.precision} is not supported by "
                f"{type(self).__name__}: set {' or '.join(self.precisions)}"
            )
        self.tokenizer = getattr(self.trainer.datamodule, "tokenizer", None)  # type: ignore[attr-defined]

    def known_tokenizer(self) -> Any:
        """Return `tokenizer`, or raise an error if it is None.

        Raises:
            UserError: If the system has no tokenizer.
        """
        if self.tokenizer is None:
            raise UserError(
                f"this {type(self).__name__} has no tokenizer: "
                "load a checkpoint written by train.py"
            )
        return self.tokenizer

    # Training

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the objective of one mini-batch.

        Returns:
            Dictionary of the scalar `loss` to minimise and other values to log as `train/<name>`.
        """
        raise NotImplementedError

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        losses = self.loss(batch)
        loss = total_loss(losses, self.loss)
        self.log_train(**losses)
        self.record_loss(loss, batch)
        return loss

    def record_loss(self, loss: Tensor, batch: dict[str, Any]) -> None:
        """Keep a loss for `NonFiniteGuard`, which checks the losses of several updates at once."""
        self.recent_losses.append((self._current_update, loss.detach(), batch["index"]))

    # Randomness

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        seed_generators(batch["seed"], self.device)
        self.units_seen += self.batch_units(batch)

    def on_validation_batch_start(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        seed_generators(batch["seed"], self.device)

    on_test_batch_start = on_validation_batch_start

    def batch_units(self, batch: dict[str, Any]) -> int:
        """Return the size of a batch in `throughput_unit`: its number of samples or of tokens."""
        return len(batch["index"])

    @property
    def total_updates(self) -> int:
        """Number of optimizer updates in the whole run, for learning rate schedules.

        Raises:
            UserError: If the run has no limit of updates or epochs.
        """
        total = updates_of_run(self.trainer, self)
        if total == float("inf"):
            raise UserError(
                "the learning rate schedule needs the length of the run: "
                "set trainer.max_steps or trainer.max_epochs"
            )
        return int(total)

    def of_all_ranks(self, mine: Any) -> list[Any]:
        """Return a list of the values `mine` of all ranks, in the order of ranks."""
        every = [mine] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(every, mine)
        return every

    # Logging

    def log_train(self, **values: Tensor | float) -> None:
        """Add values to the means that are logged as `train/<name>` once per logging interval."""
        for name, value in values.items():
            if not isinstance(value, Tensor):
                values[name] = torch.full((), value, device=self.device)
        self._means.add(values)  # type: ignore[arg-type]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Record the gradient norm before clipping; write the means if a logging interval ends."""
        ends = self.ends_interval()
        if ends or self.trainer.gradient_clip_val:
            self._grad_norm = self.record_grad_norm("grad_norm", optimizer)
        if ends:
            self._write_interval(lr=optimizer.param_groups[0]["lr"])

    def record_grad_norm(self, name: str, optimizer: torch.optim.Optimizer) -> Tensor:
        """Return the norm of the gradient of an optimizer's parameters, logged as `train/<name>`.

        Without clipping, only the norm of the last update of a logging interval is computed,
        because it takes up to 5 % of an update. Otherwise, the mean of the interval is logged.
        """
        norm = full_tensor(torch.nn.utils.get_total_norm(gradients_of(optimizer)))
        self.log_train(**{name: norm})
        return norm

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient, using the norm that `on_before_optimizer_step` recorded.

        Lightning's own method would compute the norm again. It also rejects fused optimizers in
        bf16-mixed precision, although gradients are not scaled in this precision.
        """
        if not gradient_clip_val:
            return
        norm, self._grad_norm = self._grad_norm, None
        if norm is None:  # a system overrides `on_before_optimizer_step` without `super()`
            norm = full_tensor(torch.nn.utils.get_total_norm(gradients_of(optimizer)))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        else:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def _means_of_ranks(self) -> Tensor:
        """Return sums and counts of logged values (2, number of names), averaged over ranks."""
        means = self._means.stacked(self.device)
        if self._means.names:
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
        return means

    def _write_interval(self, **extra: float) -> None:
        sums, counts = self._means_of_ranks()
        means = dict(zip(self._means.names, (sums / counts).tolist(), strict=True))
        self._means.clear()
        row = {f"train/{name}": value for name, value in {**means, **extra}.items()}
        row[f"train/{self.throughput_unit}_seen"] = self.seen_by_all()
        for logger in self.loggers:
            logger.log_metrics(row, step=self._current_update)
        self._choose_updates_per_step()
        self.trainer.callback_metrics.update(
            {name: torch.tensor(value) for name, value in row.items()}
        )

    def seen_by_all(self) -> int:
        """Return the number of samples or tokens that all ranks together have seen."""
        seen = torch.tensor(self.units_seen, device=self.device)
        return int(self.trainer.strategy.reduce(seen, reduce_op="sum"))

    def log_metric(self, name: str, metric: Metric) -> None:
        """Log a metric, and store its `signature`, a text that describes how it was computed."""
        self.log(name, metric, on_step=False, on_epoch=True)
        self.signatures[name] = metric.signature  # type: ignore[assignment]

    def on_validation_epoch_end(self) -> None:
        # Lightning uses the value named "step" as the x axis of this row.
        self.log("step", float(self.trainer.global_step))

    on_test_epoch_end = on_validation_epoch_end

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["class_path"] = f"{type(self).__module__}.{type(self).__qualname__}"
        means = self._means_of_ranks()
        if self.tokenizer is not None:
            checkpoint["tokenizer"] = self.tokenizer.to_json()
        checkpoint["log_interval"] = {
            "names": self._means.names,
            "sums": means[0],
            "counts": means[1],
            "seen": self.seen_by_all(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if interval := checkpoint.get("log_interval"):  # an export has none
            self._means.load(interval)
            self.units_seen = interval["seen"] if self.global_rank == 0 else 0
        if "tokenizer" in checkpoint:
            then = tokenizer_from_json(checkpoint["tokenizer"])
            if self.tokenizer is not None and self.tokenizer.to_json() != then.to_json():
                raise UserError(
                    "the tokenizer of --ckpt_path differs from the tokenizer of the data: "
                    "use the data that the checkpoint was trained on"
                )
            self.tokenizer = then

    # Sampling

    def networks(self) -> dict[str, ExportedNetwork]:
        """Return the networks that `export.py` writes as ONNX or pt2; none by default."""
        return {}

    @sampling
    def sample(self, seeds: list[int], **options: Any) -> Tensor | list[str]:
        """Sample images or texts, one per seed; systems that do not generate raise an error."""
        raise UserError(
            f"{type(self).__name__} does not generate samples; call its `preview` instead"
        )

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Return named images or texts, computed from a validation batch, for the callbacks."""
        return {}
