"""ELECTRA: a Transformer encoder pre-trained to detect which tokens a small generator replaced.

Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", ICLR
2020.

    m: ceil(.15 n) of the n positions of x, without repetition; x_masked = x with [MASK] at m    (1)
    x_i^ ~ p_G(x_i | x_masked) for i in m;                      x_corrupt = x with x^ at m       (2)
    L_MLM = mean over m of -log p_G(x_i | x_masked)                                              (3)
    L_Disc = mean over all i of the cross-entropy of D(x_corrupt, i) with [x_corrupt_i = x_i]    (4)
    L = L_MLM + lambda L_Disc                                                                    (5)

ELECTRA is not a GAN. The generator is trained by maximum likelihood (Eq. 3), not adversarially: a
sampled token has no gradient, so the discriminator's loss does not reach the generator. There is no
noise input, and a sampled token that equals the true token counts as original. The discriminator
learns from every token, a masked language model from 15 % of them. After pre-training, the
generator is discarded.

Training: each update is an AdamW step on Eq. 5, with a linear warm-up and a linear decay of the
learning rate to 0. `replace` samples the replacements. ELECTRA does not generate texts; `preview`
marks replaced tokens and detected tokens.

`objective` selects an experiment of Table 5, with a head on the large model: electra (Eq. 4) ·
electra_15 (Eq. 4 at m only) · all_tokens (predict every token of x from x_corrupt, with a gate that
copies the input) · replace_mlm (predict the tokens at m from x_corrupt) · mlm (BERT: predict the
tokens at m from x_masked, without a generator).

| paper | here |
|---|---|
| x, m, x_masked, x_corrupt | tokens, chosen, masked, corrupt: (N, T) |
| generator, a quarter of the discriminator's size | `Encoder` of width / 4 |
| tied embeddings | embedding, positions |
| lambda | lambda_disc |

Where the paper, the released code (google-research/electra) and this file differ:

| | paper | released code | here |
|---|---|---|---|
| size of m | ceil(.15 n) | round(.15 n), at most 19 of 128 | ceil(.15 n) of ordinary tokens |
| m is sampled | without repetition | with repetition | without repetition |
| at m, x_masked has | [MASK] | [MASK] in 85 %, x in 15 % | [MASK] |
| at m, BERT's x_masked has | [MASK] 80 %, x 10 %, random 10 % | as ELECTRA | [MASK] |
| L_MLM is divided by | size of m | size of m | 15 % of all tokens (1) |
| dropout of attention weights | .1 | .1 | 0, for PyTorch's fused kernel |
| Adam | with weight decay | with weight decay, no bias correction | AdamW |
| learning rate at update s of S | linear | min(1, s / w) (1 - s / S) | as the paper (2) |
| epsilon of layer norms | - | 1e-12 | 1e-5 |
| format of a text | [CLS], [SEP], segments, WordPiece | as the paper | window or line, BPE |

(1) Both losses then use one token count on all ranks.
(2) s / w during the warm-up of w updates, then (S - s) / (S - w).
"""

from typing import Any, Literal, NamedTuple, cast

import torch
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryPrecision, BinaryRecall

from lightning_modules.core.modes import sampling
from lightning_modules.core.tokens import TokenModule
from lightning_modules.nn.transformer import Block, TransformerConfig
from lightning_modules.optim.parameter_groups import decay_groups
from metrics.probe import swapped_words_probe

MASK_SHARE = 0.15
MEANS = ("loss", "loss_main", "loss_generator", "generator_accuracy", "replaced", "baseline")
Objective = Literal["electra", "electra_15", "all_tokens", "replace_mlm", "mlm"]


