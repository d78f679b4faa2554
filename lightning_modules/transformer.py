"""Transformer: an encoder-decoder of attention alone, without recurrence, that translates.

Vaswani et al., "Attention Is All You Need", NIPS 2017. With Eq. 1 of `core/translator.py`:

    Attention(Q, K, V) = softmax(Q K' / sqrt(d_k)) V                                 (2)
    FFN(x) = max(0, x W_1 + b_1) W_2 + b_2                                           (3)
    rate = scale * d^-1/2 * min(step^-1/2, step * warmup^-3/2)                       (4)
    PE(pos, 2i) = sin(pos / 10000^(2i/d)),  PE(pos, 2i + 1) = cos(pos / 10000^(2i/d))  (5)

Each position attends to all others at once: the path between two words has length one, and all
positions of a sentence are trained in parallel. Attention ignores word order, which Eq. 5 adds. The
decoder's self-attention is masked: a position cannot see later targets.

| paper | here |
|---|---|
| N, d_model, d_ff, h | layers, width, hidden, heads |
| P_drop, on the output of each branch before it is added, and on embeddings plus positions (section 5.4) | dropout |
| epsilon_ls (section 5.4) | smoothing |
| one matrix for both embeddings and the output, times sqrt(d) as embedding (section 3.4) | shared; embedding.weight |
| average of the last 5 checkpoints (section 6.1) | average, average_every |

Where the paper, the released code (tensor2tensor, `transformer_base_v1` unless named) and this file
differ:

| | paper | released code | here |
|---|---|---|---|
| norms | after the branches | v1 after; v2 and v3 before the branches | after; before with norm_first (Xiong et al. 2020) |
| dropout of attention weights and in Eq. 3 | none | v1 none; v2 and v3 0.1 | none |
| biases of the projections in attention | none | at first biases, later none | biases |
| sinusoids of Eq. 5 | interleaved | all sines, then all cosines | interleaved |
| label smoothing spreads epsilon over | not stated | the V - 1 other tokens | all V tokens |
| initial weights | not stated | uniform unit scaling; embeddings N(0, 1/d) | Glorot uniform; embeddings N(0, 1/d) |
| warm-up; beta_2 of Adam | 4000; 0.98 | v1 the same; v2 8000; v3 0.997 | as configured; 0.98 |
| maximum length of a translation | source + 50 (section 6.1) | source + 50, later + 100 | 2 source + 10 |
| beam of the test figures | 4, alpha 0.6 | 4, alpha 0.6 | 1; and 5, alpha 0.6 |
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.translator import Translator
from lightning_modules.decoding.kv_cache import KVCache
from lightning_modules.nn.transformer import (
    Block,
    CrossAttention,
    FeedForward,
    Residual,
    SelfAttention,
    TransformerConfig,
)
from lightning_modules.optim.schedules import inverse_square_root


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """(T, width) of positions (T,): Eq. 5."""
    angles = positions[:, None] * 10000.0 ** (
        -torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    )
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class DecoderBlock(Residual):
    """Self-attention to what was written, attention to the source, feed-forward."""

    def __init__(self, shape: TransformerConfig, layer: int) -> None:
        super().__init__(shape, 3)
        self.attention, self.cross, self.feed_forward = (
            SelfAttention(shape, layer),
            CrossAttention(shape),
            FeedForward(shape),
        )

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor, cache: KVCache | None = None
    ) -> Tensor:
        """(N * K, T, width) of x, where K rows look at each of the sources' keys and values (N, H,
        S, D).
        """
        x = self.add(0, x, lambda y: self.attention(y, torch.empty(0), cache))
        sources = len(keys)
        x = self.add(
            1,
            x,
            lambda y: self.cross(y.view(sources, -1, y.shape[-1]), keys, values, mask).view_as(y),
        )
        return self.add(2, x, self.feed_forward)


@dataclass(frozen=True)
class State:
    """What writing goes on from.

    Attributes:
        sources: keys and values (N, H, S, D) of each decoder block.
        mask: True where a source has a word, (N, 1, 1, S).
        cache: of what was written.
        length: tokens that were written.
    """

    sources: list[tuple[Tensor, Tensor]]
    mask: Tensor
    cache: KVCache
    length: int


class EncoderDecoder(nn.Module):
    """Both stacks and their embeddings.

    Args:
        source_vocab_size: of sources.
        vocab_size: V, of targets.
        shape: sizes and choices of all blocks.
        layers: N, of each stack.
        shared: one embedding for both sides.
    """

    def __init__(
        self,
        source_vocab_size: int,
        vocab_size: int,
        shape: TransformerConfig,
        layers: int,
        shared: bool,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(vocab_size, shape.width)
        self.source_embedding = (
            self.embedding if shared else nn.Embedding(source_vocab_size, shape.width)
        )
        self.encoder = nn.ModuleList([Block(shape, layer) for layer in range(layers)])
        self.decoder = nn.ModuleList([DecoderBlock(shape, layer) for layer in range(layers)])
        ends = [nn.LayerNorm(shape.width) if shape.norm_first else nn.Identity() for _ in range(2)]
        self.norms = nn.ModuleList(
            ends
        )  # of the stacks: with the norms first, what leaves them has none yet
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)
                nn.init.xavier_uniform_(part.weight)
            elif isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, 0.0, shape.width**-0.5)
        for part in self.modules():  # queries, keys and values are matrices of their own
            joined = (
                part.qkv
                if isinstance(part, SelfAttention)
                else part.keys_values
                if isinstance(part, CrossAttention)
                else None
            )
            for matrix in joined.weight.split(shape.width) if joined is not None else ():
                nn.init.xavier_uniform_(matrix)

    def embed(self, tokens: Tensor, embedding: nn.Embedding, first: int = 0) -> Tensor:
        """(N, T, width) of tokens (N, T), of which the first has that position."""
        width = self.shape.width
        positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        x = embedding(tokens) * math.sqrt(width) + sinusoids(positions, width).to(
            embedding.weight.dtype
        )
        return F.dropout(x, self.shape.dropout, self.training)

    def encode(self, source: Tensor, length: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Keys and values of each decoder block for sources (N, S) of so many tokens (N,), and
        their mask.
        """
        mask = (torch.arange(source.shape[1], device=source.device) < length[:, None])[
            :, None, None
        ]
        x = self.embed(source, self.source_embedding)
        for block in self.encoder:
            x = block(x, torch.empty(0), None, mask)
        x = self.norms[0](x)
        return [block.cross.project(x) for block in self.decoder], mask  # type: ignore[union-attr, operator]

    def decode(
        self,
        sources: list[tuple[Tensor, Tensor]],
        mask: Tensor,
        tokens: Tensor,
        cache: KVCache | None,
        first: int,
    ) -> Tensor:
        """Logits (R, T, V) of what follows each of tokens (R, T)."""
        x = self.embed(tokens, self.embedding, first)
        for block, (keys, values) in zip(self.decoder, sources):
            x = block(x, keys, values, mask, cache)
        return F.linear(self.norms[1](x), self.embedding.weight)


