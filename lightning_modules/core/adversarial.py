"""Training of two networks against each other by manual optimization."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, cast

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import DDPStrategy, ParallelStrategy
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor
from torch.utils._pytree import tree_map

from common.errors import UserError
from lightning_modules.core.ema import move_average
from lightning_modules.core.modes import evaluating, frozen
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.ranks import check_ranks_agree
from lightning_modules.core.seeding import seed_generators

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
        self.optimizer_factories = [
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