class Encoder(nn.Module):
    """Bidirectional Transformer on top of shared embeddings.

    Args:
        embedding: Width of the embeddings, E.
        width: Width of the residual stream.
        layers: Number of Transformer blocks.
        heads: Number of attention heads.
        dropout: Dropout probability of branches.
    """

    def __init__(self, embedding: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        config = TransformerConfig(
            width, heads, dropout, 0.0, "layer", False, "gelu", norm_first=False
        )
        self.input = nn.Linear(embedding, width)
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(layers)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (N, T, width) of embeddings.

        Args:
            x: Token embeddings (N, T, E).
            mask: True at tokens and False at padding, (N, 1, 1, T).
        """
        x = self.input(x)
        for block in self.blocks:
            x = block(x, None, mask)
        return x


class Output(NamedTuple):
    """Losses and intermediate results of one batch; tensors have shape (N, T).

    Attributes:
        valid: True at tokens and False at padding.
        chosen: True at the positions m of Eq. 1.
        corrupt: Input of the large model: x_corrupt, or x_masked for "mlm".
        generator_nll: Generator loss -log p_G of the true tokens at m, 0 elsewhere (Eq. 3).
        main_nll: Loss of the large model at each position, 0 where no loss applies (Eq. 4).
        main_share: Fraction of the positions at which the loss of the large model applies.
        replaced_logits: Logits for "this token was replaced"; None without a discriminator.
    """

    valid: Tensor
    chosen: Tensor
    corrupt: Tensor
    generator_nll: Tensor
    main_nll: Tensor
    main_share: float
    replaced_logits: Tensor | None


def true_first(mask: Tensor, size: int) -> Tensor:
    """First `size` flat positions (size,) of a mask, True positions before False positions.

    Indexing with the mask itself would make the host wait for the device to count.

    Args:
        mask: Boolean mask of any shape.
        size: Number of positions to return; at least the number of True values.
    """
    return (~mask).flatten().byte().argsort(stable=True)[:size]


def spread(values: Tensor, at: Tensor, mask: Tensor) -> Tensor:
    """Put values (M,) at flat positions (M,) of the mask's shape; 0 where the mask is False."""
    flat = values.new_zeros(mask.numel()).index_copy(0, at, values)
    return flat.view(mask.shape).masked_fill(~mask, 0)


class ELECTRA(TokenModule):
    """Replaced-token detection, and the other objectives of Table 5.

    Args:
        Data:
        vocab_size: Vocabulary size V, without [MASK]; supplied by the data module.
        context: Maximum number of tokens in a text after the first token; at least data.context.
        special_ids: Ids of special tokens, which are never masked; supplied by the data module if
            each text is a line.
        Objective:
        objective: Pre-training objective (Table 5): detection of replaced tokens at all positions
            or at the chosen 15 %, or prediction of all, replaced or masked tokens.
        lambda_disc: Weight lambda of the discriminator's loss in Eq. 5.
        Network:
        layers: Number of blocks of both encoders.
        heads: Number of attention heads of the large encoder.
        width: Width of the large encoder; the generator is a quarter as wide.
        embedding: Width of token and position embeddings, E.
        dropout: Dropout probability of embeddings and branches.
        Optimizer:
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Number of updates of the linear warm-up.
        weight_decay: Decoupled weight decay of matrices; gains and biases do not decay.
    """

    modality = "embeddings"
    monitor = ("val/loss", "min")
    maskable: Tensor

    def __init__(
        self,
        vocab_size: int,
        context: PositiveInt = 128,
        objective: Objective = "electra",
        layers: PositiveInt = 12,
        heads: PositiveInt = 4,
        width: PositiveInt = 256,
        embedding: PositiveInt = 128,
        dropout: ClosedUnitInterval = 0.1,
        lambda_disc: NonNegativeFloat = 50.0,
        learning_rate: PositiveFloat = 5e-4,
        warmup_steps: NonNegativeInt = 10_000,
        weight_decay: NonNegativeFloat = 0.01,
        special_ids: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.context = context
        self.mask_id = vocab_size
        maskable = torch.ones(vocab_size, dtype=torch.bool)
        maskable[special_ids or []] = False
        self.register_buffer("maskable", maskable, persistent=False)
        self.embedding = nn.Embedding(vocab_size + 1, embedding)
        self.positions = nn.Embedding(context + 1, embedding)
        self.norm = nn.LayerNorm(embedding)
        self.main = Encoder(embedding, width, layers, heads, dropout)
        self.generator = None
        if objective != "mlm":
            self.generator = Encoder(embedding, width // 4, layers, max(1, heads // 4), dropout)
            self.generator_head = self._word_head(width // 4, embedding)
        if objective not in ("replace_mlm", "mlm"):  # the gate of all_tokens
            self.discriminator_head = nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
            )
        self.word_head = None
        if objective not in ("electra", "electra_15"):
            self.word_head = self._word_head(width, embedding)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(part.weight, 0.0, 0.02, -0.04, 0.04)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)
        self.detection = nn.ModuleDict(
            {
                "auc": BinaryAUROC(thresholds=200),
                "precision": BinaryPrecision(),
                "recall": BinaryRecall(),
                "accuracy": BinaryAccuracy(),
            }
        )
        self.means = nn.ModuleDict({name: MeanMetric() for name in MEANS})

    @staticmethod
    def _word_head(width: int, embedding: int) -> nn.Module:
        """Maps hidden states to the width of the embeddings, for `word_logits`."""
        return nn.Sequential(nn.Linear(width, embedding), nn.GELU(), nn.LayerNorm(embedding))

    def word_logits(self, head: nn.Module, hidden: Tensor) -> Tensor:
        """Token logits (..., V) of hidden states (..., width)."""
        return F.linear(head(hidden), self.embedding.weight[:-1], self.bias)

    def encode(self, encoder: Encoder, tokens: Tensor, valid: Tensor) -> Tensor:
        """Hidden states (N, T, width) of tokens (N, T)."""
        x = self.norm(self.embedding(tokens) + self.positions.weight[: tokens.shape[1]])
        x = F.dropout(x, self.hparams.dropout, self.training)
        hidden: Tensor = encoder(x, valid[:, None, None])
        return hidden

    # Training

    def choose(self, valid: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Choose the positions m (N, T) to mask among the valid positions (N, T) (Eq. 1)."""
        order = self._uniform(valid.shape, generator).masked_fill(~valid, 2.0)
        rank = order.argsort(1).argsort(1)
        count = (15 * valid.sum(1, keepdim=True) + 99) // 100  # ceil(.15 n) in integers
        return rank < count

    def replace(
        self,
        tokens: Tensor,
        chosen: Tensor,
        valid: Tensor,
        at: Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Replace the chosen tokens by samples of the generator.

        Args:
            tokens: Tokens (N, T).
            chosen: True at the positions m of Eq. 1 (N, T).
            valid: True at tokens and False at padding (N, T).
            at: Flat positions (M,) to compute; must include all chosen positions.
            generator: Random generator on the CPU; the global one by default.

        Returns:
            x_corrupt (N, T) of Eq. 2, and the generator's loss (N, T) of Eq. 3, which is 0 outside
            of the chosen positions.
        """
        assert self.generator is not None
        masked = tokens.masked_fill(chosen, self.mask_id)
        hidden = self.encode(self.generator, masked, valid)  # (N, T, width / 4)
        hidden = hidden.flatten(0, 1).index_select(0, at)  # (M, width / 4)
        logits = self.word_logits(self.generator_head, hidden).float()  # (M, V)
        nll = F.cross_entropy(logits, tokens.flatten()[at], reduction="none")  # Eq. 3
        # Gumbel-max sampling; a sampled token has no gradient.
        gumbel = -(-self._uniform(logits.shape, generator).clamp_min(1e-20).log()).log()
        sampled = (logits.detach() + gumbel).argmax(-1)  # (M,)
        corrupt = torch.where(chosen, spread(sampled, at, chosen), masked)  # Eq. 2
        return corrupt, spread(nll, at, chosen)

    def forward(
        self,
        tokens: Tensor,
        length: Tensor,
        count: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Output:
        """Corrupt a batch and compute the losses at each position.

        Args:
            tokens: Tokens (N, T).
            length: Number of tokens of each text (N,).
            count: Sum of `length`, which avoids computing padding; None computes all positions.
            generator: Random generator on the CPU; the global one by default.
        """
        count = tokens.numel() if count is None else count
        valid = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        chosen = self.choose(valid & self.maskable[tokens], generator)
        at_chosen = true_first(chosen, 15 * count // 100 + len(tokens))  # each row rounds up
        if self.generator is None:
            corrupt = tokens.masked_fill(chosen, self.mask_id)
            generator_nll = torch.zeros(tokens.shape, device=tokens.device)
        else:
            corrupt, generator_nll = self.replace(tokens, chosen, valid, at_chosen, generator)
        hidden = self.encode(self.main, corrupt, valid)  # (N, T, width)
        everywhere = self.hparams.objective in ("electra", "all_tokens")
        where = valid if everywhere else chosen
        replaced_logits = None
        if self.word_head is None:
            replaced_logits = self.discriminator_head(hidden)[..., 0].float()
            replaced = (corrupt != tokens).float()
            main_nll = F.binary_cross_entropy_with_logits(
                replaced_logits, replaced, reduction="none"
            ).masked_fill(~where, 0.0)  # Eq. 4
        else:
            at = true_first(valid, count) if everywhere else at_chosen
            nll = self.word_nll(
                hidden.flatten(0, 1).index_select(0, at),
                tokens.flatten()[at],
                corrupt.flatten()[at],
            )
            main_nll = spread(nll, at, where)
        share = 1.0 if everywhere else MASK_SHARE
        return Output(valid, chosen, corrupt, generator_nll, main_nll, share, replaced_logits)

    def word_nll(self, hidden: Tensor, tokens: Tensor, corrupt: Tensor) -> Tensor:
        """-log p of the true tokens (M,) at hidden states (M, width) of corrupted tokens (M,)."""
        assert self.word_head is not None
        logits = self.word_logits(self.word_head, hidden).float()  # (M, V)
        nll = F.cross_entropy(logits, tokens, reduction="none")
        if self.hparams.objective != "all_tokens":
            return nll
        # The model copies its input with probability c: p = c [same] + (1 - c) softmax.
        gate = self.discriminator_head(hidden)[:, 0].float()
        copied = F.logsigmoid(gate).masked_fill(corrupt != tokens, -torch.inf)
        return -torch.logaddexp(copied, F.logsigmoid(-gate) - nll)

    def losses(self, output: Output, count: int) -> dict[str, Tensor]:
        """Losses of a batch with `count` tokens: total, large model and generator."""
        main = output.main_nll.sum() / (output.main_share * count)  # Eq. 4
        if self.generator is None:
            return {"loss": main, "loss_main": main}
        generator = output.generator_nll.sum() / (MASK_SHARE * count)  # Eq. 3
        weight = self.hparams.lambda_disc if self.word_head is None else 1.0
        loss = generator + weight * main  # Eq. 5
        return {"loss": loss, "loss_main": main, "loss_generator": generator}

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        tokens, length = self.texts(batch)
        count = self.target_count(batch)
        return self.losses(self(tokens, length, count), count)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        groups = decay_groups(self.parameters(), h.weight_decay)
        adam = torch.optim.AdamW(groups, h.learning_rate, (0.9, 0.999), eps=1e-6, fused=True)
        warmup, total = h.warmup_steps, self.total_updates

        def factor(step: int) -> float:
            """Linear warm-up, then linear decay to 0 at the last update."""
            if step < warmup:
                return (step + 1) / warmup
            return max(0.0, (total - step) / max(1, total - warmup))

        return [adam], [{"scheduler": LambdaLR(adam, factor), "interval": "step"}]

    @staticmethod
    def texts(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Tokens of a batch (N, T), and the number of tokens of each text (N,)."""
        return batch["tokens"], batch["length"] + 1

    def target_count(self, batch: dict[str, Any]) -> int:
        """Number of tokens in a batch; `num_targets` omits the first token of each text."""
        return int(batch["num_targets"]) + len(batch["tokens"])

    def _uniform(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """Uniform random numbers from a generator on the CPU, or from the global one."""
        if generator is None:
            return torch.rand(shape, device=self.device)
        return torch.rand(shape, generator=generator).to(self.device)

    # Metrics

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        """Log losses, detection metrics and "baseline", the accuracy of never detecting a token."""
        tokens, length = self.texts(batch)
        count = self.target_count(batch)
        output = self(tokens, length, count)
        means = {name: (value, count) for name, value in self.losses(output, count).items()}
        if self.generator is not None:
            replaced = (output.corrupt != tokens)[output.valid]
            correct = (output.corrupt == tokens)[output.chosen].float()
            share = replaced.float().mean()
            means["generator_accuracy"] = correct.mean(), len(correct)
            means["replaced"] = share, count
            means["baseline"] = 1 - share, count
            if output.replaced_logits is not None:
                for name, metric in self.detection.items():
                    probabilities = output.replaced_logits[output.valid].sigmoid()
                    cast(Metric, metric).update(probabilities, replaced.int())
                    self._log(stage, name, cast(Metric, metric))
        for name, (value, weight) in means.items():
            mean = cast(MeanMetric, self.means[name])
            mean.update(value, weight)
            self._log(stage, name, mean)

    def _log(self, stage: str, name: str, metric: Metric) -> None:
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
        """Hidden states (N, T, width) of the large model for uncorrupted texts.

        Args:
            tokens: Tokens (N, T).
            length: Number of tokens of each text (N,); hidden states of padding are undefined.
        """
        valid = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        return self.encode(self.main, tokens, valid)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Corrupted texts: `new(true)` for a replaced token, `[token]` for a detected one."""
        tokens, length = self.texts(batch)
        output = self(tokens, length, generator=torch.Generator().manual_seed(0))
        if self.tokenizer is None or output.replaced_logits is None:
            return {}
        spell = self.tokenizer.token
        lines = []
        for row, size in enumerate(length.tolist()):
            words = []
            for true, seen, logit in zip(
                tokens[row, :size].tolist(),
                output.corrupt[row].tolist(),
                output.replaced_logits[row].tolist(),
            ):
                word = spell(seen).strip()
                if seen != true:
                    word += f"({spell(true).strip()})"
                words.append(f"[{word}]" if logit > 0 else word)
            lines.append(" ".join(words))
        return {"corrupted": lines}
