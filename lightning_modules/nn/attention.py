"""Scaled dot-product attention, whose weights can be recorded."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionMap(NamedTuple):
    """Attention weights of one sequence.

    Attributes:
        rows: Texts of the R queries.
        columns: Texts of the C keys.
        weights: Weights (H, R, C) of each head; rows sum to 1.
    """

    rows: list[str]
    columns: list[str]
    weights: Tensor


class RecordsAttention:
    """Mixin of modules whose attention weights can be recorded.

    Attributes:
        recorded: List to which each forward pass appends its weights (N, H, T, S), or None.
    """

    recorded: list[Tensor] | None = None


@contextmanager
def recording_attention(network: nn.Module) -> Iterator[list[Tensor]]:
    """Record the attention weights of a network inside the block.

    Args:
        network: Network whose submodules with the mixin `RecordsAttention` are recorded.

    Yields:
        List that receives weights (N, H, T, S) in the order of computation.
    """
    weights: list[Tensor] = []
    modules = [module for module in network.modules() if isinstance(module, RecordsAttention)]
    for module in modules:
        module.recorded = weights
    try:
        yield weights
    finally:
        for module in modules:
            module.recorded = None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
    causal: bool = False,
    recorded: list[Tensor] | None = None,
) -> Tensor:
    """Attention, softmax(Q K' / sqrt(D)) V (Vaswani et al. 2017, Eq. 1).

    Uses PyTorch's fused kernel unless the weights are recorded.

    Args:
        q: Queries (N, H, T, D).
        k: Keys (N, H, S, D).
        v: Values (N, H, S, D).
        mask: Boolean mask, broadcast to (N, H, T, S), True where a query may attend; None for
            all positions.
        dropout: Dropout probability of the weights.
        causal: Mask all keys after the query's own position; only without a mask.
        recorded: List to which the weights (N, H, T, S) are appended.

    Returns:
        Tensor of shape (N, H, T, D).
    """
    if recorded is None:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(-1)
    recorded.append(weights)
    return F.dropout(weights, dropout, dropout > 0) @ v
