"""Scaled dot-product attention that can record its attention weights."""

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
        rows: Texts of the R queries, such as tokens.
        columns: Texts of the C keys, such as tokens.
        weights: Attention weights (H, R, C) of H heads. For each query they sum to 1.
    """

    rows: list[str]
    columns: list[str]
    weights: Tensor


class RecordsAttention:
    """Mixin for modules whose attention weights can be recorded.

    Attributes:
        recorded: List to which each forward pass appends attention weights (N, H, T, S), or None to
            record nothing.
    """

    recorded: list[Tensor] | None = None


@contextmanager
def recording_attention(network: nn.Module) -> Iterator[list[Tensor]]:
    """Record the attention weights of a network during a `with` block.

    Args:
        network: Network whose submodules with the mixin `RecordsAttention` are recorded.

    Yields:
        List of attention weights (N, H, T, S), one tensor per attention layer and forward pass, in
        the order of computation.
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
    """Compute attention, softmax(Q K' / sqrt(D)) V (Vaswani et al. 2017, Eq. 1).

    PyTorch's fused kernel is used unless weights are recorded, because it does not return them.

    Args:
        q: Queries (N, H, T, D).
        k: Keys (N, H, S, D).
        v: Values (N, H, S, D).
        mask: Boolean mask, broadcast to (N, H, T, S), True where a query may attend. With None,
            each query attends to all keys.
        dropout: Dropout probability of the attention weights.
        causal: Whether to mask all keys after the position of the query. `mask` must then be None.
        recorded: List to which the attention weights (N, H, T, S) are appended, or None.

    Returns:
        Weighted means of the values, shape (N, H, T, D).
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
