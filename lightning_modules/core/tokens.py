"""What all systems over tokens share: a loss that is a mean over the tokens of the whole update.

Batches hold unequal numbers of targets, so that a mean of their means would weigh each token by the
batch it came in, and one update would differ with the ranks and accumulated batches that it is cut
into. Here it never does.
"""

import sys
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.module import GenerativeModule

NOMINAL = 4096.0  # targets by which a sum is divided until their true number is known


def token_losses(logits: Tensor, targets: Tensor, length: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log p of each target, 0 where none counts.

    Args:
        logits: (N, T, V).
        targets: (N, T).
        length: targets of each row that count, (N,).
        smoothing: share of the probability that is spread evenly over all tokens (Szegedy et al.
            2016, section 7).

    Returns:
        (N, T), in nats.
    """
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="none", label_smoothing=smoothing
    )
    counts = torch.arange(targets.shape[1], device=targets.device) < length[:, None]
    return losses.view_as(targets) * counts


class TokenModule(GenerativeModule):
    """Base of systems over tokens; a batch says as `targets` how many of its tokens are predicted.

    Attributes:
        context: most tokens that are seen at once.
    """

    throughput_unit: ClassVar[str] = "tokens"
    precisions: ClassVar = (*GenerativeModule.precisions, "bf16-true")
    context: int = sys.maxsize

    def __init__(self) -> None:
        super().__init__()
        self._targets = 0

    def setup(self, stage: str) -> None:
        super().setup(stage)
        length = getattr(self.trainer.datamodule, "context", 0)  # type: ignore[attr-defined]
        if length > self.context:
            raise UserError(
                f"data.context {length} is more than model.context {self.context}: make them equal"
            )

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        """Log the figures of one batch of "val" or "test"."""
        raise NotImplementedError

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.measure(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.measure(batch, "test")

    def batch_units(self, batch: dict[str, Any]) -> int:
        return int(batch["targets"])

    def target_count(self, batch: dict[str, Any]) -> int:
        """Number of tokens over which `loss` is a mean."""
        return int(batch["targets"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return a loss whose gradient becomes that of the mean over the tokens of the update."""
        loss = super().training_step(batch, batch_idx)
        if self.trainer.world_size * self.trainer.accumulate_grad_batches == 1:
            return loss
        self._targets += self.target_count(batch)
        return loss * (self.target_count(batch) / NOMINAL)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._targets:
            parts = (
                self.trainer.world_size * self.trainer.accumulate_grad_batches
            )  # that Lightning has divided by
            total = self.trainer.strategy.reduce(
                torch.tensor(self._targets, device=self.device), reduce_op="sum"
            )
            gradients = [
                p.grad
                for group in optimizer.param_groups
                for p in group["params"]
                if p.grad is not None
            ]
            torch._foreach_mul_(gradients, NOMINAL * parts / total)
            self._targets = 0
        super().on_before_optimizer_step(optimizer)
