"""Transformer blocks, with options for the variants of several papers.

| part | variants | source |
|---|---|---|
| norm | layer norm; RMSNorm (without centring) | Ba et al. 2016; Zhang and Sennrich 2019 |
| norm_first | norm before, or after, each branch | Radford et al. 2019; Vaswani et al. 2017 |
| positions | learned; rotary | Radford et al. 2018; Su et al. 2021, Eq. 34 |
| feed-forward | relu | Vaswani et al. 2017 |
| feed-forward | gelu; gelu_tanh, its approximation | Hendrycks and Gimpel 2016 |
| feed-forward | swiglu (gated, 2/3 of the hidden width) | Shazeer 2020, Eq. 6 |
| qk_norm | RMSNorm of queries and keys | Henry et al. 2020 |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.decoding.kv_cache import KVCache
from lightning_modules.nn.attention import RecordsAttention, attend

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


# The default of some PyTorch versions depends on the dtype of the input: 2^-7 in bf16.
RMS_EPSILON = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and options that all transformer blocks of a network share.

    Args:
        width: Width of the residual stream; a multiple of `heads`, or of 2 * `heads` if `rotary`.
        heads: Number of attention heads.
        dropout: Dropout probability of each residual branch and of the embedding.
        attention_dropout: Dropout probability of the attention weights.
        norm: Layer norm ("layer") or RMSNorm ("rms").
        rotary: Whether to rotate queries and keys by their positions (rotary position embedding).
        feed_forward: Activation of the feed-forward layers, or the gated variant "swiglu".
        qk_norm: Whether to apply RMSNorm to queries and keys.
        norm_first: Whether to normalise the input of each residual branch (pre-norm). Otherwise the
            sum of the input and the branch's output is normalised (post-norm).
        hidden: Hidden width of the feed-forward layers. None means 4 * `width`, or 8/3 * `width`
            for "swiglu".
        bias: Whether linear layers and layer norms have biases.

    Raises:
        UserError: If `width` is not a multiple of `heads`, or of 2 * `heads` if `rotary`.
    """

    width: int
    heads: int
    dropout: float
    attention_dropout: float
    norm: Literal["layer", "rms"]
    rotary: bool
    feed_forward: Literal["relu", "gelu", "gelu_tanh", "swiglu"]
    qk_norm: bool = False
    norm_first: bool = True
    hidden: int | None = None
    bias: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.rotary and self.width // self.heads % 2):
            divisor = "2 * model.heads with rotary positions" if self.rotary else "model.heads"
            raise UserError(
                f"model.width must be a multiple of {divisor} "
                f"(got width={self.width}, heads={self.heads})"
            )

    def make_norm(self) -> nn.Module:
        """Build a layer norm or RMSNorm over the last axis, of size `width`."""
        return (
            nn.LayerNorm(self.width, bias=self.bias)
            if self.norm == "layer"
            else nn.RMSNorm(self.width, RMS_EPSILON)
        )


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Apply rotary position embedding to queries or keys (N, H, T, D) at `positions` (T,).

    The pair (x[d], x[d + D/2]) is rotated by the angle position * 10000^(-2d/D) (Su et al. 2021,
    Eq. 34).
    """
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = positions[:, None] * frequencies  # (T, D/2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class HeadNorm(nn.RMSNorm):
    """RMSNorm of queries or keys; its gain has their dtype, as the fused implementation needs."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module, RecordsAttention):
    """Multi-head self-attention, causal or with a given mask.

    Args:
        config: Sizes and options of the transformer.
        layer: Index of the layer, which selects its keys and values in the key-value cache.
    """

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.qkv = nn.Linear(config.width, 3 * config.width, config.bias)
        self.output = nn.Linear(config.width, config.width, config.bias)
        self.norms = (
            nn.ModuleList([HeadNorm(config.width // config.heads, RMS_EPSILON) for _ in range(2)])
            if config.qk_norm
            else None
        )

    def forward(
        self, x: Tensor, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Compute attention from the tokens x (N, T, width) to x and to the tokens in the cache.

        Args:
            x: Whole sequence, or only the next token if the cache is not empty.
            cache: Key-value cache, to which the keys and values of x are appended, or None.
            mask: Boolean mask, True where a query may attend. None makes attention causal.

        Returns:
            Tensor of shape (N, T, width).
        """
        qkv = self.qkv(x).unflatten(2, (3, self.config.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, H, T, D)
        if self.norms is not None:
            q, k = self.norms[0](q), self.norms[1](k)
        if self.config.rotary:
            first = 0 if cache is None else cache.length
            positions = torch.arange(first, first + x.shape[1], device=x.device)
            q, k = rotate(q, positions), rotate(k, positions)
        # The next token may attend to all cached keys.
        causal = mask is None and (cache is None or x.shape[1] > 1)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        dropout = self.config.attention_dropout if self.training else 0.0
        mixed = attend(q, k, v, mask, dropout, causal, self.recorded)
        return self.output(mixed.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module, RecordsAttention):
    """Multi-head attention from one sequence to the encoder outputs of another (the memory)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.query, self.output = (
            nn.Linear(config.width, config.width, config.bias) for _ in range(2)
        )
        self.keys_values = nn.Linear(config.width, 2 * config.width, config.bias)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (N, H, S, D) of a memory (N, S, width)."""
        keys_values = self.keys_values(memory).unflatten(2, (2, self.config.heads, -1))
        k, v = keys_values.permute(2, 0, 3, 1, 4)
        return k, v

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Compute attention from x (N, T, width) to keys and values (N, H, S, D).

        Args:
            x: Sequence from which the queries are computed.
            keys: Keys of the memory, returned by `project`.
            values: Values of the memory, returned by `project`.
            mask: Boolean mask (N, 1, 1, S), True where the memory has a token.

        Returns:
            Tensor of shape (N, T, width).
        """
        q = self.query(x).unflatten(2, (self.config.heads, -1)).transpose(1, 2)  # (N, H, T, D)
        dropout = self.config.attention_dropout if self.training else 0.0
        mixed = attend(q, keys, values, mask, dropout, recorded=self.recorded)
        return self.output(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Feed-forward network of two linear layers; "swiglu" has a third linear layer as a gate."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gated = config.feed_forward == "swiglu"
        self.activation = ACTIVATIONS.get(config.feed_forward)
        hidden = config.hidden or (8 * config.width // 3 if self.gated else 4 * config.width)
        self.input = nn.Linear(config.width, 2 * hidden if self.gated else hidden, config.bias)
        self.output = nn.Linear(hidden, config.width, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.input(x)
        if self.gated:
            gate, value = hidden.chunk(2, -1)
            return self.output(F.silu(gate) * value)
        assert self.activation is not None
        return self.output(self.activation(hidden))


class Residual(nn.Module):
    """Base class of transformer blocks with residual branches, each with its own norm layer.

    Args:
        config: Sizes and options of the transformer.
        branches: Number of residual branches.
    """

    def __init__(self, config: TransformerConfig, branches: int) -> None:
        super().__init__()
        self.config = config
        self.norms = nn.ModuleList([config.make_norm() for _ in range(branches)])

    def add(self, number: int, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Add the output of residual branch `number` to x (N, T, width).

        Pre-norm returns x + branch(norm(x)), post-norm returns norm(x + branch(x)).
        """
        norm, dropout = self.norms[number], self.config.dropout
        if self.config.norm_first:
            return x + F.dropout(branch(norm(x)), dropout, self.training)
        return norm(x + F.dropout(branch(x), dropout, self.training))


class Block(Residual):
    """Transformer block: self-attention, then a feed-forward network."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__(config, 2)
        self.attention, self.feed_forward = SelfAttention(config, layer), FeedForward(config)

    def forward(
        self, x: Tensor, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        x = self.add(0, x, lambda y: self.attention(y, cache, mask))
        return self.add(1, x, self.feed_forward)


@torch.no_grad()
def init_gpt(network: nn.Module, layers: int) -> None:
    """Initialise weights from N(0, 0.02), and scale down the last layer of each residual branch.

    Weights of these last layers are divided by sqrt(2 L), because the outputs of 2 L branches add
    up in a network of L blocks (Radford et al. 2019, section 2.3).
    """
    for part in network.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, 0.0, 0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    for name, weight in network.named_parameters():
        if name.endswith("output.weight"):
            weight.div_(math.sqrt(2 * layers))
