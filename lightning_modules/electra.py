"""ELECTRA: a small model forges words, a large one learns language by telling which words are
forged.

Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", ICLR
2020.

    m: ceil(.15 n) of the n positions of x, without repetition;  x_masked = x with [MASK] at m          (1)
    x_i^ ~ p_G(x_i | x_masked) for i in m;                       x_corrupt = x with x^ at m             (2)
    L_MLM = mean over m of -log p_G(x_i | x_masked)                                                     (3)
    L_Disc = mean over all i of the cross-entropy of D(x_corrupt, i) with [x_corrupt_i = x_i]           (4)
    L = L_MLM + lambda L_Disc                                                                           (5)

Is this a GAN for text? It looks like one: a generator, a discriminator, real against fake. But the
generator is trained to be right (Eq. 3) and not to deceive: a drawn word has no gradient, so that
the discriminator cannot tell it how to forge better. There is no noise either, and where the
generator guesses the true word, it counts as original. What remains of the game is the
discriminator's lesson at every word, of which masked language models get one at 15 % of them. After
pre-training the generator is thrown away.

`objective` has Table 5 of the paper, each with a head on the large model: electra (Eq. 4) ·
electra_15 (Eq. 4 at m only) · all_tokens (the identity of every word of x_corrupt, with a gate that
may copy it) · replace_mlm (the identity at m, of x_corrupt) · mlm (BERT's: the identity at m, of
x_masked, without a generator).

| paper | here |
|---|---|
| x, m, x_masked, x_corrupt | tokens, chosen, masked, corrupt: (N, T) |
| generator a quarter of the discriminator's size, embeddings tied | `Encoder` of width / 4; embedding, positions |
| lambda | lambda_disc |

Where the paper, the released code (google-research/electra) and this file differ:

| | paper | released code | here |
|---|---|---|---|
| number of positions in m | ceil(.15 n) | round(.15 n), at most 19 of 128 | ceil(.15 n), special tokens not counted |
| m is drawn | as a random set | with repetition | without repetition |
| at m, x_masked has | [MASK] | [MASK] in 85 %, x in 15 % | [MASK] |
| at m, BERT's x_masked has (`mlm`) | [MASK] in 80 %, x or a random word in 10 % each | as ELECTRA | [MASK] |
| L_MLM is divided by | size of m | size of m | 15 % of all tokens, so that one count serves both losses on all ranks |
| dropout of attention weights | .1 | .1 | 0, for which PyTorch has a fused kernel on a CPU |
| Adam | with weight decay | and without bias correction | AdamW |
| learning rate at update s of S, warm-up w | linear up and down | min(1, s / w) (1 - s / S) | s / w, then (S - s) / (S - w) |
| epsilon of layer norms | - | 1e-12 | 1e-5 |
| a text | [CLS], [SEP] and segments, uncased WordPiece | as the paper | a window or a line, byte-pair encoding |
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryPrecision, BinaryRecall

from lightning_modules.core.modes import sampling
from lightning_modules.core.tokens import TokenModule
from lightning_modules.nn.transformer import Block, TransformerConfig
from lightning_modules.optim.parameter_groups import decay_groups
from lightning_modules.optim.schedules import linear
from metrics.probe import swapped_words_probe

MASK_SHARE = 0.15
MEANS = ("loss", "loss_main", "loss_generator", "generator_accuracy", "replaced", "floor")
Objective = Literal["electra", "electra_15", "all_tokens", "replace_mlm", "mlm"]


class Encoder(nn.Module):
    """Bidirectional Transformer over embeddings that are somebody else's.

    Args:
        embedding: E, their size.
        width: of the stream.
        layers: L.
        heads: of attention.
        dropout: of branches.
    """

    def __init__(self, embedding: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        shape = TransformerConfig(
            width, heads, dropout, 0.0, "layer", False, "gelu", norm_first=False
        )
        self.input = nn.Linear(embedding, width)
        self.blocks = nn.ModuleList([Block(shape, layer) for layer in range(layers)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(N, T, width) of embeddings (N, T, E); mask (N, 1, 1, T) is True where there is a
        token.
        """
        x = self.input(x)
        for block in self.blocks:
            x = block(x, torch.empty(0), None, mask)
        return x


class Outcome(NamedTuple):
    """What one batch came to.

    Attributes:
        valid: where there is a token, (N, T).
        chosen: m of Eq. 1, (N, T).
        corrupt: x_corrupt, or x_masked for "mlm", (N, T).
        generator: -log p_G at m, 0 elsewhere, (N, T); 0 without a generator.
        main: the large model's loss at each position where it has one, 0 elsewhere, (N, T).
        counted: share of the positions at which it has one.
        suspicion: logits that a token is not the original, (N, T); None without a discriminator.
    """

    valid: Tensor
    chosen: Tensor
    corrupt: Tensor
    generator: Tensor
    main: Tensor
    counted: float
    suspicion: Tensor | None


