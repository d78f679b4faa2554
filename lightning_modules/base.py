"""What all systems promise: seeded steps, cheap logging, checkpoints of plain values, and `sample`
and `preview`.

Logging in Lightning costs half a millisecond per call and step, so training values are summed on
the device by `log_train` and written once per window of `trainer.log_every_n_steps` updates. The
sums are part of the checkpoint: a resumed run writes the same rows.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar, cast

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import DDPStrategy, ParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor
from torch.utils._pytree import tree_map
from torchmetrics import Metric

from console import UserError
from datamodules.tokenizer import Tokenizer, tokenizer_from_json

P = ParamSpec("P")
R = TypeVar("R")


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed Python, NumPy and the generator of the device, without the 200 us that
    `torch.manual_seed` takes.
    """
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
    """Decorator of `sample` and `preview`: no gradients, every submodule in eval mode, and all as
    it was afterwards.

    The one policy for batch norm and dropout, unless a system's paper wants another and its method
    says so.
    """

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        module = cast(torch.nn.Module, args[0])
        with torch.no_grad(), evaluating(module):
            return method(*args, **kwargs)

    return wrapped


def seeded_normal(
    seeds: list[int], shape: list[int] | tuple[int, ...], device: torch.device | str = "cpu"
) -> Tensor:
    """(N, *shape) standard normal numbers; row i depends on `seeds[i]` alone and is the same on
    every device.
    """
    rows = [torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(device)


def classes_used(num_classes: int | None, conditional: bool) -> int:
    """Number of classes that a system's networks see: 0 where it is not conditional.

    Raises:
        UserError: if labels are wanted and there are none.
    """
    if conditional and not num_classes:
        raise UserError("model.conditional needs labels, and this data has none: set it to false")
    return num_classes if conditional and num_classes else 0


def check_sampling(label: int | None, classes: int, steps: int) -> None:
    """Refuse a class that a model with `classes` classes (0: not conditional) does not know, and a
    line of no steps.

    Raises:
        UserError: naming the option and the mend.
    """
    if label is not None and not 0 <= label < classes:
        known = (
            f"give 0 to {classes - 1}" if classes else "leave it out, this model is not conditional"
        )
        raise UserError(f"--label {label}: {known}")
    if steps < 1:
        raise UserError(f"--steps {steps}: give at least 1")


class GenerativeModule(LightningModule):
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
        unit: what `train/samples_seen` counts, "samples" or "tokens".
        precisions: values of `trainer.precision` that it trains in.
        tokenizer: of text data; it travels inside of every checkpoint.
        mid_update: whether gradients that no checkpoint holds are pending between two batches.
        makers: optimizers and schedules that come as arguments, where they do; a resumed run has to
            have the same.
    """

    monitor: ClassVar[tuple[str, str] | None] = None
    unit: ClassVar[str] = "samples"
    precisions: ClassVar[tuple[str, ...]] = ("32-true", "bf16-mixed")
    mid_update = False
    makers: Sequence[tuple[OptimizerCallable, LRSchedulerCallable | None]] = ()
    if TYPE_CHECKING:
        hparams: Any  # Lightning types it as a plain mapping

    def __init__(self) -> None:
        super().__init__()
        self.signatures: dict[str, str] = {}
        self.grad_norm: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._seen = 0
        self.tokenizer: Tokenizer | None = None

    def setup(self, stage: str) -> None:
        precision = self.trainer.precision
        if (
            stage == "fit" and precision not in self.precisions
        ):  # a scaled loss overflows now and then, which the guard refuses
            raise UserError(
                f"trainer.precision {precision}: {type(self).__name__} trains in {' or '.join(self.precisions)}"
            )
        self.tokenizer = getattr(self.trainer.datamodule, "tokenizer", None)  # type: ignore[attr-defined]

    def known_tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            UserError: if there is none.
        """
        if self.tokenizer is None:
            raise UserError(
                f"this {type(self).__name__} has no tokenizer: its checkpoint was not made by train.py"
            )
        return self.tokenizer

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
            UserError: if nobody knows, since only time ends the run.
        """
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise UserError(
                "a schedule that ends with the run needs its length: give trainer.max_steps or trainer.max_epochs"
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
        """Add to the window's means of `train/<name>`; nothing is computed, moved or written before
        the window ends.
        """
        for name, value in values.items():
            value = (
                value.detach().float()
                if isinstance(value, Tensor)
                else torch.full((), value, device=self.device)
            )
            self._sums[name] = (
                self._sums[name].to(value.device) + value if name in self._sums else value.clone()
            )
            self._counts[name] = self._counts.get(name, 0) + 1

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Record the norm of the gradient before clipping, and close the window at its last
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
            self._write_window(update, lr=optimizer.param_groups[0]["lr"])

    def _window_means(self) -> Tensor:
        """Sums and counts over ranks, shape (2, number of names)."""
        sums = torch.stack(
            [value.to(self.device) for value in self._sums.values()]
        )  # those of a checkpoint are on the CPU
        counts = torch.tensor(list(self._counts.values()), dtype=sums.dtype, device=sums.device)
        window: Tensor = self.trainer.strategy.reduce(torch.stack([sums, counts]), reduce_op="mean")
        return window

    def _write_window(self, update: int, **extra: float) -> None:
        sums, counts = self._window_means()
        means = dict(zip(self._sums, (sums / counts).tolist(), strict=True))
        self._sums, self._counts = {}, {}
        row = {f"train/{name}": value for name, value in {**means, **extra}.items()}
        row[f"train/{self.unit}_seen"] = self._seen_by_all()
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
        means = self._window_means() if self._sums else torch.empty(2, 0)
        if self.tokenizer is not None:
            checkpoint["tokenizer"] = self.tokenizer.to_json()
        checkpoint["window"] = {
            "names": list(self._sums),
            "sums": means[0],
            "counts": means[1],
            "seen": self._seen_by_all(),
        }
        if self.makers:
            checkpoint["optimizer_settings"] = self._optimizer_settings()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        window = checkpoint["window"]
        self._sums = dict(zip(window["names"], window["sums"].clone()))
        self._counts = {
            name: round(count) for name, count in zip(window["names"], window["counts"].tolist())
        }
        self._seen = window["seen"] if self.global_rank == 0 else 0
        resuming = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        theirs, ours = checkpoint.get("optimizer_settings", {}), self._optimizer_settings()
        for name in {**theirs, **ours} if resuming else ():
            if theirs.get(name) != ours.get(name):
                raise UserError(
                    f"--ckpt_path continues a run with {name} {theirs.get(name, 'left out')}, not {ours.get(name, 'left out')}: "
                    "use its settings, or begin a new run with --init_from"
                )
        if "tokenizer" in checkpoint:
            then = tokenizer_from_json(checkpoint["tokenizer"])
            if self.tokenizer is not None and self.tokenizer.to_json() != then.to_json():
                raise UserError(
                    "--ckpt_path was trained with another tokenizer than the one of this data: give its own data"
                )
            self.tokenizer = then

    def _optimizer_settings(self) -> dict[str, str]:
        """Arguments of what `makers` make, as text, under names such as "optimizer 1: Adam.lr"."""
        found: dict[str, str] = {}
        for number, (make, schedule) in enumerate(self.makers, 1):
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

    def sample(self, seeds: list[int], **options: Any) -> Tensor | list[str]:
        """Pictures or texts, one per seed. Systems that do not generate leave this out."""
        raise UserError(
            f"{type(self).__name__} does not generate; its `preview` shows what it does"
        )

    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """What the picture and text callbacks draw, from one batch of validation data."""
        return {}


@torch.no_grad()
def move_average(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Move parameters and floating-point buffers of `average` towards those of `network`; copy the
    other buffers.

    Nothing is synchronised with the host.

    Args:
        average: Copy of `network` that holds the average.
        network: Network that is trained.
        decay: Weight of the past; the new state has the weight `1 - decay`.
    """
    pairs = zip(
        [*average.parameters(), *average.buffers()],
        [*network.parameters(), *network.buffers()],
        strict=True,
    )
    floating: list[tuple[Tensor, Tensor]] = []
    for mine, theirs in pairs:
        if mine.is_floating_point():
            floating.append((mine, theirs))
        else:
            mine.copy_(theirs)
    torch._foreach_lerp_(
        [mine for mine, _ in floating], [theirs for _, theirs in floating], 1 - decay
    )


CALIBRATION_BATCHES, CALIBRATION_SIZE = (
    10,
    128,
)  # per estimate of an averaged generator's batch-norm statistics
OPTIMIZER_ARGUMENTS = (
    "generator_optimizer",
    "discriminator_optimizer",
    "generator_schedule",
    "discriminator_schedule",
)


def adam_for_gans(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Adam with the step size and the short memory of Radford et al. 2016, section 4."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """No gradients for the parameters of `module`; those of its inputs pass through it."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def check_ranks_agree(module: torch.nn.Module) -> None:
    """Compare a hash of every parameter and buffer over all ranks.

    Raises:
        RuntimeError: if one differs, with its name; a checkpoint of rank 0 would then be somebody
            else's state.
    """
    mine = {}
    for name, value in module.state_dict().items():
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        mine[name] = hashlib.blake2b(data.tobytes(), digest_size=16).hexdigest()
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, mine)
    for rank, theirs in enumerate(every):
        for name, digest in every[0].items():
            if theirs.get(name) != digest:
                raise RuntimeError(
                    f"{name} differs between rank 0 and rank {rank}: the ranks have drifted apart"
                )


class AdversarialModule(GenerativeModule):
    """Two players trained in turns, by Lightning's manual optimization.

    What manual optimization takes away is given back here, once: one counted update per step of the
    discriminator (so that `max_steps`, checkpoint names and every logger count updates),
    accumulation, clipping, schedules, bf16, the norm of the gradient, several processes, and an
    average of the generator's weights. A subclass holds networks and losses:

    - `__init__` ends with `set_players(generator, discriminator)`;
    - `generate(batch)` returns what the generator makes for a batch: a tensor, or any nest of
      tensors;
    - `discriminator_step(batch, generated)` and `generator_step(batch, generated)` return the loss
      of either player. The discriminator gets detached tensors; while the generator learns, the
      discriminator's parameters are frozen.

    Args:
        generator_optimizer: made from the generator's parameters.
        discriminator_optimizer: made from the discriminator's parameters; another step size makes
            it a two time-scale rule (Heusel et al. 2017).
        generator_schedule: made from the generator's optimizer, stepped once per update of the
            generator.
        discriminator_schedule: the same for the discriminator.
        n_critic: updates of the discriminator per update of the generator.
        simultaneous: both gradients are taken before either player moves, instead of the generator
            answering the moved discriminator.
        accumulate: batches per update. The generator's turn comes after all of them, so that the
            update equals the one of the joined batch.
        generator_clip: largest norm of the generator's gradient.
        discriminator_clip: largest norm of the discriminator's gradient.
        ema_decay: Weight of the past in the average of the generator's weights, which `sample`
            uses; None for no average.
    """

    generator: torch.nn.Module
    discriminator: torch.nn.Module
    ema: torch.nn.Module | None

    def __init__(
        self,
        generator_optimizer: OptimizerCallable = adam_for_gans,
        discriminator_optimizer: OptimizerCallable = adam_for_gans,
        generator_schedule: LRSchedulerCallable | None = None,
        discriminator_schedule: LRSchedulerCallable | None = None,
        n_critic: int = 1,
        simultaneous: bool = False,
        accumulate: int = 1,
        generator_clip: float | None = None,
        discriminator_clip: float | None = None,
        ema_decay: float | None = None,
    ) -> None:
        super().__init__()
        # Here, in the innermost frame, Lightning finds the arguments of all subclasses; optimizers
        # are no plain values.
        self.save_hyperparameters(ignore=[*OPTIMIZER_ARGUMENTS])
        self.automatic_optimization = False
        self.makers = [
            (generator_optimizer, generator_schedule),
            (discriminator_optimizer, discriminator_schedule),
        ]
        self.n_critic, self.simultaneous, self.accumulate = n_critic, simultaneous, accumulate
        self.clips = (generator_clip, discriminator_clip)
        self.ema_decay = ema_decay
        self._window: list[dict[str, Any]] = []
        self._uncalibrated = False

    def set_players(self, generator: torch.nn.Module, discriminator: torch.nn.Module) -> None:
        """Register both networks, and the copy of the generator that holds its average."""
        self.generator, self.discriminator = generator, discriminator
        self.ema = deepcopy(generator).requires_grad_(False) if self.ema_decay else None

    def drawing(self, ema: bool) -> torch.nn.Module:
        """The generator, or the average of its weights where that is wanted and there is one."""
        if not ema or self.ema is None:
            return self.generator
        self.calibrate()
        return self.ema

    def generate(self, batch: dict[str, Any]) -> Any:
        """What the generator makes for a batch."""
        raise NotImplementedError

    def discriminator_step(self, batch: dict[str, Any], generated: Any) -> Tensor:
        """Loss of the discriminator; `generated` carries no gradient."""
        raise NotImplementedError

    def generator_step(self, batch: dict[str, Any], generated: Any) -> Tensor:
        """Loss of the generator."""
        raise NotImplementedError

    # The averaged generator

    def calibration_batches(self) -> Iterator[dict[str, Any]]:
        """Batches for `calibrate`, the same at each call: training samples that are spread evenly
        over the split.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        size, total = len(data.split("train")), CALIBRATION_BATCHES * CALIBRATION_SIZE
        rows = [row * size // total for row in range(total)]
        for number in range(CALIBRATION_BATCHES):
            yield data.batch("train", rows[number::CALIBRATION_BATCHES])

    @torch.no_grad()
    def calibrate(self) -> None:
        """Compute the batch-norm statistics of the averaged generator, if its weights have moved
        since the last time.

        Its activations vary less than those of the trained generator, so that neither the running
        statistics of the trained one nor their average fit. The result depends on the averaged
        weights alone, and training does not depend on it.
        """
        if self.ema is None or not self._uncalibrated:
            return
        norms = [
            part
            for part in self.ema.modules()
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)
        ]
        momenta = [norm.momentum for norm in norms]
        trained, self.generator = self.generator, self.ema
        devices, kind = [] if self.device.type == "cpu" else [self.device], self.device.type
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
            with (
                evaluating(self.generator, True),
                torch.random.fork_rng(devices, device_type=kind),
                torch.autocast(kind, enabled=False),
            ):
                for number, batch in enumerate(self.calibration_batches() if norms else ()):
                    torch.manual_seed(number)
                    self.generate(move_data_to_device(batch, self.device))
        finally:
            self.generator = trained
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum
        self._uncalibrated = False

    def _calibrate_all_ranks(self) -> None:
        """`calibrate` where every rank takes part: all get the result of rank 0, whose rounding may
        differ.
        """
        self.calibrate()
        if self.ema is not None and self.trainer.world_size > 1:
            for buffer in self.ema.buffers():
                torch.distributed.broadcast(buffer, 0)

    # One update

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._window.append(batch)
        first = batch_idx + 1 - len(self._window)
        size = min(self.accumulate, int(self.trainer.num_training_batches) - first)
        last = len(self._window) == size
        turn = (self.trainer.global_step + 1) % self.n_critic == 0
        self.mid_update = not last
        with torch.set_grad_enabled(
            turn and self.accumulate == 1
        ):  # where it is this batch's turn, the generator's pass is shared
            generated = self.generate(batch)
        generator, discriminator = self.both_optimizers()
        loss = self.discriminator_step(batch, tree_map(lambda value: value.detach(), generated))
        self._backward(loss / size, synchronise=last)
        self.log_train(loss_d=loss)
        if not last:
            return
        self.grad_norm = None  # becomes the sum over both players: finite only if all gradients are
        if turn and self.simultaneous:
            self._generator_backward(generated)
        discriminator.step()  # the one that Lightning counts
        if turn and not self.simultaneous:
            self._generator_backward(generated)
        if turn:
            # Past Lightning's counter, but through its precision plugin and hooks.
            self.trainer.strategy.optimizer_step(generator.optimizer, lambda: None)
            generator.zero_grad()
            self._average_weights()
        discriminator.zero_grad()
        for schedule, due in zip(self._schedules, (turn, True)):
            if schedule is not None and due:
                schedule.step()
        self._window = []
        self._average_batch_norms()
        update = self.trainer.global_step
        if update % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set by a connector
            rates = [optimizer.param_groups[0]["lr"] for optimizer in (generator, discriminator)]
            self._write_window(update, lr=rates[0], lr_d=rates[1])

    def both_optimizers(self) -> list[LightningOptimizer]:
        """The generator's and the discriminator's."""
        return cast(list[LightningOptimizer], self.optimizers())

    def _generator_backward(self, generated: Any) -> None:
        """Gradient of the generator over all batches of this update."""
        with frozen(self.discriminator):
            for number, batch in enumerate(self._window, 1):
                if (
                    self.accumulate > 1
                ):  # the same noise again, now with a graph; only one batch's graph is ever kept
                    seed_generators(batch["seed"], self.device)
                    generated = self.generate(batch)
                loss = self.generator_step(batch, generated)
                self._backward(loss / len(self._window), synchronise=number == len(self._window))
                self.log_train(loss_g=loss)

    def _backward(self, loss: Tensor, *, synchronise: bool) -> None:
        """Backward that averages gradients over ranks once per update."""
        parallel = isinstance(self.trainer.strategy, ParallelStrategy)
        with (
            nullcontext()
            if synchronise or not parallel
            else self.trainer.strategy.block_backward_sync()
        ):  # type: ignore[attr-defined]
            self.manual_backward(loss)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip one player's gradient, and record its norm from before."""
        player = [one.optimizer for one in self.both_optimizers()].index(optimizer)
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        limit = self.clips[player]
        if limit is not None:
            torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
        self.log_train(**{("grad_norm", "grad_norm_d")[player]: norm})
        self.grad_norm = norm if self.grad_norm is None else norm + self.grad_norm

    def _average_weights(self) -> None:
        if self.ema is not None and self.ema_decay is not None:
            move_average(self.ema, self.generator, self.ema_decay)
            self._uncalibrated = True

    def _average_batch_norms(self) -> None:
        """Mean of the running statistics over ranks. DDP synchronises no buffers where optimization
        is manual.
        """
        if self.trainer.world_size == 1:
            return
        norms = [
            part
            for part in self.modules()
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)
        ]
        buffers = [
            buffer
            for norm in norms
            for buffer in (norm.running_mean, norm.running_var)
            if buffer is not None
        ]
        if buffers:
            mean = self.trainer.strategy.reduce(
                torch.cat([buffer.flatten() for buffer in buffers]), reduce_op="mean"
            )
            torch._foreach_copy_(buffers, list(mean.split([len(buffer) for buffer in buffers])))

    # What Lightning asks for

    def setup(self, stage: str) -> None:
        super().setup(stage)
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy):  # either backward leaves one player's parameters out
            strategy._ddp_kwargs.setdefault("find_unused_parameters", True)

    def configure_optimizers(self) -> Any:
        if any(isinstance(part, torch.nn.SyncBatchNorm) for part in self.modules()):
            # Previews of rank 0 would wait for the other ranks in `calibrate`.
            raise UserError(
                "trainer.sync_batchnorm: adversarial systems average batch-norm statistics themselves; leave it out"
            )
        optimizers, self._schedules = [], []
        for network, (optimizer, schedule) in zip(
            (self.generator, self.discriminator), self.makers
        ):
            optimizers.append(optimizer(network.parameters()))
            self._schedules.append(schedule(optimizers[-1]) if schedule else None)
        return optimizers, [schedule for schedule in self._schedules if schedule]

    def on_train_end(self) -> None:
        self._calibrate_all_ranks()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        self._calibrate_all_ranks()  # in place, so that `checkpoint["state_dict"]` holds the result
        if self.trainer.world_size > 1:
            check_ranks_agree(self)
