"""Training of two networks against each other by manual optimization."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from jsonargparse.typing import OpenUnitInterval, PositiveFloat, PositiveInt
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor
from torch.utils._pytree import tree_map

from common.errors import UserError
from lightning_modules.core.modes import evaluating, frozen
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.ranks import check_ranks_agree
from lightning_modules.core.seeding import seed_generators

# Batches, and samples in each, per estimate of an averaged generator's batch-norm statistics.
CALIBRATION_BATCHES, CALIBRATION_SIZE = 10, 128


OPTIMIZER_ARGUMENTS = [  # callables, which a checkpoint of plain values cannot hold
    "generator_optimizer",
    "discriminator_optimizer",
    "generator_schedule",
    "discriminator_schedule",
]


def batch_norms(module: torch.nn.Module) -> list[torch.nn.modules.batchnorm._BatchNorm]:
    """All batch-norm layers of a network."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    return [layer for layer in module.modules() if isinstance(layer, kind)]


def rename_loss(losses: dict[str, Any], name: str) -> dict[str, Any]:
    """Losses with the key "loss" replaced by `name`."""
    return {name if key == "loss" else key: value for key, value in losses.items()}


def adam_for_gans(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Adam with the step size and the short memory of Radford et al. 2016, section 4."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


class AdversarialModule(GenerativeModule):
    """Two players trained in turns, by Lightning's manual optimization.

    What manual optimization takes away is given back here, once: one counted update per step of the
    discriminator (so that `max_steps`, checkpoint names and every logger count updates),
    accumulation, clipping, schedules, bf16, the norm of the gradient, several processes, and an
    average of the generator's weights. A subclass holds networks and losses:

    - `__init__` ends with `set_networks(generator, discriminator)`;
    - `generate(batch)` returns what the generator makes for a batch: a tensor, or any nest of
      tensors;
    - `discriminator_loss(batch, generated)` and `generator_loss(batch, generated)` return the loss
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

    find_unused_parameters = True  # each player's backward leaves the other's parameters out
    generator: torch.nn.Module
    discriminator: torch.nn.Module
    ema_modules = ("generator",)

    def __init__(
        self,
        generator_optimizer: OptimizerCallable = adam_for_gans,
        discriminator_optimizer: OptimizerCallable = adam_for_gans,
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
        self.save_hyperparameters(ignore=OPTIMIZER_ARGUMENTS)
        self.automatic_optimization = False
        self.optimizer_factories = [
            (generator_optimizer, generator_schedule),
            (discriminator_optimizer, discriminator_schedule),
        ]
        self.n_critic, self.simultaneous, self.accumulate = n_critic, simultaneous, accumulate
        self.clips = (generator_clip, discriminator_clip)
        self._accumulated: list[dict[str, Any]] = []
        self._uncalibrated = False

    def set_networks(self, generator: torch.nn.Module, discriminator: torch.nn.Module) -> None:
        """Register both networks, and begin to average the generator where `ema_decay` is given."""
        self.generator, self.discriminator = generator, discriminator
        if self.hparams.ema_decay:
            self.init_ema()

    def ema_decay_at(self, update: int) -> float:
        return self.hparams.ema_decay

    @contextmanager
    def averaged_weights(self, enabled: bool = True) -> Iterator[None]:
        if enabled and not self._weights_chosen:
            self.calibrate()
        with super().averaged_weights(enabled):
            yield

    def generate(self, batch: dict[str, Any]) -> Any:
        """What the generator makes for a batch."""
        raise NotImplementedError

    def discriminator_loss(self, batch: dict[str, Any], generated: Any) -> dict[str, Tensor]:
        """Objective of the discriminator for one mini-batch; `generated` carries no gradient.

        Returns:
            The scalar `loss`, logged as `train/loss_d`, and other values to log.
        """
        raise NotImplementedError

    def generator_loss(self, batch: dict[str, Any], generated: Any) -> dict[str, Tensor]:
        """Objective of the generator for one mini-batch.

        Returns:
            The scalar `loss`, logged as `train/loss_g`, and other values to log.
        """
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
            norms = batch_norms(self.generator)
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
            for number, batch in enumerate(self.calibration_batches() if norms else ()):
                torch.manual_seed(number)
                self.generate(move_data_to_device(batch, self.device))
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum

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
        self._accumulated.append(batch)
        first = batch_idx + 1 - len(self._accumulated)
        size = min(self.accumulate, int(self.trainer.num_training_batches) - first)
        last = len(self._accumulated) == size
        turn = (self.trainer.global_step + 1) % self.n_critic == 0
        self.mid_update = not last
        with torch.set_grad_enabled(
            turn and self.accumulate == 1
        ):  # where it is this batch's turn, the generator's pass is shared
            generated = self.generate(batch)
        generator, discriminator = self.both_optimizers()
        losses = self.discriminator_loss(batch, tree_map(lambda value: value.detach(), generated))
        self._backward(losses["loss"] / size, synchronise=last)
        self.log_train(**rename_loss(losses, "loss_d"))
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
            self.update_ema(self.trainer.global_step)
            self._uncalibrated = self.ema is not None
        discriminator.zero_grad()
        for schedule, due in zip(self._schedules, (turn, True)):
            if schedule is not None and due:
                schedule.step()
        self._accumulated = []
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
            for number, batch in enumerate(self._accumulated, 1):
                if (
                    self.accumulate > 1
                ):  # the same noise again, now with a graph; only one batch's graph is ever kept
                    seed_generators(batch["seed"], self.device)
                    generated = self.generate(batch)
                losses = self.generator_loss(batch, generated)
                count = len(self._accumulated)
                self._backward(losses["loss"] / count, synchronise=number == count)
                self.log_train(**rename_loss(losses, "loss_g"))

    def _backward(self, loss: Tensor, *, synchronise: bool) -> None:
        """Backward that averages gradients over ranks once per update."""
        strategy: Any = self.trainer.strategy
        wait = not synchronise and isinstance(strategy, ParallelStrategy)
        with strategy.block_backward_sync() if wait else nullcontext():
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

    def _average_batch_norms(self) -> None:
        """Mean of the running statistics over ranks. DDP synchronises no buffers where optimization
        is manual.
        """
        if self.trainer.world_size == 1:
            return
        buffers = [
            buffer
            for norm in batch_norms(self)
            for buffer in (norm.running_mean, norm.running_var)
            if buffer is not None
        ]
        if buffers:
            mean = self.trainer.strategy.reduce(
                torch.cat([buffer.flatten() for buffer in buffers]), reduce_op="mean"
            )
            torch._foreach_copy_(buffers, list(mean.split([len(buffer) for buffer in buffers])))

    # What Lightning asks for

    def configure_optimizers(self) -> Any:
        if any(isinstance(part, torch.nn.SyncBatchNorm) for part in self.modules()):
            # Previews of rank 0 would wait for the other ranks in `calibrate`.
            raise UserError(
                "trainer.sync_batchnorm: adversarial systems average batch-norm statistics themselves; leave it out"
            )
        optimizers, self._schedules = [], []
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
        self._calibrate_all_ranks()  # in place, so that `checkpoint["state_dict"]` holds the result
        if self.trainer.world_size > 1:
            check_ranks_agree(self)
