"""Transformer: an encoder-decoder for translation, with attention instead of recurrence.

Vaswani et al., "Attention Is All You Need", NIPS 2017.

    -log p(y|x) = sum_t -log p(y_t | y_<t, x)                                          (1)
    Attention(Q, K, V) = softmax(Q K' / sqrt(d_k)) V                                   (2)
    FFN(x) = max(0, x W_1 + b_1) W_2 + b_2                                             (3)
    rate = scale * d^-1/2 * min(step^-1/2, step * warmup^-3/2)                         (4)
    PE(pos, 2i) = sin(pos / 10000^(2i/d)),  PE(pos, 2i + 1) = cos(pos / 10000^(2i/d))  (5)

Each position attends directly to all other positions, so the path between two words has length one.
All positions of a sentence are trained in parallel. Attention alone ignores word order, so the
encodings of Eq. 5 are added to the embeddings. The decoder's self-attention is causal. A block
computes norm(x + dropout(f(x))) for each branch f, or x + dropout(f(norm(x))) with `norm_first`.

Training: the base class calls `loss` for each mini-batch. The loss is Eq. 1 with label smoothing,
as a mean over target tokens. Each update is an Adam step with the learning rate of Eq. 4.
Validation and translation use averaged weights (section 6.1): the mean of the last `average` states
of the weights, `average_every` updates apart. Before the first of these states exists, validation
and translation use the current weights.

Translation: `translate_greedy` recomputes the whole target for every token. `sample`, inherited
from `Translator`, is beam search with a key-value cache (`decoding/`). With beam size 1, it gives
the same tokens as `translate_greedy`.

| paper | here |
|---|---|
| N, d_model, d_ff, h | layers, width, hidden, heads (here N is the batch size) |
| P_drop, dropout of branch outputs and of embeddings plus positions (section 5.4) | dropout |
| epsilon_ls (section 5.4) | smoothing |
| one matrix for embeddings and output (section 3.4) | embedding.weight (for sources if `shared`) |
| average of the last 5 checkpoints (section 6.1) | average, average_every |

Where the paper, the released code (tensor2tensor, `transformer_base_v1` unless stated) and this
file differ:

| | paper | released code | here |
|---|---|---|---|
| norms [a] | after each addition | v1 after; v2 and v3 before | after; before with norm_first |
| dropout of attention and in Eq. 3 | none | v1 none; v2 and v3 0.1 | none |
| biases of projections in attention | no | at first yes, later no | yes |
| sinusoids of Eq. 5 | interleaved | all sines, then all cosines | interleaved |
| label smoothing spreads epsilon over | not stated | the V - 1 other tokens | all V tokens |
| initial weights | not stated | uniform unit scaling | Glorot uniform |
| initial embeddings | not stated | N(0, 1/d) | N(0, 1/d) |
| updates of the warm-up | 4000 | v1 4000; v2 8000 | as configured |
| beta_2 of Adam | 0.98 | v1 0.98; v3 0.997 | 0.98 |
| maximum length of a translation | source + 50 | source + 50, later + 100 | 2 source + 10 |
| beam size of the test results | 4, alpha 0.6 | 4, alpha 0.6 | 1; also 5 with alpha 0.6 |

[a] Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020.
"""

import math
from typing import Any, NamedTuple

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from common.errors import UserError
from lightning_modules.core.modes import sampling
from lightning_modules.core.translator import BOS, EOS, PAD, Translator
from lightning_modules.decoding.generation import until
from lightning_modules.decoding.kv_cache import KVCache
from lightning_modules.nn.transformer import (
    Block,
    CrossAttention,
    FeedForward,
    Residual,
    SelfAttention,
    TransformerConfig,
)

# Encoded sources: keys and values (N, H, S, D) of each decoder block, and a mask (N, 1, 1, S), True
# at words and False at padding.
Memory = tuple[list[tuple[Tensor, Tensor]], Tensor]


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Compute the sinusoidal encodings (T, width) of positions (T,) (Eq. 5)."""
    even = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None] * 10000.0 ** (-even / width)  # (T, width / 2)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class DecoderBlock(Residual):
    """Decoder block: causal self-attention, attention to the source and feed-forward layers."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__(config, branches=3)
        self.attention = SelfAttention(config, layer)
        self.cross = CrossAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor, cache: KVCache | None = None
    ) -> Tensor:
        """Return hidden states of x, (N * K, T, width); K rows share the keys of one source."""

        def attend_to_source(y: Tensor) -> Tensor:
            grouped = y.view(keys.shape[0], -1, y.shape[-1])  # (N, K * T, width)
            return self.cross(grouped, keys, values, mask).view_as(y)

        x = self.add(0, x, lambda y: self.attention(y, cache))  # causal without a mask
        x = self.add(1, x, attend_to_source)
        return self.add(2, x, self.feed_forward)


class DecodingState(NamedTuple):
    """State of decoding with a key-value cache.

    Attributes:
        memory: Encoded sources, as returned by `encode`.
        cache: Keys and values of the target tokens so far.
    """

    memory: Memory
    cache: KVCache


