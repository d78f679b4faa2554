"""GPT: a stack of Transformer blocks that look back, trained on nothing but the next token, and
good at what it was never taught.

Radford et al., "Improving Language Understanding by Generative Pre-Training" (2018); architecture
and initialisation of "Language Models are Unsupervised Multitask Learners" (2019). Eq. 1 of
`core/language_model.py` with

    h_0 = W_e x + W_p                                       (2)
    h_l = Block(h_{l-1}),  l = 1 .. L                       (3)
    p(x_t | x_<t) = softmax(W_e norm(h_L))                  (4)

Text is made by feeding what was drawn back in. A text GAN would have to push a gradient through
that choice, which has none; and a fluent sentence says little of the model's likelihood, so both
are looked at. (GPT-1's fine-tuning on tasks is out of scope.)

| paper | here |
|---|---|
| W_e, W_p | embedding.weight, used twice; positions.weight |
| n_layer, n_head, n_embd, n_ctx | layers, heads, width, context |
| weights N(0, .02), those that end a branch / sqrt(2 L) | `init_gpt` |
| modified L2 on all but gains and biases | decoupled decay of all matrices (Loshchilov and Hutter 2019) |

Beyond its context the model forgets: when it is full, the older half is dropped and the younger
read again (`context_start`), with and without the cache alike.

Where the papers, Karpathy's nanoGPT and this file differ:

| | papers | nanoGPT | here |
|---|---|---|---|
| biases in linear layers and layer norms | yes | no (`bias` in its train.py) | `bias`; no in the configurations of nanoGPT |
| GELU | tanh approximation (GPT-2's src/model.py) | exact | exact |
| learning rate at the end | 0 (GPT-1, section 4.1) | a tenth of the peak | a tenth of the peak |
| vocabulary of GPT-2 | 50,257 | 50,304, for speed | 50,257 |
| between two documents | an end-of-text token | an end-of-text token | at most a line break (`TextFiles`) |
| validation text of OpenWebText | - | 0.05 % of its documents, drawn | the last 0.05 % of the text |
| validation loss | - | mean of some batches of random windows | every token once |
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.language_model import LanguageModel, context_start
from lightning_modules.core.modes import sampling
from lightning_modules.decoding.kv_cache import KVCache
from lightning_modules.nn.attention import AttentionMap, recording_attention
from lightning_modules.nn.transformer import Block, TransformerConfig, init_gpt
from lightning_modules.optim.muon import muon_or_adamw
from lightning_modules.optim.schedules import cosine


class GPT(LanguageModel):
    """Decoder-only Transformer.

    Args:
        vocab_size: V, a fact of the data.
        context: T, most tokens that are seen at once.
        layers: L.
        heads: of attention.
        width: of the residual stream, a multiple of the heads.
        dropout: share that is dropped of embeddings, attention and branches.
        attention_dropout: of attention alone; without it PyTorch has a fused kernel, on a CPU half
            as fast again.
        norm: layer norm, or RMS norm (`nn/transformer.py` has the papers of these four).
        positions: learnt, or rotary.
        feed_forward: gelu, or gated.
        qk_norm: normalise queries and keys.
        bias: use biases in linear layers and layer norms, as GPT-2 does and nanoGPT by default does
            not.
        optimizer: AdamW, or Muon for the blocks' matrices and AdamW for all else
            (`optim/muon.py`).
        learning_rate: at its peak.
        embedding_rate: the same for embeddings and gains under Muon.
        betas: of Adam.
        weight_decay: of matrices, not of gains and biases.
        warmup_steps: updates on the way up, before the cosine on the way down.

    Raises:
        UserError: if width and heads do not go together.
    """

    modality = "text"

    def __init__(
        self,
        vocab_size: int,
        context: int = 64,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        norm: Literal["layer", "rms"] = "layer",
        positions: Literal["learned", "rotary"] = "learned",
        feed_forward: Literal["gelu", "swiglu"] = "gelu",
        qk_norm: bool = False,
        bias: bool = True,
        optimizer: Literal["adamw", "muon"] = "adamw",
        learning_rate: float = 1e-3,
        embedding_rate: float = 1e-3,
        betas: list[float] = [0.9, 0.95],  # noqa: B006  # read only
        weight_decay: float = 0.1,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.context = context
        dropped = dropout if attention_dropout is None else attention_dropout
        self.shape = TransformerConfig(
            width,
            heads,
            dropout,
            dropped,
            norm,
            positions == "rotary",
            feed_forward,
            qk_norm,
            bias=bias,
        )
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width) if positions == "learned" else None
        self.blocks = nn.ModuleList([Block(self.shape, layer) for layer in range(layers)])
        self.norm = self.shape.make_norm()
        init_gpt(self, layers)

    def hidden(self, tokens: Tensor, positions: Tensor, cache: KVCache | None = None) -> Tensor:
        """(N, T, width) of tokens (N, T) at positions (T,) or (N, T)."""
        x = self.embedding(tokens)  # Eq. 2
        if self.positions is not None:
            x = x + self.positions(positions)
        x = F.dropout(x, self.shape.dropout, self.training)
        for block in self.blocks:
            x = block(x, positions, cache)  # Eq. 3
        return self.norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, T, V) of what follows each of tokens (N, T)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return F.linear(self.hidden(tokens, positions), self.embedding.weight)  # Eq. 4

    def configure_optimizers(self) -> Any:
        h = self.hparams
        rates = h.learning_rate, h.embedding_rate, tuple(h.betas), h.weight_decay
        adam = muon_or_adamw(h.optimizer, self, self.blocks, *rates)
        return [adam], [cosine(adam, self.total_updates, h.warmup_steps, last=0.1)]

    # Decoding

    def begin(self, prompts: list[list[int]]) -> tuple[Tensor, KVCache]:
        if not all(prompts):
            raise UserError("there is nothing to continue: the prompt has no tokens")
        h = self.hparams
        cache = KVCache(
            h.layers, len(prompts), h.heads, self.context, h.width // h.heads, self.device
        )
        cache.history = [list(prompt) for prompt in prompts]
        return self._read(cache, list(range(len(prompts)))), cache

    def _read(self, cache: KVCache, rows: list[int]) -> Tensor:
        """Read the windows of some rows from their beginning; logits (K, V) of what follows
        them.
        """
        device = self.embedding.weight.device
        windows = [
            cache.history[row][context_start(len(cache.history[row]), self.context) :]
            for row in rows
        ]
        lengths = [len(window) for window in windows]
        padded = [
            window + [0] * (max(lengths) - len(window)) for window in windows
        ]  # what stands behind is seen by nobody
        cache.place = cache.mask = None
        cache.rows = torch.tensor(rows, device=device)
        hidden = self.hidden(
            torch.tensor(padded, device=device), torch.arange(max(lengths), device=device), cache
        )
        for row, length in zip(rows, lengths):
            cache.lengths[row] = length
        last = hidden[
            torch.arange(len(rows), device=device), torch.tensor(lengths, device=device) - 1
        ]
        return F.linear(last, self.embedding.weight)

    def advance(self, tokens: list[int], state: KVCache) -> tuple[Tensor, KVCache]:
        device = self.embedding.weight.device
        full = [row for row, length in enumerate(state.lengths) if length == self.context]
        for history, token in zip(state.history, tokens):
            history.append(token)
        if len(full) == len(tokens):
            return self._read(state, full), state
        places = [min(length, self.context - 1) for length in state.lengths]
        state.rows = torch.arange(len(tokens), device=device)
        state.write_at(places)
        hidden = self.hidden(
            torch.tensor(tokens, device=device)[:, None],
            torch.tensor(places, device=device)[:, None],
            state,
        )
        logits = F.linear(hidden[:, 0], self.embedding.weight)
        if full:  # they took part for nothing, and are read again
            logits[torch.tensor(full, device=device)] = self._read(state, full)
        return logits, state

    @sampling
    def attention_maps(self, batch: dict[str, Any]) -> dict[str, AttentionMap]:
        """Of each layer: which of the first 24 tokens of a batch look back at which."""
        assert self.tokenizer is not None
        tokens = batch["tokens"][:1, : min(24, int(batch["length"][0]))]
        words = [self.tokenizer.token(i) for i in tokens[0].tolist()]
        with recording_attention() as weights:
            self(tokens)
        return {
            f"layer{number}": AttentionMap(words, words, one[0])
            for number, one in enumerate(weights, 1)
        }
