"""Metrics of image tokens: codebook usage, and share of tokens unchanged by decoding and encoding.

The states of the metrics are sums, which are added over ranks. Results are therefore exact for any
number of ranks.
"""

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric


class ImageTokenUsage(Metric):
    """Usage of a codebook by the image tokens of a split.

    Args:
        codebook_size: Number K of codebook vectors; image tokens are in [0, K).
        measure: Measure of usage. "share" is the share of the K tokens that occur. "perplexity" is
            the perplexity of the token frequencies, between 1 (a single token) and K (uniform).
    """

    higher_is_better = True
    full_state_update = False
    uses: Tensor

    def __init__(self, codebook_size: int, measure: Literal["share", "perplexity"]) -> None:
        super().__init__()
        self.codebook_size, self.measure = codebook_size, measure
        uses = torch.zeros(codebook_size, dtype=torch.int64)
        self.add_state("uses", uses, dist_reduce_fx="sum")

    @property
    def signature(self) -> str:
        return f"codes[{self.measure}|k={self.codebook_size}]"

    def update(self, image_tokens: Tensor) -> None:
        """Add image tokens of any shape."""
        self.uses += torch.bincount(image_tokens.flatten(), minlength=self.codebook_size)

    def compute(self) -> Tensor:
        if self.measure == "share":
            return (self.uses > 0).float().mean()
        share = self.uses.double() / self.uses.sum()
        return torch.special.entr(share).sum().exp().float()


class ImageTokensKept(Metric):
    """Share of image tokens that are unchanged after decoding to an image and encoding again."""

    higher_is_better = True
    full_state_update = False
    signature = "codes[kept|codes-image-codes]"
    equal: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("equal", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, image_tokens: Tensor, encoded_again: Tensor) -> None:
        """Add image tokens, and the tokens of the same shape after decoding and encoding again."""
        self.equal += (image_tokens == encoded_again).sum()
        self.count += image_tokens.numel()

    def compute(self) -> Tensor:
        return self.equal / self.count
