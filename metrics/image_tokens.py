"""How a codebook is used; all states are sums, so that ranks add up exactly."""

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric


class CodeUsage(Metric):
    """How many codes of a codebook are used.

    Args:
        codes: K, how many there are.
        measure: "share" of the codes that occur at all, or the "perplexity" of how often each one
            does: K where all are used alike, 1 where it is always the same one.
    """

    higher_is_better = True
    full_state_update = False
    uses: Tensor

    def __init__(self, codes: int, measure: Literal["share", "perplexity"]) -> None:
        super().__init__()
        self.codes, self.measure = codes, measure
        self.add_state("uses", torch.zeros(codes, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def signature(self) -> str:
        return f"codes[{self.measure}|k={self.codes}]"

    def update(self, codes: Tensor) -> None:
        """Add codes of any shape."""
        self.uses += torch.bincount(codes.flatten(), minlength=self.codes)

    def compute(self) -> Tensor:
        if self.measure == "share":
            return (self.uses > 0).float().mean()
        share = self.uses.double() / self.uses.sum()
        return torch.special.entr(share).sum().exp().float()


class CodesKept(Metric):
    """Share of codes that come back when their picture is encoded again."""

    higher_is_better = True
    full_state_update = False
    signature = "codes[kept|codes-image-codes]"
    kept: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("kept", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, codes: Tensor, again: Tensor) -> None:
        """Add codes of one shape, before and after."""
        self.kept += (codes == again).sum()
        self.count += codes.numel()

    def compute(self) -> Tensor:
        return self.kept / self.count
