"""Encoder-decoder: one recurrent network reads a sentence, another one writes its translation, with
or without attention.

Sutskever, Vinyals and Le, "Sequence to Sequence Learning with Neural Networks", NIPS 2014, and Cho
et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014 (no attention);
Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate",
ICLR 2015 (additive); Luong, Pham and Manning, "Effective Approaches to Attention-based Neural
Machine Translation", EMNLP 2015 (multiplicative). With Eq. 1 of `core/translator.py`:

    h_j = [RNN(x_j, h_{j-1}); RNN(x_j, h_{j+1})],  or one of them;   s_0 = tanh(W_0 c)       (2)
    s_t = RNN([y_{t-1}; c_t], s_{t-1})                                                       (3)
    p(y_t | y_<t, x) = softmax(W_o D tanh(U [s_t; y_{t-1}; c_t]))                            (4)
    none:            c_t = c, the last state of each direction                               (5)
    additive:        c_t = sum_j a_tj h_j,  a_tj = softmax_j v' tanh(W_a s_{t-1} + U_a h_j)  (6)
    multiplicative:  c_t = sum_j a_tj h_j,  a_tj = softmax_j s_{t-1}' W_a h_j                (7)

Without attention, c is the only path from the source to the translation, and its size does not grow
with the sentence. Sutskever et al. read the source backwards, which brings its first words near to
the translation's. With attention, each step reads the states of all source words; `attention_maps`
shows the weights, and `test/bleu_source_...` has BLEU by source length for both.

| paper | here |
|---|---|
| h_j, s_t, c_t | memory (N, S, E), state (L, N, width), context (N, E); E is width, or 2 width for both directions |
| x_j, y_t | source_embedding, target_embedding |
| teacher forcing | y_{t-1} is the true word; with probability 1 - teacher_forcing the likeliest word of the step before |

Where the papers, a released implementation (bentrevett's pytorch-seq2seq, notebooks 2 and 3 of
2024) and this file differ:

| | papers | pytorch-seq2seq | here |
|---|---|---|---|
| s_0 without attention | Cho: tanh(V' tanh(V h_S)); Sutskever: last h and cell of each layer | h_S | tanh(W_0 h_S) |
| s_0 with attention | Bahdanau: tanh(W <-h_1); Luong: last h and cell of each layer | of both directions | of both directions |
| c in Eq. 3 and 4 | Cho: in both (after tanh(V h_S)); Sutskever: in neither | in both | in both |
| a_t is computed from | Bahdanau: s_{t-1}; Luong: s_t | s_{t-1} | s_{t-1} |
| next step is fed | Bahdanau: c_t; Luong: tanh(W_c [c_t; s_t]) | c_t | c_t |
| W_a of Eq. 6 | without bias | with bias | with bias |
| padding in a_t | masked | has weight | masked |
| output layer | Cho, Bahdanau: maxout, the latter of s_{t-1}; Luong: tanh; Sutskever: linear | linear | tanh |
| output matrix | its own | its own | the target embedding (Press and Wolf 2017) |
| GRU's reset gate r | U (r * s), before the matrix | r * (U s), PyTorch's | r * (U s), PyTorch's |
| optimizer | SGD; Bahdanau: Adadelta | Adam, constant | Adam, warm-up and half a cosine |
"""

import random
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_modules.core.translator import Translator
from lightning_modules.nn.attention import watch
from lightning_modules.optim.schedules import cosine

CELLS: dict[str, Any] = {"gru": nn.GRU, "lstm": nn.LSTM}


class Memory(NamedTuple):
    """What is kept of N sources.

    Attributes:
        states: h, (N, S, E).
        keys: what is compared with a state in Eq. 6 and 7, (N, S, width).
        mask: True where there is a word, (N, S).
        first: s_0, (L, N, width), twice for an LSTM.
        context: c of Eq. 5, (N, E).
    """

    states: Tensor
    keys: Tensor
    mask: Tensor
    first: tuple[Tensor, ...]
    context: Tensor


