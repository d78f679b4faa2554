"""Attention, fused where PyTorch can, and written out where somebody looks at it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_watched: list[Tensor] | None = None


class AttentionMap(NamedTuple):
    """Who looked at whom.

    Attributes:
        rows: what looked, R texts.
        columns: what was looked at, C texts.
        weights: (H, R, C) of each head, rows sum to 1.
    """

    rows: list[str]
    columns: list[str]
    weights: Tensor


@contextmanager
def recording_attention() -> Iterator[list[Tensor]]:
    """A list that fills with the weights (N, H, T, S) of every attention that runs inside, from the
    forward pass itself.
    """
    global _watched
    _watched = []
    try:
        yield _watched
    finally:
        _watched = None


def watch(weights: Tensor) -> None:
    """Show weights (N, H, T, S) to whoever watches."""
    if _watched is not None:
        _watched.append(weights)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0, causal: bool = False
) -> Tensor:
    """softmax(Q K' / sqrt(D)) V (Vaswani et al. 2017, Eq. 1).

    Args:
        q: (N, H, T, D).
        k: (N, H, S, D).
        v: (N, H, S, D).
        mask: bool, broadcast to (N, H, T, S): True where may be looked; None for everywhere.
        dropout: share of the weights that is dropped.
        causal: token t looks at no token after it; without a mask.

    Returns:
        (N, H, T, D).
    """
    if _watched is None:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(-1)
    watch(weights)
    return F.dropout(weights, dropout, dropout > 0) @ v
