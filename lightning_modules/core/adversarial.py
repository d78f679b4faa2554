"""Training of a generator and a discriminator against each other, by manual optimization."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from jsonargparse.typing import OpenUnitInterval, PositiveFloat, PositiveInt
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_map

from common.errors import UserError
from lightning_modules.core.losses import rename_loss, total_loss
from lightning_modules.core.modes import evaluating, frozen
from lightning_modules.core.module import GenerativeModule, gradients_of
from lightning_modules.core.ranks import average_over_ranks, check_ranks_agree
from lightning_modules.core.seeding import seed_generators

# Number of batches and number of samples per batch from which `calibrate` estimates the batch-norm
# statistics of the averaged generator.
CALIBRATION_BATCHES, CALIBRATION_SIZE = 10, 128

OPTIMIZER_ARGUMENTS = [  # not saved as hyper-parameters, because functions are not plain values
    "generator_optimizer",
    "discriminator_optimizer",
    "generator_schedule",
    "discriminator_schedule",
]


def batch_norms(module: torch.nn.Module) -> list[torch.nn.modules.batchnorm._BatchNorm]:
    """Return all batch-norm layers of a network."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    return [layer for layer in module.modules() if isinstance(layer, kind)]


class AdversarialModule(GenerativeModule):
    """Base class of systems that train two networks against each other, by manual optimization.

    One update (`_train_on`) uses `accumulate` batches:

    1. `generate(batch)` runs the generator G.
    2. The discriminator D takes an optimizer step on `discriminator_loss(batch, generated)`, where
       `generated` is detached from G.
    3. In every `n_critic`-th update, G takes an optimizer step on `generator_loss(batch,
       generated)`. The loss uses the updated D, whose parameters are frozen in this step.
    4. The learning rate schedules are stepped, and the average of G's weights is updated.

    `trainer.global_step` counts the steps of D. Gradient clipping, accumulation, bf16 and several
    processes work as in automatic optimization. A subclass

    - calls `save_hyperparameters(ignore=OPTIMIZER_ARGUMENTS)` in its `__init__`, which ends with
      `set_networks(generator, discriminator)`;
    - implements `generate`, `discriminator_loss` and `generator_loss`, whose gradients reach the
      same parameters on all ranks;
    - returns `build_optimizers()` from `configure_optimizers`.

    Args:
        Optimizer:
        generator_optimizer: Function that builds an optimizer from the generator's parameters.
        discriminator_optimizer: Function that builds an optimizer from the discriminator's
            parameters. Training with different learning rates for generator and discriminator is
            called the two time-scale update rule (Heusel et al. 2017).
        generator_schedule: Function that builds the learning rate schedule of the generator from
            its optimizer. The schedule is stepped once per update of the generator.
        discriminator_schedule: Function that builds the learning rate schedule of the discriminator
            from its optimizer. The schedule is stepped once per update of the discriminator.
        Updates:
        n_critic: Number of discriminator updates per generator update.
        simultaneous: Whether to compute the gradients of both networks before either is updated.
            Otherwise, the generator's gradient is computed with the updated discriminator.
        accumulate: Number of batches whose gradients are averaged for one update, which equals one
            update on the joined batch, except for the statistics of batch norm.
        generator_clip: Maximum norm of the generator's gradient; None for no clipping.
        discriminator_clip: Maximum norm of the discriminator's gradient; None for no clipping.
        ema_decay: Decay of the exponential moving average of the generator's weights, in (0, 1).
            Samples, and the translations whose errors are logged, are generated with the averaged
            weights; losses are those of the trained weights. None disables the average.
    """

    replaced_trainer_options = {
        "gradient_clip_val": "give --model.generator_clip and --model.discriminator_clip instead",
        "gradient_clip_algorithm": "leave it out: --model.generator_clip limits the norm",
        "accumulate_grad_batches": "give --model.accumulate instead",
        "sync_batchnorm": "leave it out: batch-norm statistics are averaged over processes",
    }
    generator: torch.nn.Module
    discriminator: torch.nn.Module
    ema_modules = ("generator",)

    def __init__(
        self,
        generator_optimizer: OptimizerCallable,
        discriminator_optimizer: OptimizerCallable,
        generator_schedule: LRSchedulerCallable | None = None,
        discriminator_schedule: LRSchedulerCallable | None = None,
        n_critic: PositiveInt = 1,
        simultaneous: bool = False,
        accumulate: PositiveInt = 1,
        generator_clip: PositiveFloat | None = None,
        discriminator_clip: PositiveFloat | None = None,
        ema_decay: OpenUnitInterval | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.optimizer_factories = [
            (generator_optimizer, generator_schedule),
            (discriminator_optimizer, discriminator_schedule),
        ]
        self.n_critic, self.simultaneous, self.accumulate = n_critic, simultaneous, accumulate
        self.clips = (generator_clip, discriminator_clip)
        self.ema_decay = ema_decay
        self._accumulated: list[dict[str, Any]] = []
        self._uncalibrated = False

    def set_networks(self, generator: torch.nn.Module, discriminator: torch.nn.Module) -> None:
        """Register G and D as submodules; if `ema_decay` is set, start to average G's weights."""
        self.generator, self.discriminator = generator, discriminator
        if self.ema_decay is not None:
            self.init_ema()

    def ema_decay_at(self, update: int) -> float | None:
        return self.ema_decay

    @contextmanager
    def averaged_weights(self, enabled: bool = True) -> Iterator[None]:
        if enabled and not self._weights_chosen:
            self.calibrate()
        with super().averaged_weights(enabled):
            yield

    def generate(self, batch: dict[str, Any]) -> Any:
        """Return the generator's output for a batch: a tensor or a nested structure of tensors."""
        raise NotImplementedError

    def averaged_output(self, batch: dict[str, Any], generated: Any) -> Any:
        """Return the output of the averaged generator, or `generated` without averaged weights."""
        if not self.has_averaged_weights:
            return generated
        with self.averaged_weights():
            return self.generate(batch)

    def discriminator_loss(self, batch: dict[str, Any], generated: Any) -> dict[str, Tensor]:
        """Compute the loss of the discriminator for one mini-batch.

        Args:
            batch: Mini-batch of the data module.
            generated: Output of `generate`, detached from the generator.

        Returns:
            Dictionary with the scalar `loss`, logged as `train/loss_d`, and other values to log.
        """
        raise NotImplementedError

    def generator_loss(self, batch: dict[str, Any], generated: Any) -> dict[str, Tensor]:
        """Compute the loss of the generator for one mini-batch.

        Returns:
            Dictionary with the scalar `loss`, logged as `train/loss_g`, and other values to log.
        """
        raise NotImplementedError

    # Moving average of the generator, and its batch-norm statistics

    def calibration_batches(self) -> Iterator[dict[str, Any]]:
        """Yield the same batches at each call, evenly spaced training samples, for `calibrate`."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        size, total = len(data.split("train")), CALIBRATION_BATCHES * CALIBRATION_SIZE
        rows = [row * size // total for row in range(total)]
        for number in range(CALIBRATION_BATCHES):
            yield data.batch("train", rows[number::CALIBRATION_BATCHES])

    @torch.no_grad()
    def calibrate(self) -> None:
        """Estimate batch-norm statistics of the averaged generator if its weights have changed.

        Activations of the averaged generator vary less than those of the trained generator.
        Therefore neither the trained generator's statistics nor their moving average fit it.
        The estimate depends on the averaged weights and fixed training samples alone. It does not
        influence training.
        """
        if not (self._uncalibrated and self.has_averaged_weights):
            return
        self._uncalibrated = False
        devices, kind = [] if self.device.type == "cpu" else [self.device], self.device.type
        with (
            super().averaged_weights(),
            evaluating(self.generator, True),
            torch.random.fork_rng(devices, device_type=kind),
            torch.autocast(kind, enabled=False),
        ):
            # Layers with the attribute `per_image` sample with the statistics of each image.
            norms = [x for x in batch_norms(self.generator) if not getattr(x, "per_image", False)]
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # None averages over all batches
            for number, batch in enumerate(self.calibration_batches() if norms else ()):
                torch.manual_seed(number)
                self.generate(move_data_to_device(batch, self.device))
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum

    def _calibrate_all_ranks(self) -> None:
        """Calibrate on every rank, then copy rank 0's result, because rounding may differ."""
        self.calibrate()
        if self.ema is not None and self.trainer.world_size > 1:
            for buffer in self.ema.buffers():
                torch.distributed.broadcast(buffer, 0)

    # One update

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._train_on(batch, batch_idx)
        for further, index in self.further_batches():
            self._train_on(further, index)

    def _train_on(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add the gradients of a batch; update the networks if it is the last of an update."""
        self._accumulated.append(batch)
        first = batch_idx + 1 - len(self._accumulated)
        size = min(self.accumulate, int(self.trainer.num_training_batches) - first)
        last = len(self._accumulated) == size
        self._current_update = update = self.trainer.global_step + 1
        update_generator = update % self.n_critic == 0
        self.mid_update = not last
        make = partial(self._make_update, size, last, update_generator)
        self.run_update(make, batch, update_generator)
        if not last:
            return
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()  # `trainer.global_step` counts these calls
        progress.increment_completed()
        if update_generator:
            self.update_ema(update)
            self._uncalibrated = self.ema is not None
        rates = [one.param_groups[0]["lr"] for one in self.both_optimizers()]
        for schedule, due in zip(self._schedules, (update_generator, True)):
            if schedule is not None and due:
                schedule.step()
        self._accumulated = []
        self._average_batch_norms()
        if self.ends_interval():
            self._write_interval(lr=rates[0], lr_d=rates[1])

    def _make_update(
        self, size: int, last: bool, update_generator: bool, batch: dict[str, Any]
    ) -> None:
        """Compute the gradients of one of `size` batches, the last of which updates the networks.

        `batch` is the last element of `_accumulated`, or a copy of it.
        """
        # Both losses use one pass of the generator, unless gradients are accumulated.
        with torch.set_grad_enabled(update_generator and self.accumulate == 1):
            generated = self.generate(batch)
        generator, discriminator = self.both_optimizers()
        losses = self.discriminator_loss(batch, tree_map(lambda value: value.detach(), generated))
        loss = total_loss(losses, self.discriminator_loss)
        self.run_backward(loss / size)
        self.log_train(**rename_loss(losses, "loss_d"))
        self.record_loss(loss, batch)
        if not last:
            return
        batches = [*self._accumulated[:-1], batch]
        if update_generator and self.simultaneous:
            self._generator_backward(generated, batches)
        self.average_gradients(gradients_of(discriminator.optimizer))
        self.run_optimizer(discriminator.optimizer)
        if update_generator:
            if not self.simultaneous:
                self._generator_backward(generated, batches)
            self.average_gradients(gradients_of(generator.optimizer))
            self.run_optimizer(generator.optimizer)
            generator.zero_grad()
        discriminator.zero_grad()

    def both_optimizers(self) -> list[LightningOptimizer]:
        """Return the optimizers of the generator and of the discriminator, in this order."""
        return cast(list[LightningOptimizer], self.optimizers())

    def _generator_backward(self, generated: Any, batches: list[dict[str, Any]]) -> None:
        """Compute the generator's gradient, averaged over all batches of this update."""
        with frozen(self.discriminator):
            for batch in batches:
                if self.accumulate > 1:  # one graph in memory; same noise as for D
                    seed_generators(batch["seed"], self.device)
                    generated = self.generate(batch)
                losses = self.generator_loss(batch, generated)
                loss = total_loss(losses, self.generator_loss)
                self.run_backward(loss / len(batches))
                self.log_train(**rename_loss(losses, "loss_g"))
                self.record_loss(loss, batch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Record the gradient norm of the network that `optimizer` updates, then clip it."""
        network = [one.optimizer for one in self.both_optimizers()].index(optimizer)
        limit, is_generator = self.clips[network], network == 0
        rare = is_generator and self.n_critic > 1  # may not be updated at the end of an interval
        if self.ends_interval() or rare or limit is not None:
            norm = self.record_grad_norm(("grad_norm", "grad_norm_d")[network], optimizer)
            if limit is not None:
                factor = (limit / (norm + 1e-6)).clamp(max=1.0)
                torch._foreach_mul_(gradients_of(optimizer), factor)

    def _average_batch_norms(self) -> None:
        """Average batch-norm statistics over ranks; DDP omits this in manual optimization."""
        if self.trainer.world_size == 1:
            return
        statistics = ((norm.running_mean, norm.running_var) for norm in batch_norms(self))
        average_over_ranks([one for pair in statistics for one in pair if one is not None])

    # Lightning hooks

    def build_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LRScheduler]]:
        """Build the optimizers of G and D and their schedules, for `configure_optimizers`.

        Returns:
            The optimizers of G and D, in this order, and a list of the schedules that are set.

        Raises:
            UserError: If `trainer.sync_batchnorm` is set.
        """
        if any(isinstance(part, torch.nn.SyncBatchNorm) for part in self.modules()):
            # `calibrate` also runs in previews on rank 0, where SyncBatchNorm would wait forever.
            raise UserError(
                "trainer.sync_batchnorm is not supported: adversarial systems average batch-norm "
                "statistics themselves; leave it out"
            )
        optimizers: list[torch.optim.Optimizer] = []
        self._schedules: list[LRScheduler | None] = []
        for network, (optimizer, schedule) in zip(
            (self.generator, self.discriminator), self.optimizer_factories
        ):
            optimizers.append(optimizer(network.parameters()))
            self._schedules.append(schedule(optimizers[-1]) if schedule else None)
        return optimizers, [schedule for schedule in self._schedules if schedule]

    def on_train_end(self) -> None:
        self._calibrate_all_ranks()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        self._calibrate_all_ranks()  # in place: also changes the tensors in `checkpoint`
        if self.trainer.world_size > 1:
            check_ranks_agree(self)
