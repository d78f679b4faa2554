"""What all systems promise: seeded steps, cheap logging, checkpoints of plain values, and `sample`
and `preview`.

Logging in Lightning costs half a millisecond per call and step, so training values are summed on
the device by `log_train` and written once per interval of `trainer.log_every_n_steps` updates. The
sums are part of the checkpoint: a resumed run writes the same rows.
"""

import inspect
from collections.abc import Sequence
from types import FrameType
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import Metric

from common.errors import UserError
from datamodules.tokenizers.base import Tokenizer
from datamodules.tokenizers.kinds import tokenizer_from_json
from lightning_modules.core.ema import AveragingModule
from lightning_modules.core.interval_means import IntervalMeans
from lightning_modules.core.modes import sampling
from lightning_modules.core.seeding import seed_generators

# What `sample` consumes and produces. Programs and callbacks switch on it.
# images: images from seeds. text: texts from seeds. image-to-image: images (`batch["a"]` or
# `batch["b"]`, by the option `direction`) to images. text-to-text: texts (`batch["source"]`) to
# texts. text-to-image: captions (`prompt`, or `batch["tokens"]`) to images. embeddings: no samples.
Modality = Literal[
    "images", "text", "image-to-image", "text-to-text", "text-to-image", "embeddings"
]


def plain(value: Any) -> Any:
    """Hyper-parameters with numbers of restricted types (`PositiveInt`) as int and float."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(part) for part in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


class GenerativeModule(AveragingModule):
    """Base of every system.

    A subclass calls `save_hyperparameters()` in an `__init__` that takes plain values only,
    implements Lightning's steps, and offers

    - `sample(seeds, *, batch=None, <options>)`: pictures (N, C, H, W) in [-1, 1], strips of
      pictures (N, S, C, H, W), or N strings. Row i depends on `seeds[i]` alone. Its signature
      becomes the options of `sample.py`.
    - `preview(batch)`: named pictures (N, C, H, W), rows of pictures to be compared (R, N, C, H,
      W), or texts.

    Attributes:
        monitor: validation metric that decides `best.ckpt` with "min" or "max", or None.
        modality: What `sample` consumes and produces.
        has_latent_space: Whether it has `encode`, `decode` and `latent_dim`, for latent plots.
        scores_captions: Whether `score(images, captions)` tells how well they fit.
        find_unused_parameters: Option of DDP; True where a backward pass leaves parameters out.
        throughput_unit: what `train/samples_seen` counts, "samples" or "tokens".
        precisions: values of `trainer.precision` that it trains in.
        tokenizer: of text data; it travels inside of every checkpoint.
        mid_update: whether gradients that no checkpoint holds are pending between two batches.
        optimizer_factories: optimizers and schedules that come as arguments; a resumed run has to
            have the same.
    """

    monitor: ClassVar[tuple[str, str] | None] = None
    modality: ClassVar[Modality] = "images"
    has_latent_space: ClassVar[bool] = False
    scores_captions: ClassVar[bool] = False
    find_unused_parameters: ClassVar[bool] = False
    throughput_unit: ClassVar[str] = "samples"
    precisions: ClassVar[tuple[str, ...]] = ("32-true", "bf16-mixed")
    mid_update = False
    optimizer_factories: Sequence[tuple[OptimizerCallable, LRSchedulerCallable | None]] = ()

    def __init__(self) -> None:
        super().__init__()
        self.signatures: dict[str, str] = {}
        self.grad_norm: Tensor | None = None
        self._means = IntervalMeans()
        self._seen = 0
        self.tokenizer: Tokenizer | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not getattr(cls.sample, "is_sampling", False):
            raise TypeError(
                f"{cls.__name__}.sample needs the decorator @sampling "
                "(lightning_modules.core.modes)"
            )

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """As in Lightning, with plain values only: a checkpoint is read without running code."""
        frame = frame or inspect.currentframe().f_back  # type: ignore[union-attr]
        super().save_hyperparameters(*args, ignore=ignore, frame=frame, logger=logger)
        self.hparams.update(plain(dict(self.hparams)))

    def setup(self, stage: str) -> None:
        if len(inspect.signature(type(self).__init__).parameters) > 1 and not self.hparams:
            raise TypeError(f"{type(self).__name__}.__init__ must call save_hyperparameters()")
        if self.ema is None and self.hparams.get("ema_decay"):
            raise TypeError(f"{type(self).__name__}.__init__ must call init_ema() at its end")
        precision = self.trainer.precision
        if (
            stage == "fit" and precision not in self.precisions
        ):  # a scaled loss overflows now and then, which the guard refuses
            raise UserError(
                f"trainer.precision {precision}: {type(self).__name__} trains in "
                f"{' or '.join(self.precisions)}"
            )
        self.tokenizer = getattr(self.trainer.datamodule, "tokenizer", None)  # type: ignore[attr-defined]

    def known_tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            UserError: if there is none.
        """
        if self.tokenizer is None:
            raise UserError(
                f"this {type(self).__name__} has no tokenizer: "
                "its checkpoint was not made by train.py"
            )
        return self.tokenizer

    # Training

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Objective of one mini-batch.

        Returns:
            The scalar `loss`, which is minimised, and other values to log as `train/<name>`.
        """
        raise NotImplementedError

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        losses = self.loss(batch)
        self.log_train(**losses)
        return losses["loss"]

    # Randomness

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        seed_generators(batch["seed"], self.device)
        self._seen += self.batch_units(batch)

    def on_validation_batch_start(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        seed_generators(batch["seed"], self.device)

    def on_test_batch_start(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        seed_generators(batch["seed"], self.device)

    def batch_units(self, batch: dict[str, Any]) -> int:
        """Samples in a batch; systems over tokens count those."""
        return len(batch["index"])

    @property
    def total_updates(self) -> int:
        """Updates of the whole run, for schedules that end with it.

        Raises:
            UserError: If the run has no limit of updates or epochs.
        """
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise UserError(
                "a schedule that ends with the run needs its length: "
                "give trainer.max_steps or trainer.max_epochs"
            )
        return int(total)

    def of_all_ranks(self, mine: Any) -> list[Any]:
        """What each rank has: plain values and tensors, by rank."""
        every = [mine] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(every, mine)
        return every

    # Logging

    def log_train(self, **values: Tensor | float) -> None:
        """Add to the means of `train/<name>` over a logging interval; nothing is written before it
        ends.
        """
        for name, value in values.items():
            if not isinstance(value, Tensor):
                value = torch.full((), value, device=self.device)
            self._means.add(name, value)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Record the norm of the gradient before clipping; end the logging interval at its last
        update.
        """
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        self.grad_norm = torch.nn.utils.get_total_norm(gradients)
        self.log_train(grad_norm=self.grad_norm)
        update = self.trainer.global_step + 1
        if update % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set by a connector
            self._write_interval(update, lr=optimizer.param_groups[0]["lr"])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm that was recorded. Lightning computes it again, and refuses fused
        optimizers in bf16-mixed, whose gradients are not scaled here.
        """
        if not gradient_clip_val or self.grad_norm is None:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        else:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, self.grad_norm)

    def _means_of_ranks(self) -> Tensor:
        """Sums and counts over ranks, shape (2, number of names)."""
        means = self._means.stacked(self.device)
        if self._means.names:
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
        return means

    def _write_interval(self, update: int, **extra: float) -> None:
        sums, counts = self._means_of_ranks()
        means = dict(zip(self._means.names, (sums / counts).tolist(), strict=True))
        self._means.clear()
        row = {f"train/{name}": value for name, value in {**means, **extra}.items()}
        row[f"train/{self.throughput_unit}_seen"] = self._seen_by_all()
        for logger in self.loggers:
            logger.log_metrics(row, step=update)
        self.trainer.callback_metrics.update(
            {name: torch.tensor(value) for name, value in row.items()}
        )

    def _seen_by_all(self) -> int:
        """Samples or tokens of all ranks, which may see unequal numbers."""
        return int(
            self.trainer.strategy.reduce(
                torch.tensor(self._seen, device=self.device), reduce_op="sum"
            )
        )

    def log_metric(self, name: str, metric: Metric) -> None:
        """Log a metric of `metrics/` and remember its `signature`, without which its number means
        nothing.
        """
        self.log(name, metric, on_step=False, on_epoch=True)
        self.signatures[name] = metric.signature  # type: ignore[assignment]

    def on_validation_epoch_end(self) -> None:
        self.log(
            "step", float(self.trainer.global_step)
        )  # Lightning's name for the x axis of this row

    def on_test_epoch_end(self) -> None:
        self.log("step", float(self.trainer.global_step))

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
            "seen": self._seen_by_all(),
        }
        if self.optimizer_factories:
            checkpoint["optimizer_settings"] = self._optimizer_settings()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        interval = checkpoint["log_interval"]
        self._means.load(interval)
        self._seen = interval["seen"] if self.global_rank == 0 else 0
        resuming = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        theirs, ours = checkpoint.get("optimizer_settings", {}), self._optimizer_settings()
        for name in {**theirs, **ours} if resuming else ():
            if theirs.get(name) != ours.get(name):
                raise UserError(
                    f"--ckpt_path continues a run with {name} {theirs.get(name, 'left out')}, "
                    f"not {ours.get(name, 'left out')}: "
                    "use its settings, or begin a new run with --init_from"
                )
        if "tokenizer" in checkpoint:
            then = tokenizer_from_json(checkpoint["tokenizer"])
            if self.tokenizer is not None and self.tokenizer.to_json() != then.to_json():
                raise UserError(
                    "--ckpt_path was trained with another tokenizer than the one of this data: "
                    "give its own data"
                )
            self.tokenizer = then

    def _optimizer_settings(self) -> dict[str, str]:
        """Settings of optimizers and schedules as text, by names such as "optimizer 1: Adam.lr"."""
        found: dict[str, str] = {}
        for number, (make, schedule) in enumerate(self.optimizer_factories, 1):
            optimizer = make([torch.nn.Parameter(torch.zeros(1))])
            arguments = {type(optimizer).__name__: optimizer.defaults}
            if schedule is not None:
                made = schedule(optimizer)
                arguments[type(made).__name__] = made.state_dict()
            found |= {
                f"optimizer {number}: {kind}.{k}": str(v)
                for kind, those in arguments.items()
                for k, v in those.items()
            }
        return found

    # What a user calls

    @sampling
    def sample(self, seeds: list[int], **options: Any) -> Tensor | list[str]:
        """Previews or texts, one per seed. Systems that do not generate leave this out."""
        raise UserError(
            f"{type(self).__name__} does not generate; its `preview` shows what it does"
        )

    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """What the picture and text callbacks draw, from one batch of validation data."""
        return {}
