"""Seq2Seq: translation with a recurrent encoder of the source and a recurrent decoder.

Without attention: Sutskever, Vinyals and Le, "Sequence to Sequence Learning with Neural Networks",
NIPS 2014; Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014.
Additive attention: Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to
Align and Translate", ICLR 2015. Multiplicative attention: Luong, Pham and Manning, "Effective
Approaches to Attention-based Neural Machine Translation", EMNLP 2015.

    -log p(y|x) = sum_t -log p(y_t | y_<t, x)                                                (1)
    h_j = [RNN(x_j, h_{j-1}); RNN(x_j, h_{j+1})],  or one of them;   s_0 = tanh(W_0 c)       (2)
    s_t = RNN([y_{t-1}; c_t], s_{t-1})                                                       (3)
    p(y_t | y_<t, x) = softmax(W_o D tanh(U [s_t; y_{t-1}; c_t]))                            (4)
    none:            c_t = c, the last state of each direction                               (5)
    additive:        c_t = sum_j a_tj h_j,  a_tj = softmax_j v' tanh(W_a s_{t-1} + U_a h_j)  (6)
    multiplicative:  c_t = sum_j a_tj h_j,  a_tj = softmax_j s_{t-1}' W_a h_j                (7)

Without attention, all information about the source passes through c, whose size is fixed.
Sutskever et al. reverse the source, which moves its first words closer to the first words of the
translation. With attention, each decoder step uses the states of all source words.
`attention_maps` returns the attention weights. The metrics `test/bleu_source_...` are BLEU
for sentences in a range of source lengths.

Training: each update is an Adam step on the mean of Eq. 1 per target token, with label smoothing.
The learning rate has a linear warm-up and a cosine decay.

Translation: `translate_greedy` recomputes the whole target for every token. `sample` runs beam
search (`decoding/beam_search.py`) and stores the recurrent state between tokens. With beam size 1,
it gives the same tokens as `translate_greedy`.

| paper | here |
|---|---|
| h_j, s_t, c_t | memory.states (N, S, E), state (L, N, width), context (N, E) |
| E | width, or 2 * width if the encoder reads in both directions |
| x_j, y_t | source_embedding, target_embedding |
| teacher forcing | y_{t-1}: true word with probability teacher_forcing, else predicted word |

Where the papers, a released implementation (bentrevett's pytorch-seq2seq, notebooks 2 and 3 of
2024) and this file differ:

| | papers | pytorch-seq2seq | here |
|---|---|---|---|
| s_0, no attention | Cho: tanh(V' tanh(V h_S)); Sutskever: last h, cell | h_S | tanh(W_0 h_S) |
| s_0, attention | Bahdanau: tanh(W <-h_1); Luong: last h, cell | tanh(W c) | tanh(W_0 c) |
| c in Eq. 3 and 4 | Cho: in both (after tanh(V h_S)); Sutskever: in neither | in both | in both |
| a_t is computed from | Bahdanau: s_{t-1}; Luong: s_t | s_{t-1} | s_{t-1} |
| input of the next step | Bahdanau: c_t; Luong: tanh(W_c [c_t; s_t]) | c_t | c_t |
| W_a of Eq. 6 | without bias | with bias | with bias |
| padding in a_t | masked | not masked | masked |
| output layer | Cho, Bahdanau: maxout; Luong: tanh; Sutskever: linear | linear | tanh |
| output matrix | separate | separate | target embedding (Press and Wolf 2017) |
| GRU's reset gate r | U (r * s), before the matrix | r * (U s), PyTorch's | r * (U s), PyTorch's |
| initial weights | Cho, Bahdanau: N(0, .01^2); Luong: U(-.1, .1) | N(0, .01^2) | PyTorch's (1) |
| dropout; label smoothing | none; Luong: .2 between layers | .5; none | `dropout`, `smoothing` |
| optimizer | SGD; Bahdanau: Adadelta | Adam, constant rate | Adam, warm-up and half a cosine |

(1) Embeddings are from N(0, 1 / size). Sutskever has U(-.08, .08). The recurrent weights of Cho and
Bahdanau are orthogonal.
"""