class Seq2Seq(Translator):
    """Recurrent encoder-decoder.

    Args:
        source_vocab_size: a fact of the data.
        vocab_size: of targets, a fact of the data.
        attention: Eq. 5, 6 or 7.
        cell: of both networks.
        layers: L, of the decoder and of the encoder.
        width: of each state.
        embedding: size of a word's vector.
        dropout: D, also of embeddings and between layers.
        reading: Direction in which sources are read: both (Bahdanau et al.), forward (Cho et al.),
            or backward with `<eos>` last (Sutskever et al.).
        teacher_forcing: probability that a step of training sees the true word before it.
        smoothing: of labels.
        learning_rate: of Adam, on half a cosine to 0.
        warmup_steps: updates on the way up.
    """

    modality = "text-to-text"

    def __init__(
        self,
        source_vocab_size: int,
        vocab_size: int,
        attention: Literal["none", "additive", "multiplicative"] = "additive",
        cell: Literal["gru", "lstm"] = "gru",
        layers: int = 1,
        width: int = 256,
        embedding: int = 256,
        dropout: float = 0.3,
        reading: Literal["both", "forward", "backward"] = "both",
        teacher_forcing: float = 1.0,
        smoothing: float = 0.0,
        learning_rate: float = 1e-3,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.smoothing = smoothing
        inner = dropout if layers > 1 else 0.0
        self.source_embedding = nn.Embedding(source_vocab_size, embedding)
        self.target_embedding = nn.Embedding(vocab_size, embedding)
        both = reading == "both"
        encoded = 2 * width if both else width  # E
        self.encoder = CELLS[cell](
            embedding, width, layers, batch_first=True, dropout=inner, bidirectional=both
        )
        self.bridge = nn.Linear(encoded, layers * width * (2 if cell == "lstm" else 1))  # W_0
        self.keys = (
            nn.Linear(encoded, width, bias=False) if attention != "none" else None
        )  # U_a, W_a of Eq. 7
        self.query = nn.Linear(width, width) if attention == "additive" else None  # W_a of Eq. 6
        self.score = nn.Linear(width, 1, bias=False) if attention == "additive" else None  # v
        self.decoder = CELLS[cell](
            embedding + encoded, width, layers, batch_first=True, dropout=inner
        )
        self.readout = nn.Linear(width + embedding + encoded, embedding)  # U
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for part in (self.source_embedding, self.target_embedding):
            nn.init.normal_(part.weight, 0.0, embedding**-0.5)

    def encode(self, source: Tensor, length: Tensor) -> Memory:
        if self.hparams.reading == "backward":
            place = torch.arange(source.shape[1], device=source.device)
            mirrored = (
                length[:, None] - 2 - place
            )  # below 0 for <eos> and padding, which stay where they are
            source = source.gather(1, torch.where(mirrored >= 0, mirrored, place))
        packed = pack_padded_sequence(
            self._drop(self.source_embedding(source)),
            length.cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        out, last = self.encoder(packed)
        states, _ = pad_packed_sequence(out, batch_first=True, total_length=source.shape[1])
        final = (
            last[0] if isinstance(last, tuple) else last
        )  # (L, N, width), or 2 L where both ways are read
        context = (
            torch.cat([final[-2], final[-1]], 1) if self.hparams.reading == "both" else final[-1]
        )
        parts = (
            self.bridge(context)
            .tanh()
            .view(len(source), -1, self.hparams.layers, self.hparams.width)
        )  # Eq. 2
        first = tuple(part.transpose(0, 1).contiguous() for part in parts.unbind(1))
        mask = torch.arange(source.shape[1], device=source.device) < length[:, None]
        return Memory(
            states, states if self.keys is None else self.keys(states), mask, first, context
        )

    def look(self, memory: Memory, state: Tensor) -> Tensor:
        """c_t (N, K, E) for states (N, K, width) of the decoder, K for each source."""
        if self.hparams.attention == "none":
            return memory.context[:, None].expand(-1, state.shape[1], -1)  # Eq. 5
        if self.query is None or self.score is None:
            scores = state @ memory.keys.mT  # Eq. 7, (N, K, S)
        else:
            scores = self.score((self.query(state)[:, :, None] + memory.keys[:, None]).tanh())[
                ..., 0
            ]  # Eq. 6
        weights = scores.masked_fill(~memory.mask[:, None], -torch.inf).softmax(-1)
        watch(weights[:, None])
        return weights @ memory.states

    def advance(
        self, words: Tensor, context: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """s_t (N, T, width) and the state after vectors (N, T, embedding) with contexts (N, T, E);
        Eq. 3.
        """
        out, after = self.decoder(
            torch.cat([words, context], 2), state if len(state) == 2 else state[0]
        )
        return out, after if isinstance(after, tuple) else (after,)

    def logits(self, out: Tensor, words: Tensor, context: Tensor) -> Tensor:
        """(N, T, V) by Eq. 4."""
        hidden = self._drop(self.readout(torch.cat([out, words, context], 2)).tanh())
        return F.linear(hidden, self.target_embedding.weight, self.bias)

    def decode(self, memory: Memory, tokens: Tensor) -> Tensor:
        words = self._drop(self.target_embedding(tokens))  # (N, T, embedding)
        forced = not self.training or self.hparams.teacher_forcing >= 1
        if (
            forced and self.hparams.attention == "none"
        ):  # nothing of a step depends on the one before but the state
            context = self.look(memory, words)
            return self.logits(self.advance(words, context, memory.first)[0], words, context)
        state = memory.first
        steps: list[tuple[Tensor, Tensor, Tensor]] = []  # of outputs, words and contexts
        for t in range(tokens.shape[1]):
            word = words[:, t : t + 1]
            if t and not forced and random.random() >= self.hparams.teacher_forcing:
                word = self._drop(self.target_embedding(self.logits(*steps[-1]).argmax(-1)))
            context = self.look(memory, state[0][-1][:, None])
            out, state = self.advance(word, context, state)
            steps.append((out, word, context))
        return self.logits(
            *(torch.cat(parts, 1) for parts in zip(*steps))
        )  # one large product instead of T small ones

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.hparams.dropout, self.training)

    def configure_optimizers(self) -> Any:
        adam = torch.optim.Adam(self.parameters(), self.hparams.learning_rate, fused=True)
        return [adam], [cosine(adam, self.total_updates, self.hparams.warmup_steps)]

    # Writing

    def start(self, memory: Memory, most: int) -> tuple[Memory, tuple[Tensor, ...]]:
        return memory, memory.first

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        memory, recurrent = state
        words = self.target_embedding(tokens)[:, None]  # (R, 1, embedding)
        query = recurrent[0][-1].view(
            len(memory.mask), -1, self.hparams.width
        )  # K rows of each source look at it together
        context = self.look(memory, query).flatten(0, 1)[:, None]
        out, recurrent = self.advance(words, context, recurrent)
        return self.logits(out, words, context)[:, 0], (memory, recurrent)

    def select(self, state: Any, sentences: Tensor, rows: Tensor) -> Any:
        memory, recurrent = state
        if len(sentences) < len(memory.mask):
            states, keys, mask, context = (
                part[sentences]
                for part in (memory.states, memory.keys, memory.mask, memory.context)
            )
            memory = Memory(states, keys, mask, memory.first, context)
        return memory, tuple(part[:, rows].contiguous() for part in recurrent)

    def cross_attention(self, weights: list[Tensor]) -> dict[str, Tensor]:
        if not weights:
            return {}
        maps = torch.cat(weights, 2)  # (1, 1, T, S)
        if self.hparams.reading == "backward":  # in the order of the source, <eos> last
            maps = torch.cat([maps[..., :-1].flip(-1), maps[..., -1:]], -1)
        return {"source": maps}
