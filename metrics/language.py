"""Likelihood of a text per token."""

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenNLL(Metric):
    """Mean of -log p in nats over every target token of a split, summed exactly over batches and
    ranks.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.description = ""  # of how the text was read
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def signature(self) -> str:
        return f"nll[{self.description}]"

    def update(self, losses: Tensor, count: int) -> None:
        """Add the losses of a batch, any shape, of which `count` are not 0 for want of a target."""
        self.total = (
            self.total.double() + losses.double().sum()
        )  # a run in bf16-true makes its metrics' states so, too
        self.count += count

    def compute(self) -> Tensor:
        return (self.total / self.count).float()