class Transformer(Translator):
    """Encoder-decoder Transformer.

    Args:
        source_vocab_size: a fact of the data.
        vocab_size: of targets, a fact of the data.
        layers: N, of the encoder and of the decoder.
        heads: h.
        width: d_model.
        hidden: d_ff.
        dropout: P_drop.
        norm_first: norms before the branches instead of after them.
        shared: one embedding for sources, targets and output; needs data.shared_vocabulary.
        smoothing: epsilon_ls.
        scale: of the step size in Eq. 4, 1 in the paper.
        warmup_steps: of Eq. 4.
        average: states of the weights, `average_every` updates apart, the last one at the end,
            whose mean is used then.
        average_every: updates between two of them.

    Raises:
        UserError: if sizes do not go together.
    """

    modality = "text-to-text"
    ema_modules = ("network",)

    def __init__(
        self,
        source_vocab_size: int,
        vocab_size: int,
        layers: int = 6,
        heads: int = 8,
        width: int = 512,
        hidden: int = 2048,
        dropout: float = 0.1,
        norm_first: bool = False,
        shared: bool = True,
        smoothing: float = 0.1,
        scale: float = 1.0,
        warmup_steps: int = 4000,
        average: int = 5,
        average_every: int = 100,
    ) -> None:
        super().__init__()
        if average_every < 1:
            raise UserError(f"model.average_every {average_every}: give at least 1")
        self.save_hyperparameters()
        self.smoothing = smoothing
        shape = TransformerConfig(
            width, heads, dropout, 0.0, "layer", False, "relu", norm_first=norm_first, hidden=hidden
        )
        self.network = EncoderDecoder(source_vocab_size, vocab_size, shape, layers, shared)
        self.init_ema()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if (
            self.hparams.shared
            and self.tokenizer is not None
            and self.tokenizer.source is not self.tokenizer.target
        ):
            raise UserError(
                "model.shared needs one vocabulary for both sides: set data.shared_vocabulary true, or this to false"
            )

    def on_train_start(self) -> None:
        left = self.total_updates - self.trainer.global_step
        window = (self.hparams.average - 1) * self.hparams.average_every
        if (
            self.trainer.global_step == 0 or left > window
        ):  # the mean is of another run (--init_from), or of an end that was not the last
            assert self.ema is not None
            self.ema.updates.zero_()

    def ema_decay_at(self, update: int) -> float | None:
        """Weights of an arithmetic mean of the last `average` states (section 6.1)."""
        h, total = self.hparams, self.total_updates
        left, rest = divmod(total - update, h.average_every)  # states that follow this one
        first = min(h.average - 1, (total - 1) // h.average_every)
        return None if rest or left > first else (first - left) / (first - left + 1)

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        with self.averaged_weights():
            super().measure(batch, stage)

    def encode(self, source: Tensor, length: Tensor) -> Any:
        return self.network.encode(source, length)

    def decode(self, memory: Any, tokens: Tensor) -> Tensor:
        sources, mask = memory
        return self.network.decode(sources, mask, tokens, None, 0)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        adam = torch.optim.Adam(
            self.network.parameters(), h.scale * h.width**-0.5, (0.9, 0.98), eps=1e-9, fused=True
        )
        return [adam], [inverse_square_root(adam, h.warmup_steps)]  # Eq. 4

    # Writing

    def start(self, memory: Any, most: int) -> State:
        sources, mask = memory
        h = self.hparams
        return State(
            sources,
            mask,
            KVCache(h.layers, len(mask), h.heads, most, h.width // h.heads, mask.device),
            0,
        )

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        state.cache.write_at([state.length] * len(tokens))
        logits = self.network.decode(
            state.sources, state.mask, tokens[:, None], state.cache, state.length
        )
        return logits[:, 0], replace(state, length=state.length + 1)

    def select(self, state: State, sentences: Tensor, rows: Tensor) -> State:
        if len(sentences) < len(state.mask):
            sources = [(keys[sentences], values[sentences]) for keys, values in state.sources]
            state = replace(state, sources=sources, mask=state.mask[sentences])
        state.cache.select(rows)
        return state

    def cross_attention(self, weights: list[Tensor]) -> dict[str, Tensor]:
        layers = self.hparams.layers
        return {f"layer{number}": one for number, one in enumerate(weights[layers + 1 :: 2], 1)}
