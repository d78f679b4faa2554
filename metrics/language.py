"""Negative log-likelihood of text per token."""

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenNLL(Metric):
    """Mean negative log-likelihood in nats over all target tokens of a split.

    The mean is exact for batches of any size and any number of ranks.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.description = ""  # settings of the evaluation, recorded in the signature
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def signature(self) -> str:
        return f"nll[{self.description}]"

    def update(self, losses: Tensor, count: int) -> None:
        """Add the losses of a batch.

        Args:
            losses: Losses in nats, of any shape; 0 at positions without a target.
            count: Number of positions with a target.
        """
        self.total += losses.double().sum()
        self.count += count

    def compute(self) -> Tensor:
        return (self.total / self.count).float()