class ELECTRA(TokenModule):
    """Replaced-token detection, and the objectives that it is compared with.

    Args:
        vocab_size: V, a fact of the data; [MASK] is one more.
        context: most tokens that follow others in a text, as data.context; all of them are one
            more.
        objective: see above.
        layers: of both encoders.
        heads: of the large one's attention.
        width: of the large one; the generator has a quarter.
        embedding: E, of tokens and positions.
        dropout: of embeddings and branches.
        lambda_disc: of Eq. 5.
        learning_rate: of AdamW at its peak, on a line to 0.
        warmup_steps: updates on the way up.
        weight_decay: decoupled, of matrices.
        special_ids: ids of special tokens, which are never masked; a fact of data whose examples
            are lines.
    """

    modality = "embeddings"
    monitor = ("val/loss", "min")
    maskable: Tensor

    def __init__(
        self,
        vocab_size: int,
        context: int = 128,
        objective: Objective = "electra",
        layers: int = 12,
        heads: int = 4,
        width: int = 256,
        embedding: int = 128,
        dropout: float = 0.1,
        lambda_disc: float = 50.0,
        learning_rate: float = 5e-4,
        warmup_steps: int = 10_000,
        weight_decay: float = 0.01,
        special_ids: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.mask_id = vocab_size
        maskable = torch.ones(vocab_size, dtype=torch.bool)
        maskable[special_ids or []] = False
        self.register_buffer("maskable", maskable, persistent=False)
        self.embedding = nn.Embedding(vocab_size + 1, embedding)
        self.context = context
        self.positions = nn.Embedding(context + 1, embedding)
        self.norm = nn.LayerNorm(embedding)
        self.main = Encoder(embedding, width, layers, heads, dropout)
        self.generator = None
        if objective != "mlm":
            self.generator = Encoder(embedding, width // 4, layers, max(1, heads // 4), dropout)
            self.guess = self._head(width // 4, embedding)
        if objective not in ("replace_mlm", "mlm"):
            self.detect = nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
            )  # or the gate of all_tokens
        self.name = (
            self._head(width, embedding) if objective not in ("electra", "electra_15") else None
        )
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(part.weight, 0.0, 0.02, -0.04, 0.04)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)
        measures = {
            "auc": BinaryAUROC(thresholds=200),
            "precision": BinaryPrecision(),
            "recall": BinaryRecall(),
        }
        self.measures: Any = nn.ModuleDict({**measures, "accuracy": BinaryAccuracy()})
        self.means: Any = nn.ModuleDict({name: MeanMetric() for name in MEANS})

    @staticmethod
    def _head(width: int, embedding: int) -> nn.Module:
        """Back to the size of an embedding, with which its words are compared."""
        return nn.Sequential(nn.Linear(width, embedding), nn.GELU(), nn.LayerNorm(embedding))

    def words(self, head: nn.Module, hidden: Tensor) -> Tensor:
        """Logits (..., V) of the words at hidden states (..., width)."""
        return F.linear(head(hidden), self.embedding.weight[:-1], self.bias)

    def encode(self, encoder: Encoder, tokens: Tensor, valid: Tensor) -> Tensor:
        """Hidden states (N, T, width) of tokens (N, T)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.embedding(tokens) + self.positions(positions))
        hidden: Tensor = encoder(
            F.dropout(x, self.hparams.dropout, self.training), valid[:, None, None]
        )
        return hidden

    def choose(self, valid: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """m of Eq. 1 (N, T), among valid positions (N, T)."""
        chance = torch.rand(
            valid.shape, generator=generator, device=valid.device if generator is None else "cpu"
        ).to(valid.device)
        place = chance.masked_fill(~valid, 2.0).argsort(1).argsort(1)
        return place < (15 * valid.sum(1, keepdim=True) + 99) // 100  # rounded up, in whole numbers

    def forward(
        self, tokens: Tensor, length: Tensor, generator: torch.Generator | None = None
    ) -> Outcome:
        """One batch of tokens (N, T), of which `length` (N,) count."""
        objective = self.hparams.objective
        valid = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        chosen = self.choose(valid & self.maskable[tokens], generator)
        corrupt = tokens.masked_fill(chosen, self.mask_id)  # Eq. 1
        forged = torch.zeros(tokens.shape, device=tokens.device, dtype=torch.float32)
        if self.generator is not None:
            logits = self.words(
                self.guess, self.encode(self.generator, corrupt, valid)[chosen]
            ).float()  # (M, V)
            forged[chosen] = F.cross_entropy(logits, tokens[chosen], reduction="none")  # Eq. 3
            noise = torch.rand(
                logits.shape,
                generator=generator,
                device=logits.device if generator is None else "cpu",
            )
            drawn = (
                logits.detach() - (-noise.clamp_min(1e-20).log()).log().to(logits.device)
            ).argmax(-1)  # without gradient
            corrupt = corrupt.masked_scatter(chosen, drawn)  # Eq. 2
        hidden = self.encode(self.main, corrupt, valid)
        loss = torch.zeros_like(forged)
        at = chosen if objective in ("electra_15", "replace_mlm", "mlm") else valid
        suspicion = None
        if self.name is None:
            suspicion = self.detect(hidden)[..., 0].float()
            truth = (corrupt != tokens).float()
            loss[at] = F.binary_cross_entropy_with_logits(
                suspicion[at], truth[at], reduction="none"
            )  # Eq. 4
        else:
            log_p = (
                self.words(self.name, hidden[at])
                .float()
                .log_softmax(-1)
                .gather(1, tokens[at][:, None])[:, 0]
            )
            if (
                objective == "all_tokens"
            ):  # copied with probability c, or else drawn: log(c [same] + (1 - c) p)
                gate = self.detect(hidden[at])[:, 0].float()
                copied = F.logsigmoid(gate).masked_fill(corrupt[at] != tokens[at], -torch.inf)
                log_p = torch.logaddexp(copied, F.logsigmoid(-gate) + log_p)
            loss[at] = -log_p
        return Outcome(
            valid, chosen, corrupt, forged, loss, MASK_SHARE if at is chosen else 1.0, suspicion
        )

    def losses(self, outcome: Outcome) -> Tensor:
        """(N, T) terms whose sum over the number of tokens is Eq. 5."""
        weight = self.hparams.lambda_disc if self.name is None else 1.0
        return outcome.generator / MASK_SHARE + weight * outcome.main / outcome.counted

    def parts(self, outcome: Outcome, count: int) -> dict[str, Tensor]:
        """Eq. 3 and Eq. 4, or what stands in the place of it, of so many tokens."""
        found = {"main": outcome.main.sum() / (outcome.counted * count)}
        return (
            found
            if self.generator is None
            else {**found, "generator": outcome.generator.sum() / (MASK_SHARE * count)}
        )

    @staticmethod
    def texts(batch: dict[str, Any]) -> tuple[Tensor, Tensor, int]:
        """All tokens of a batch, not only those that follow others: (N, T), their lengths (N,), and
        how many they are.
        """
        return batch["tokens"], batch["length"] + 1, batch["targets"] + len(batch["tokens"])

    def target_count(self, batch: dict[str, Any]) -> int:
        return int(batch["targets"]) + len(batch["tokens"])

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        tokens, length, count = self.texts(batch)
        outcome = self(tokens, length)
        parts = {f"loss_{name}": value for name, value in self.parts(outcome, count).items()}
        return {"loss": self.losses(outcome).sum() / count, **parts}

    # Figures

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        """Eq. 5, what the discriminator finds, and what it would score by calling every word
        original ("floor").
        """
        tokens, length, count = self.texts(batch)
        outcome = self(tokens, length)
        found = {"loss": (self.losses(outcome).sum() / count, count)}
        found |= {
            f"loss_{name}": (value, count) for name, value in self.parts(outcome, count).items()
        }
        if self.generator is not None:
            replaced = (outcome.corrupt != tokens)[outcome.valid]
            guessed = (outcome.corrupt == tokens)[outcome.chosen].float()
            share = replaced.float().mean()
            found |= {
                "generator_accuracy": (guessed.mean(), len(guessed)),
                "replaced": (share, count),
                "floor": (1 - share, count),
            }
            if outcome.suspicion is not None:
                for name, measure in self.measures.items():
                    measure.update(outcome.suspicion[outcome.valid].sigmoid(), replaced.int())
                    self._log(stage, name, measure)
        for name, (value, weight) in found.items():
            self.means[name].update(value, weight)
            self._log(stage, name, self.means[name])

    def _log(self, stage: str, name: str, metric: Any) -> None:
        self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        note = (
            f"objective={self.hparams.objective}|mask={MASK_SHARE}|split={data.split_name(stage)}"
        )
        self.signatures[f"{stage}/{name}"] = f"{name}[{note}]"

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        value, signature = swapped_words_probe(self.represent, data, self.device)
        self.log("test/probe", value)
        self.signatures["test/probe"] = signature

    @sampling
    def represent(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Hidden states (N, T, width) of the large model for texts as they are; what comes behind
        `length` means nothing.
        """
        return self.encode(
            self.main, tokens, torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        )

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Corrupted texts: a forged word with the true one behind it, and what looks replaced in
        brackets.
        """
        tokens, length, _ = self.texts(batch)
        outcome = self(tokens, length, torch.Generator().manual_seed(0))
        if self.tokenizer is None or outcome.suspicion is None:
            return {}
        lines = []
        for row, size in enumerate(length.tolist()):
            shown = []
            seen_and_logits = zip(outcome.corrupt[row].tolist(), outcome.suspicion[row].tolist())
            for true, (seen, logit) in zip(tokens[row, :size].tolist(), seen_and_logits):
                word = self.tokenizer.token(seen).strip() + (
                    f"({self.tokenizer.token(true).strip()})" if seen != true else ""
                )
                shown.append(f"[{word}]" if logit > 0 else word)
            lines.append(" ".join(shown))
        return {"corrupted": lines}

    def configure_optimizers(self) -> Any:
        h = self.hparams
        adam = torch.optim.AdamW(
            decay_groups(self.parameters(), h.weight_decay),
            h.learning_rate,
            (0.9, 0.999),
            eps=1e-6,
            fused=True,
        )
        return [adam], [linear(adam, self.total_updates, h.warmup_steps)]