class EncoderDecoder(nn.Module):
    """Encoder and decoder of a Transformer, with their embeddings.

    Args:
        source_vocab_size: Number of tokens in the source vocabulary.
        vocab_size: Number V of tokens in the target vocabulary.
        config: Sizes and options of all blocks.
        layers: Number of blocks in the encoder, and in the decoder.
        shared: Use the target embedding for sources too.
    """

    def __init__(
        self,
        source_vocab_size: int,
        vocab_size: int,
        config: TransformerConfig,
        layers: int,
        shared: bool,
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.source_embedding = (
            self.embedding if shared else nn.Embedding(source_vocab_size, config.width)
        )
        self.encoder = nn.ModuleList([Block(config, layer) for layer in range(layers)])
        self.decoder = nn.ModuleList([DecoderBlock(config, layer) for layer in range(layers)])
        # Final norms of encoder and decoder. Without norm_first they are not needed, because the
        # last block ends with a norm.
        self.norms = nn.ModuleList(
            [nn.LayerNorm(config.width) if config.norm_first else nn.Identity() for _ in range(2)]
        )
        self.init_weights()

    def init_weights(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)
                nn.init.xavier_uniform_(part.weight)
            elif isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, 0.0, self.config.width**-0.5)
        for part in self.modules():  # initialise queries, keys and values as separate matrices
            if isinstance(part, SelfAttention | CrossAttention):
                joined = part.qkv if isinstance(part, SelfAttention) else part.keys_values
                for matrix in joined.weight.split(self.config.width):
                    nn.init.xavier_uniform_(matrix)

    def embed(self, tokens: Tensor, embedding: nn.Embedding, first: int = 0) -> Tensor:
        """Return embeddings (N, T, width) of tokens (N, T) at positions first, first + 1, ..."""
        width = self.config.width
        positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        encodings = sinusoids(positions, width).to(embedding.weight.dtype)
        x = embedding(tokens) * math.sqrt(width) + encodings
        return F.dropout(x, self.config.dropout, self.training)

    def encode(self, source: Tensor, length: Tensor) -> Memory:
        """Encode padded sources (N, S), whose numbers of tokens are `length` (N,)."""
        mask = torch.arange(source.shape[1], device=source.device) < length[:, None]
        mask = mask[:, None, None]  # (N, 1, 1, S)
        x = self.embed(source, self.source_embedding)
        for block in self.encoder:
            x = block(x, cache=None, mask=mask)
        x = self.norms[0](x)
        return [block.cross.project(x) for block in self.decoder], mask  # type: ignore[union-attr, operator]

    def decode(self, memory: Memory, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return next-token logits (R, T, V) of target tokens (R, T) that follow the cached tokens.

        R = N * K: there are K rows for each of the N sources.
        """
        keys_values, mask = memory
        x = self.embed(tokens, self.embedding, 0 if cache is None else cache.length)
        for block, (keys, values) in zip(self.decoder, keys_values):
            x = block(x, keys, values, mask, cache)
        if cache is not None:
            cache.length += tokens.shape[1]
        return F.linear(self.norms[1](x), self.embedding.weight)


class Transformer(Translator):
    """Encoder-decoder Transformer for translation.

    Args:
        Data:
        source_vocab_size: Number of tokens in the source vocabulary; supplied by the data module.
        vocab_size: Number V of tokens in the target vocabulary; supplied by the data module.
        Network:
        layers: Number of blocks in the encoder, and in the decoder.
        heads: Number of attention heads.
        width: Width of the residual stream (d_model); must be a multiple of `heads`.
        hidden: Width of the hidden feed-forward layer of each block (d_ff).
        dropout: Dropout probability of the embeddings and of the output of each residual branch.
        norm_first: Normalise the input of each residual branch (pre-norm). False normalises after
            the addition, as in the paper (post-norm).
        shared: Use the target embedding for sources too; requires `data.shared_vocabulary`. The
            output matrix is always the target embedding.
        Objective:
        smoothing: Label-smoothing factor, in [0, 1]; 0 disables label smoothing.
        Optimizer:
        scale: Factor of the learning-rate schedule (Eq. 4). The paper uses 1.
        warmup_steps: Number of updates over which the learning rate rises to its peak.
        Averaging:
        average: Number of states of the weights to average at the end of training, including the
            final state.
        average_every: Number of updates between two averaged states of the weights.

    Raises:
        UserError: If `width` is odd or not a multiple of `heads`, or if `shared` is True and
            sources and targets have separate vocabularies.
    """

    modality = "text-to-text"
    ema_modules = ("network",)

    def __init__(
        self,
        source_vocab_size: int,
        vocab_size: int,
        layers: PositiveInt = 6,
        heads: PositiveInt = 8,
        width: PositiveInt = 512,
        hidden: PositiveInt = 2048,
        dropout: ClosedUnitInterval = 0.1,
        norm_first: bool = False,
        shared: bool = True,
        smoothing: ClosedUnitInterval = 0.1,
        scale: PositiveFloat = 1.0,
        warmup_steps: PositiveInt = 4000,
        average: PositiveInt = 5,
        average_every: PositiveInt = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if width % 2:
            raise UserError(f"model.width must be even (got {width}): sinusoids come in pairs")
        config = TransformerConfig(
            width,
            heads,
            dropout,
            attention_dropout=0.0,
            norm="layer",
            rotary=False,
            feed_forward="relu",
            norm_first=norm_first,
            hidden=hidden,
        )
        self.network = EncoderDecoder(source_vocab_size, vocab_size, config, layers, shared)
        self.init_ema()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if (
            self.hparams.shared
            and self.tokenizer is not None
            and self.tokenizer.source is not self.tokenizer.target
        ):
            raise UserError(
                "model.shared is true, but sources and targets have separate vocabularies: "
                "set data.shared_vocabulary to true, or model.shared to false"
            )

    def encode(self, source: Tensor, length: Tensor) -> Memory:
        return self.network.encode(source, length)

    def decode(self, memory: Memory, tokens: Tensor) -> Tensor:
        return self.network.decode(memory, tokens)

    # Training

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the mean of -log p per target token (Eq. 1), with label smoothing."""
        memory = self.encode(batch["source"], batch["source_length"])
        inputs, targets = batch["target"][:, :-1], batch["target"][:, 1:]  # (N, T)
        logits = self.decode(memory, inputs)  # (N, T, V)
        total = F.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=PAD,
            reduction="sum",
            label_smoothing=self.hparams.smoothing,
        )
        return {"loss": total / batch["num_targets"]}

    def configure_optimizers(self) -> Any:
        h = self.hparams
        base = h.scale * h.width**-0.5
        adam = torch.optim.Adam(self.network.parameters(), base, (0.9, 0.98), eps=1e-9, fused=True)

        def factor(step: int) -> float:
            """Return the learning rate after `step` updates, divided by its base value (Eq. 4)."""
            return min((step + 1) ** -0.5, (step + 1) * h.warmup_steps**-1.5)

        return [adam], [{"scheduler": LambdaLR(adam, factor), "interval": "step"}]

    # Average of the last weights

    def on_train_start(self) -> None:
        """Discard averaged weights that come from another run (--init_from) or a shorter run."""
        h, total, done = self.hparams, self.total_updates, self.trainer.global_step
        updates = (total - number * h.average_every for number in range(h.average))
        assert self.ema is not None
        if int(self.ema.updates) != sum(0 < update <= done for update in updates):
            self.ema.updates.zero_()

    def ema_decay_at(self, update: int) -> float | None:
        """Return the decay of the average: (k - 1) / k at the k-th averaged state of the weights.

        With these decays, the average is the mean of the averaged states. At all other updates the
        method returns None, and the average does not change.
        """
        left, rest = divmod(self.total_updates - update, self.hparams.average_every)
        if rest or left >= self.hparams.average:
            return None
        assert self.ema is not None
        averaged = int(self.ema.updates)
        return averaged / (averaged + 1)

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        with self.averaged_weights():
            super().measure(batch, stage)

    # Translation

    @sampling
    def translate_greedy(self, source: Tensor, length: Tensor, max_length: int) -> list[list[int]]:
        """Choose the most likely token at each step, recomputing the whole target for each token.

        Always runs `max_length` steps, then cuts each row at `<eos>`.

        Args:
            source: Source tokens (N, S).
            length: Number of tokens of each source (N,).
            max_length: Maximum number of target tokens.

        Returns:
            Target tokens of each source, without `<bos>` and `<eos>`.
        """
        memory = self.encode(source, length)
        target = torch.full((len(source), 1), BOS, device=source.device)
        for _ in range(max_length):
            logits = self.decode(memory, target)[:, -1]  # (N, V)
            target = torch.cat([target, logits.argmax(-1, keepdim=True)], 1)
        return [until(row, EOS) for row in target[:, 1:].tolist()]

    def init_state(self, memory: Memory, max_length: int) -> DecodingState:
        return DecodingState(memory, KVCache(self.hparams.layers, max_length))

    def decode_step(self, tokens: Tensor, state: DecodingState) -> tuple[Tensor, DecodingState]:
        return self.network.decode(state.memory, tokens[:, None], state.cache)[:, 0], state

    def reorder_cache(self, state: DecodingState, sentences: Tensor, rows: Tensor) -> DecodingState:
        state.cache.reorder(rows)
        keys_values, mask = state.memory
        if len(sentences) == len(mask):  # no sentence has finished
            return state
        keys_values = [(keys[sentences], values[sentences]) for keys, values in keys_values]
        return state._replace(memory=(keys_values, mask[sentences]))

    def cross_attention(self, weights: list[Tensor]) -> dict[str, Tensor]:
        # `weights` starts with the encoder's blocks. Each decoder block then has two elements: the
        # weights of its self-attention and of its cross-attention.
        cross = weights[self.hparams.layers + 1 :: 2]
        return {f"layer{number}": one for number, one in enumerate(cross, 1)}