import random
from typing import Any, Literal, NamedTuple

import torch
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_modules.core.modes import sampling
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.core.translator import BOS, EOS, PAD, Translator
from lightning_modules.decoding.generation import until
from lightning_modules.nn.attention import RecordsAttention
from lightning_modules.nn.recurrent import LSTM
from lightning_modules.optim.schedules import cosine

CELLS: dict[str, Any] = {"gru": nn.GRU, "lstm": LSTM}


RecurrentState = tuple[Tensor, ...]  # (s,), or (s, cell) for an LSTM; shapes (L, N, width)


class Memory(NamedTuple):
    """Encoded source sentences, an input of the decoder.

    Attributes:
        states: Encoder states h (N, S, E).
        keys: Attention keys (N, S, width): U_a h_j of Eq. 6, or W_a h_j of Eq. 7. They are unused
            without attention.
        mask: Mask (N, S), True at words and False at padding.
        first: Initial decoder state s_0 (Eq. 2).
        context: Last encoder state c (N, E) of Eq. 5.
    """

    states: Tensor
    keys: Tensor
    mask: Tensor
    first: RecurrentState
    context: Tensor


DecodingState = tuple[Memory, RecurrentState]


class Seq2Seq(Translator, RecordsAttention):
    """Recurrent encoder-decoder for translation.

    Args:
        Data:
        source_vocab_size: Number of tokens in the source vocabulary; supplied by the data module.
        vocab_size: Number V of tokens in the target vocabulary; supplied by the data module.
        Network:
        attention: Type of attention to the source: `none` (Eq. 5), `additive` (Eq. 6) or
            `multiplicative` (Eq. 7).
        cell: Type of recurrent cell of the encoder and the decoder: `gru` or `lstm`.
        layers: Number L of recurrent layers in the encoder, and in the decoder.
        width: Number of units in each layer and direction.
        embedding: Size of the word embeddings.
        dropout: Dropout probability after the embeddings, between layers and before the output.
        reading: Order in which the encoder processes the source: `forward` (Cho et al.), `backward`
            with `<eos>` still at the end (Sutskever et al.), or `both` (Bahdanau et al.).
        Objective:
        teacher_forcing: Probability that the decoder's input in training is the true previous word,
            instead of the predicted word.
        smoothing: Label-smoothing factor, in [0, 1]; 0 disables label smoothing.
        Optimizer:
        learning_rate: Peak learning rate of Adam.
        warmup_steps: Number of updates over which the learning rate rises to its peak.
    """

    modality = "text-to-text"

    def __init__(
        self,
        source_vocab_size: int,
        vocab_size: int,
        attention: Literal["none", "additive", "multiplicative"] = "additive",
        cell: Literal["gru", "lstm"] = "gru",
        layers: PositiveInt = 1,
        width: PositiveInt = 256,
        embedding: PositiveInt = 256,
        dropout: ClosedUnitInterval = 0.3,
        reading: Literal["both", "forward", "backward"] = "both",
        teacher_forcing: ClosedUnitInterval = 1.0,
        smoothing: ClosedUnitInterval = 0.0,
        learning_rate: PositiveFloat = 1e-3,
        warmup_steps: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
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
        )  # U_a of Eq. 6 or W_a of Eq. 7
        self.query = nn.Linear(width, width) if attention == "additive" else None  # W_a of Eq. 6
        self.score = nn.Linear(width, 1, bias=False) if attention == "additive" else None  # v
        self.decoder = CELLS[cell](
            embedding + encoded, width, layers, batch_first=True, dropout=inner
        )
        self.readout = nn.Linear(width + embedding + encoded, embedding)  # U
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for part in (self.source_embedding, self.target_embedding):
            nn.init.normal_(part.weight, 0.0, embedding**-0.5)

    # The network

    def encode(self, source: Tensor, length: Tensor) -> Memory:
        position = torch.arange(source.shape[1], device=source.device)
        if self.hparams.reading == "backward":
            mirrored = length[:, None] - 2 - position  # negative at <eos> and padding
            source = source.gather(1, torch.where(mirrored >= 0, mirrored, position))
        packed = pack_padded_sequence(
            self._dropout(self.source_embedding(source)),
            length.cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        outputs, last = self.encoder(packed)
        states, _ = pad_packed_sequence(outputs, batch_first=True, total_length=source.shape[1])
        last = last[0] if isinstance(last, tuple) else last  # (L or 2 L, N, width)
        both = self.hparams.reading == "both"
        context = torch.cat([last[-2], last[-1]], 1) if both else last[-1]
        first = self.bridge(context).tanh()  # Eq. 2
        first = first.unflatten(1, (-1, self.hparams.layers, self.hparams.width))
        keys = states if self.keys is None else self.keys(states)
        return Memory(
            states,
            keys,
            position < length[:, None],
            tuple(part.transpose(0, 1).contiguous() for part in first.unbind(1)),
            context,
        )

    def attend(self, memory: Memory, state: Tensor) -> Tensor:
        """Return contexts c_t (N, K, E) for K decoder states of each source, (N, K, width)."""
        if self.hparams.attention == "none":
            return memory.context[:, None].expand(-1, state.shape[1], -1)  # Eq. 5
        if self.query is None or self.score is None:
            scores = state @ memory.keys.mT  # Eq. 7, (N, K, S)
        else:
            hidden = self.query(state)[:, :, None] + memory.keys[:, None]  # (N, K, S, width)
            scores = self.score(hidden.tanh())[..., 0]  # Eq. 6
        weights = scores.masked_fill(~memory.mask[:, None], -torch.inf).softmax(-1)
        if self.recorded is not None:
            self.recorded.append(weights[:, None])
        return weights @ memory.states

    def decoder_step(
        self, words: Tensor, context: Tensor, state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        """Return decoder outputs s_t (N, T, width) and the new recurrent state (Eq. 3).

        Args:
            words: Embeddings (N, T, embedding) of the previous target words y_{t-1}.
            context: Contexts c_t (N, T, E), from `attend`.
            state: Recurrent state before the first word.
        """
        inputs = torch.cat([words, context], 2)
        outputs, state = self.decoder(inputs, state if len(state) == 2 else state[0])
        return outputs, state if isinstance(state, tuple) else (state,)

    def logits(self, outputs: Tensor, words: Tensor, context: Tensor) -> Tensor:
        """Compute logits (N, T, V) from s_t, y_{t-1} and c_t (Eq. 4)."""
        hidden = self._dropout(self.readout(torch.cat([outputs, words, context], 2)).tanh())
        return F.linear(hidden, self.target_embedding.weight, self.bias)

    def decode(self, memory: Memory, tokens: Tensor) -> Tensor:
        words = self._dropout(self.target_embedding(tokens))  # (N, T, embedding)
        forced = not self.training or self.hparams.teacher_forcing >= 1
        if forced and self.hparams.attention == "none":  # all steps in one call
            context = self.attend(memory, words)
            outputs, _ = self.decoder_step(words, context, memory.first)
            return self.logits(outputs, words, context)
        state = memory.first
        steps: list[tuple[Tensor, Tensor, Tensor]] = []  # s_t, y_{t-1} and c_t
        for t in range(tokens.shape[1]):
            word = words[:, t : t + 1]
            if t and not forced and random.random() >= self.hparams.teacher_forcing:
                predicted = self.logits(*steps[-1]).argmax(-1)
                word = self._dropout(self.target_embedding(predicted))
            context = self.attend(memory, state[0][-1][:, None])
            output, state = self.decoder_step(word, context, state)
            steps.append((output, word, context))
        # One large matrix product is faster than T small products.
        return self.logits(*(torch.cat(parts, 1) for parts in zip(*steps)))

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.hparams.dropout, self.training)

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
        adam = torch.optim.Adam(self.parameters(), self.hparams.learning_rate, fused=True)
        return [adam], [cosine(adam, self.total_updates, self.hparams.warmup_steps)]

    # Translation

    @sampling
    def translate_greedy(self, source: Tensor, length: Tensor, max_length: int) -> list[list[int]]:
        """Choose the most likely token at each step, recomputing the whole target for each token.

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
        return memory, memory.first

    def decode_step(self, tokens: Tensor, state: DecodingState) -> tuple[Tensor, DecodingState]:
        memory, recurrent = state
        words = self.target_embedding(tokens)[:, None]  # (R, 1, embedding)
        # R = N * K: the K hypotheses of a source share one row of the memory.
        query = recurrent[0][-1].view(memory.mask.shape[0], -1, self.hparams.width)
        context = self.attend(memory, query).flatten(0, 1)[:, None]
        outputs, recurrent = self.decoder_step(words, context, recurrent)
        return self.logits(outputs, words, context)[:, 0], (memory, recurrent)

    def networks(self) -> dict[str, ExportedNetwork]:
        """Return the encoder, and one step of the decoder: next logits and recurrent state."""

        def encode(source: Tensor, length: Tensor) -> tuple[Tensor, ...]:
            memory = self.encode(source, length)
            rest = (memory.states, memory.keys, memory.mask, memory.context)
            return *rest, *(part.transpose(0, 1) for part in memory.first)

        def step(token: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            states, keys, mask, context, *parts = inputs
            recurrent = tuple(part.transpose(0, 1) for part in parts)
            memory = Memory(states, keys, mask, recurrent, context)
            logits, (_, recurrent) = self.decode_step(token, (memory, recurrent))
            return logits, *(part.transpose(0, 1) for part in recurrent)

        source = {"source": torch.tensor([[3, 3, 2], [3, 2, 0]]), "length": torch.tensor([3, 2])}
        names = ["states", "keys", "mask", "context"]
        outputs = encode(*(value.to(self.device) for value in source.values()))
        parts = [f"state{number}" for number in range(len(outputs) - len(names))]
        memory = {name: value.cpu() for name, value in zip([*names, *parts], outputs)}
        sizes = {"source": {0: "batch", 1: "length"}, "length": {0: "batch"}}
        rows: dict[str, dict[int, str]] = {name: {0: "batch"} for name in ("token", *memory)}
        rows |= {name: {0: "batch", 1: "length"} for name in names[:3]}
        inputs = {"token": torch.ones(2, dtype=torch.int64), **memory}
        after = ("logits", *(f"{name}_out" for name in parts))
        return {
            # Only PyTorch's older exporter can export packed sequences.
            "encoder": ExportedNetwork(
                Method(self, encode), source, tuple(memory), sizes, packed=True
            ),
            "step": ExportedNetwork(Method(self, step), inputs, after, rows),
        }

    def reorder_cache(self, state: DecodingState, sentences: Tensor, rows: Tensor) -> DecodingState:
        memory, recurrent = state
        if len(sentences) < len(memory.mask):
            memory = memory._replace(
                states=memory.states[sentences],
                keys=memory.keys[sentences],
                mask=memory.mask[sentences],
                context=memory.context[sentences],
            )
        return memory, tuple(part[:, rows].contiguous() for part in recurrent)

    def cross_attention(self, weights: list[Tensor]) -> dict[str, Tensor]:
        if not weights:
            return {}
        maps = torch.cat(weights, 2)  # (1, 1, T, S)
        if self.hparams.reading == "backward":  # undo the reversal; <eos> stays last
            maps = torch.cat([maps[..., :-1].flip(-1), maps[..., -1:]], -1)
        return {"source": maps}
