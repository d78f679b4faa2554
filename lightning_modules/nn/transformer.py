"""Blocks of Transformers, and the cache that lets those that only look back write a token without
reading all others again.

| part | choices | source |
|---|---|---|
| norm | layer; rms, which neither centres nor shifts | Ba et al. 2016; Zhang and Sennrich 2019 |
| norm_first | before each branch; or after it is added, as at first | Radford et al. 2019; Vaswani et al. 2017 |
| positions | learned, added to the tokens; rotary, turning queries and keys | Radford et al. 2018; Su et al. 2021, Eq. 34 |
| feed-forward | relu; gelu; swiglu, gated, of 2/3 the width | Vaswani et al.; Hendrycks and Gimpel 2016; Shazeer 2020, Eq. 6 |
| qk_norm | queries and keys of unit scale before they meet | Henry et al. 2020 |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.decoding.kv_cache import KVCache
from lightning_modules.nn.attention import attend


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and choices that all blocks of a network share.

    Args:
        width: of the residual stream.
        heads: of attention.
        dropout: share that is dropped of each branch, and of the embedding.
        attention_dropout: share of the attention weights that is dropped.
        norm: see the table above.
        rotary: whether queries and keys are turned by their positions.
        feed_forward: see the table above.
        qk_norm: see the table above.
        norm_first: see the table above.
        hidden: width inside of the feed-forward layers; four times the other unless given (gated:
            8/3 of it).
        bias: whether linear layers and layer norms have biases.

    Raises:
        UserError: if the width is no multiple of the heads, or the heads' width is odd and rotary.
    """

    width: int
    heads: int
    dropout: float
    attention_dropout: float
    norm: Literal["layer", "rms"]
    rotary: bool
    feed_forward: Literal["relu", "gelu", "swiglu"]
    qk_norm: bool = False
    norm_first: bool = True
    hidden: int | None = None
    bias: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.rotary and self.width // self.heads % 2):
            step = self.heads * (2 if self.rotary else 1)
            raise UserError(
                f"model.width {self.width}: give a multiple of {step} for model.heads {self.heads}"
            )

    def make_norm(self) -> nn.Module:
        """A normalisation layer over the width."""
        return (
            nn.LayerNorm(self.width, bias=self.bias)
            if self.norm == "layer"
            else nn.RMSNorm(self.width)
        )


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turn pairs (x[d], x[d + D/2]) of queries or keys (N, H, T, D) by positions (N, T) or (T,) at
    frequencies 10000^(-2d/D).
    """
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = positions[..., None, :, None] * frequencies  # (N, 1, T, D/2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class SelfAttention(nn.Module):
    """Attention of each token to itself and those before it, or, with a mask, to all that the mask
    admits.

    Args:
        shape: sizes and choices.
        layer: which one of the network it is, for the cache.
    """

    def __init__(self, shape: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.shape, self.layer = shape, layer
        self.qkv = nn.Linear(shape.width, 3 * shape.width, shape.bias)
        self.output = nn.Linear(shape.width, shape.width, shape.bias)
        self.norms = (
            nn.ModuleList([nn.RMSNorm(shape.width // shape.heads) for _ in range(2)])
            if shape.qk_norm
            else None
        )

    def forward(
        self, x: Tensor, positions: Tensor, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        q, k, v = (
            self.qkv(x).unflatten(2, (3, self.shape.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (N, H, T, D)
        if self.norms is not None:
            q, k = self.norms[0](q), self.norms[1](k)
        if self.shape.rotary:
            q, k = rotate(q, positions), rotate(k, positions)
        causal = mask is None and (
            cache is None or cache.place is None
        )  # one token looks at all that the cache has
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
            mask = cache.mask if mask is None else mask
        dropout = self.shape.attention_dropout if self.training else 0.0
        mixed = attend(q, k, v, mask, dropout, causal)
        return self.output(mixed.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of each token of one sequence to all of another, the memory."""

    def __init__(self, shape: TransformerConfig) -> None:
        super().__init__()
        self.shape = shape
        self.query, self.output = (
            nn.Linear(shape.width, shape.width, shape.bias) for _ in range(2)
        )
        self.keys_values = nn.Linear(shape.width, 2 * shape.width, shape.bias)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (N, H, S, D) of a memory (N, S, width), once for all tokens that look at
        it.
        """
        k, v = (
            self.keys_values(memory).unflatten(2, (2, self.shape.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        return k, v

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """(N, T, width) of x (N, T, width); mask (N, 1, 1, S) is True where there is something."""
        q = self.query(x).unflatten(2, (self.shape.heads, -1)).transpose(1, 2)  # (N, H, T, D)
        dropout = self.shape.attention_dropout if self.training else 0.0
        return self.output(attend(q, keys, values, mask, dropout).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers, or three with a gate."""

    def __init__(self, shape: TransformerConfig) -> None:
        super().__init__()
        self.gated, self.activation = (
            shape.feed_forward == "swiglu",
            F.relu if shape.feed_forward == "relu" else F.gelu,
        )
        hidden = shape.hidden or (8 * shape.width // 3 if self.gated else 4 * shape.width)
        self.input = nn.Linear(shape.width, 2 * hidden if self.gated else hidden, shape.bias)
        self.output = nn.Linear(hidden, shape.width, shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.input(x)
        if self.gated:
            gate, value = hidden.chunk(2, -1)
            return self.output(F.silu(gate) * value)
        return self.output(self.activation(hidden))


class Residual(nn.Module):
    """Base of blocks whose branches are added to a stream, each with a norm of its own.

    Args:
        shape: sizes and choices.
        branches: how many.
    """

    def __init__(self, shape: TransformerConfig, branches: int) -> None:
        super().__init__()
        self.shape = shape
        self.norms = nn.ModuleList([shape.make_norm() for _ in range(branches)])

    def add(self, number: int, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """(N, T, width) of x (N, T, width): norm(x) goes into the branch, or x + branch(x) into the
        norm.
        """
        norm, dropout = self.norms[number], self.shape.dropout
        if self.shape.norm_first:
            return x + F.dropout(branch(norm(x)), dropout, self.training)
        return norm(x + F.dropout(branch(x), dropout, self.training))


class Block(Residual):
    """Self-attention, then feed-forward."""

    def __init__(self, shape: TransformerConfig, layer: int) -> None:
        super().__init__(shape, 2)
        self.attention, self.feed_forward = SelfAttention(shape, layer), FeedForward(shape)

    def forward(
        self, x: Tensor, positions: Tensor, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        x = self.add(0, x, lambda y: self.attention(y, positions, cache, mask))
        return self.add(1, x, self.feed_forward)


@torch.no_grad()
def init_gpt(network: nn.Module, layers: int) -> None:
    """Weights from N(0, .02); what ends a branch is smaller, since 2 L of them add up (Radford et
    al. 2019, section 2.3).
    """
    for part in network.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, 0.0, 0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    for name, weight in network.named_parameters():
        if name.endswith("output.weight"):
            weight.div_(math.sqrt(2 * layers))
