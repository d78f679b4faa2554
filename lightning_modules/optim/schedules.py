"""Learning rate schedules that PyTorch lacks."""

import math
from typing import Any

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from common.errors import UserError


class GoodfellowSchedule(LRScheduler):
    """Exponential decay of the learning rate down to 1e-6, with a linear rise of the momentum.

    This is the training schedule of the GAN (Goodfellow et al. 2014) and of the conditional GAN
    (Mirza and Osindero 2014).

    Args:
        optimizer: SGD optimizer with momentum.
        decay: Number by which the learning rate is divided at each update. The GAN's released
            code uses 1.000004; the conditional GAN uses 1.00004.
        momentum: Final momentum. The initial momentum is the `momentum` of the optimizer.
        momentum_updates: Number of updates over which the momentum rises. The GAN's released code
            uses 125,000 updates, which are 250 epochs of 500 batches.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        decay: PositiveFloat = 1.000004,
        momentum: ClosedUnitInterval = 0.7,
        momentum_updates: PositiveInt = 125_000,
    ) -> None:
        # Plain numbers, because checkpoints store the attributes.
        self.decay, self.momentum = float(decay), float(momentum)
        self.momentum_updates = int(momentum_updates)
        self.first_momentum = optimizer.param_groups[0].get(
            "initial_momentum", optimizer.param_groups[0]["momentum"]
        )
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        share = min(1.0, self.last_epoch / self.momentum_updates)
        for group in self.optimizer.param_groups:
            group["initial_momentum"] = self.first_momentum
            group["momentum"] = self.first_momentum + share * (self.momentum - self.first_momentum)
        return [max(1e-6, base * self.decay**-self.last_epoch) for base in self.base_lrs]


class ConstantThenLinear(LRScheduler):
    """Constant learning rate for `constant` updates, then linear decay to 0 over `decay` updates.

    If `every` is the number of updates in an epoch, the learning rate changes between epochs only.
    For two releases of CycleGAN, the table lists the factor of the learning rate in epoch e = 0, 1,
    ... of E updates, and the arguments `constant` and `decay` that give this factor:

    | release of CycleGAN, 100 + 100 epochs | factor in epoch e | constant | decay |
    |---|---|---|---|
    | first (Lua) | 1 - max(0, e - 100) / 100 | 100 E | 100 E |
    | PyTorch | 1 - max(0, e + 1 - 100) / (100 + 1) | 99 E | 101 E |

    Args:
        optimizer: Optimizer whose learning rates are scaled.
        constant: Number of updates at the full learning rate.
        decay: Number of updates over which the learning rate falls to 0.
        every: Number of updates between two changes of the learning rate. It must divide `constant`
            and `decay`.

    Raises:
        UserError: If `every` does not divide `constant` and `decay`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        constant: NonNegativeInt,
        decay: PositiveInt,
        every: PositiveInt = 1,
    ) -> None:
        self.constant, self.decay, self.every = int(constant), int(decay), int(every)
        if self.constant % self.every or self.decay % self.every:
            raise UserError(
                f"every ({every}) of ConstantThenLinear must divide constant ({constant}) and "
                f"decay ({decay})"
            )
        super().__init__(optimizer)

    @property
    def has_ended(self) -> bool:
        """Whether the learning rate stays 0."""
        return bool(self.last_epoch >= self.constant + self.decay)

    def get_lr(self) -> list[float | Tensor]:
        step = self.last_epoch - self.last_epoch % self.every
        left = min(1.0, max(0.0, (self.constant + self.decay - step) / self.decay))
        return [base * left for base in self.base_lrs]


def cosine(
    optimizer: torch.optim.Optimizer, total: int, warmup_steps: int = 0, last: float = 0.0
) -> dict[str, Any]:
    """Build a schedule of `warmup_steps` updates of linear warm-up, then cosine decay.

    After `total` updates, the learning rate would be `last` times its peak.
    """

    def rate(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
        return (1 + last) / 2 + (1 - last) / 2 * math.cos(math.pi * progress)

    return {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}
