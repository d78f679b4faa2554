"""Schedules that PyTorch does not have."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


class GoodfellowSchedule(LRScheduler):
    """Step size divided by `decay` at each update down to 1e-6; momentum rises linearly over the
    first updates.

    Args:
        optimizer: SGD with momentum.
        decay: 1.000004 in the released recipe, 1.00004 in the conditional one.
        momentum: final value; the optimizer's own is the first one.
        momentum_updates: updates over which it rises; 250 epochs of 500 batches in the released
            recipe.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        decay: float = 1.000004,
        momentum: float = 0.7,
        momentum_updates: int = 125_000,
    ) -> None:
        self.decay, self.momentum, self.momentum_updates = decay, momentum, momentum_updates
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
    """Full step size for `constant` updates, then a straight line to 0 over `decay` updates, taken
    in steps of `every` updates.

    With `every` the updates of an epoch, the step size changes between epochs only. For epochs e =
    0, 1, ... of E updates:

    | code | factor of epoch e | constant | decay |
    |---|---|---|---|
    | CycleGAN's first release (Lua), 100 + 100 epochs | 1 - max(0, e - 100) / 100 | 100 E | 100 E |
    | its PyTorch release, 100 + 100 epochs | 1 - max(0, e + 1 - 100) / (100 + 1) | 99 E | 101 E |

    Args:
        optimizer: Optimizer whose learning rates are scaled.
        constant: Number of updates at the full learning rate.
        decay: Number of updates over which the learning rate falls to 0.
        every: Number of updates between two changes of the learning rate; both others are multiples
            of it.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, constant: int, decay: int, every: int = 1
    ) -> None:
        self.constant, self.decay, self.every = constant, decay, every
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        step = self.last_epoch - self.last_epoch % self.every
        left = min(1.0, max(0.0, (self.constant + self.decay - step) / self.decay))
        return [base * left for base in self.base_lrs]


def warmup(step: int, steps: int) -> float:
    """Linear from 0 to 1 over `steps` updates, then 1; 1 throughout where `steps` is 0."""
    return min(1.0, step / steps) if steps else 1.0


def cosine(
    optimizer: torch.optim.Optimizer, total: int, warmup_steps: int = 0, last: float = 0.0
) -> dict[str, Any]:
    """Linear up over `warmup_steps` updates, then half a cosine down to a share `last` at update
    `total`.
    """

    def rate(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
        return (1 + last) / 2 + (1 - last) / 2 * math.cos(math.pi * progress)

    return {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}
