"""Base class of systems over tokens, with a loss that is a mean over all tokens of an update.

An update is an optimizer step on one or several batches, on all ranks together. The batches have
different numbers of target tokens. A mean of batch means would weight tokens unequally, and the
update would depend on how the tokens are split into batches.
"""

import sys
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.errors import UserError
from datamodules.usage_report import note
from lightning_modules.core.module import GenerativeModule, gradients_of

# Provisional divisor of summed losses: the number of targets of an update is known at its end only.
NOMINAL_TARGETS = 4096.0


class TokenModule(GenerativeModule):
    """Base class of systems over tokens; `batch["num_targets"]` is the number of predicted tokens.

    Attributes:
        context: Maximum number of tokens in the context window.
    """

    throughput_unit: ClassVar[str] = "tokens"
    context: int = sys.maxsize

    def __init__(self) -> None:
        super().__init__()
        self._targets = 0

    def setup(self, stage: str) -> None:
        super().setup(stage)
        length = getattr(self.trainer.datamodule, "context", 0)  # type: ignore[attr-defined]
        if length > self.context:
            raise UserError(
                f"data.context {length} is more than model.context {self.context}: "
                "set both options to the same value"
            )
        if stage == "fit" and 0 < length < self.context < sys.maxsize:
            note(
                f"data.context {length} is less than model.context {self.context}: later positions "
                "are not trained"
            )

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        """Update the metrics of a split, "val" or "test", with one batch."""
        raise NotImplementedError

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.measure(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.measure(batch, "test")

    def batch_units(self, batch: dict[str, Any]) -> int:
        return int(batch["num_targets"])

    def target_count(self, batch: dict[str, Any]) -> int:
        """Return the number of tokens over which `loss` is a mean."""
        return int(batch["num_targets"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss, times the number of targets / 4096 if an update has several batches.

        `on_after_backward` then divides the gradient by the number of targets of the update.
        """
        loss = super().training_step(batch, batch_idx)
        if self.trainer.world_size * self.trainer.accumulate_grad_batches == 1:
            return loss
        self._targets += self.target_count(batch)
        return loss * (self.target_count(batch) / NOMINAL_TARGETS)

    def on_after_backward(self) -> None:
        if not self._targets or self.trainer.fit_loop._should_accumulate():
            return
        # Lightning has already divided the gradient by `parts`, the number of batches.
        parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        total = torch.full((), self._targets, device=self.device)  # `tensor` would wait for a GPU
        if self.trainer.world_size > 1:
            # Lightning's `reduce` would also make all ranks wait at a barrier.
            torch.distributed.all_reduce(total)
        gradients = gradients_of(self.trainer.optimizers[0])
        torch._foreach_mul_(gradients, NOMINAL_TARGETS * parts / total)
        self._targets = 0
