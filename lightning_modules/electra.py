"""ELECTRA: a Transformer encoder pre-trained to detect which tokens a small generator replaced.

Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", ICLR
2020.

    m: ceil(.15 n) different random positions in x of length n;   x_masked = x with [MASK] at m  (1)
    x_i^ ~ p_G(x_i | x_masked) for i in m;                      x_corrupt = x with x^ at m       (2)
    L_MLM = mean over m of -log p_G(x_i | x_masked)                                              (3)
    L_Disc = mean over all i of the cross-entropy of D(x_corrupt, i) with [x_corrupt_i != x_i]   (4)
    L = L_MLM + lambda L_Disc                                                                    (5)

ELECTRA is not a GAN. The generator is trained by maximum likelihood (Eq. 3), not adversarially: a
sampled token has no gradient, so the discriminator's loss does not reach the generator. There is no
noise input, and a sampled token that equals the true token counts as original. The discriminator
learns from every token, whereas a masked language model learns from 15 % of the tokens. After
pre-training, the generator is discarded.

Training: each update is a step on Eq. 5, of AdamW by default. The learning rate has a linear
warm-up and a linear decay to 0. The method `replace` samples the replacement tokens. ELECTRA does
not generate texts; `preview` marks replaced tokens and detected tokens in corrupted texts.

The main encoder is the encoder that remains after pre-training: in Eq. 4, the discriminator.
`objective` selects an experiment of Table 5, which sets the loss of the main encoder:

| objective | loss of the main encoder |
|---|---|
| electra | Eq. 4: detect replaced tokens at all positions |
| electra_15 | Eq. 4 at the positions m only |
| all_tokens | predict every token of x from x_corrupt, with a gate that copies the input |
| replace_mlm | predict the tokens at m from x_corrupt |
| mlm | predict the tokens at m from x_masked, without a generator (BERT) |

| paper | here |
|---|---|
| x, m, x_masked, x_corrupt | tokens, chosen, masked, corrupt: (N, T) |
| generator, a quarter of the discriminator's size | `Encoder` of width / 4 |
| tied embeddings of both encoders | embedding, positions |
| lambda | lambda_disc |

Where the paper, the released code (google-research/electra) and this file differ:

| | paper | released code | here |
|---|---|---|---|
| D is the probability that a token is | original | replaced | replaced |
| size of m | ceil(.15 n) | round(.15 n), at most 19 of 128 | ceil(.15 n) of ordinary tokens |
| m is sampled | without repetition | with repetition | without repetition |
| at m, x_masked has | [MASK] | [MASK] in 85 %, x in 15 % | [MASK] |
| at m, BERT's x_masked has | [MASK] 80 %, x 10 %, random 10 % | as ELECTRA | [MASK] |
| L_MLM is divided by | size of m | size of m | 15 % of all tokens (1) |
| dropout of attention weights | .1 | .1 | 0, for PyTorch's fused kernel |
| Adam | with weight decay | with weight decay, no bias correction | AdamW |
| learning rate at update s of S | linear | min(1, s / w) (1 - s / S) | as the paper (2) |
| epsilon of layer norms | - | 1e-12 | 1e-5 |
| format of a text | [CLS], [SEP], segments, WordPiece | as the paper | context or line, BPE |

(1) Both losses then depend on one count only, the number of tokens of all ranks. The logged loss of
the generator is the mean over m times ceil(.15 n) / (.15 n), 1.18 for n = 17.
(2) The factor is s / w during the warm-up of w updates, then (S - s) / (S - w).

Options that the paper does not have: rotary positions, pre-norm blocks, and Muon for the matrices
of the blocks (`optim/muon.py`). With little training, an encoder learns the frequencies of the
tokens only; these options make this phase shorter (docs/systems/electra.md).
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

from common.errors import UserError
from datamodules.tokenizers.base import RECORD
from lightning_modules.core.modes import sampling
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.core.tokens import TokenModule
from lightning_modules.nn.transformer import Block, TransformerConfig
from lightning_modules.optim.muon import muon_or_adamw
from lightning_modules.optim.parameter_groups import decay_groups
from metrics.probe import swapped_words_probe

MASK_SHARE = 0.15
MEANS = ("loss", "loss_main", "loss_generator", "generator_accuracy", "replaced", "baseline")
Objective = Literal["electra", "electra_15", "all_tokens", "replace_mlm", "mlm"]


class Encoder(nn.Module):
    """Bidirectional Transformer whose input is embedded tokens.

    Args:
        embedding: Size E of the embeddings.
        width: Width of the residual stream.
        layers: Number of Transformer blocks.
        heads: Number of attention heads.
        dropout: Dropout probability of the output of each residual branch.
        rotary: Whether to rotate queries and keys by their positions.
        norm_first: Whether to normalise the input of each residual branch, instead of the sum.
    """

    def __init__(
        self,
        embedding: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        rotary: bool,
        norm_first: bool,
    ) -> None:
        super().__init__()
        config = TransformerConfig(
            width, heads, dropout, 0.0, "layer", rotary, "gelu", norm_first=norm_first
        )
        self.input = nn.Linear(embedding, width)
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(layers)])
        # Without `norm_first`, the last block ends with a norm.
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Compute hidden states (N, T, width) of embedded tokens.

        Args:
            x: Token embeddings (N, T, E).
            mask: Mask (N, 1, 1, T), True at tokens and False at padding.
        """
        x = self.input(x)
        for block in self.blocks:
            x = block(x, None, mask)
        return self.norm(x)


class Output(NamedTuple):
    """Losses and intermediate results of one batch; tensors have shape (N, T).

    Attributes:
        valid: Mask, True at tokens and False at padding.
        chosen: Mask, True at the positions m of Eq. 1.
        corrupt: Input of the main encoder: x_corrupt, or x_masked for "mlm".
        generator_nll: Generator loss -log p_G of the true tokens at m, and 0 elsewhere (Eq. 3).
        main_nll: Loss of the main encoder at each position, and 0 at positions without a loss.
        main_share: Fraction of the tokens at which the main encoder has a loss, 1 or MASK_SHARE.
        replaced_logits: Logits of the probability that a token was replaced; None for objectives
            without a discriminator.
    """

    valid: Tensor
    chosen: Tensor
    corrupt: Tensor
    generator_nll: Tensor
    main_nll: Tensor
    main_share: float
    replaced_logits: Tensor | None


def true_first(mask: Tensor, size: int) -> Tensor:
    """Return flat positions (size,) of a mask, with all True positions before False positions.

    Indexing with the mask itself is slower, because the host waits until the device has counted
    the True values.

    Args:
        mask: Boolean mask of any shape.
        size: Number of positions to return; at least the number of True values.
    """
    return (~mask).flatten().byte().argsort(stable=True)[:size]


def spread(values: Tensor, at: Tensor, mask: Tensor) -> Tensor:
    """Return a tensor of the mask's shape with values (M,) at the flat positions `at` (M,).

    All elements where the mask is False are 0.
    """
    flat = values.new_zeros(mask.numel()).index_copy(0, at, values)
    return flat.view(mask.shape).masked_fill(~mask, 0)


class ELECTRA(TokenModule):
    """Transformer encoder, pre-trained with one of the objectives of the paper's Table 5.

    Args:
        Data:
        vocab_size: Number V of tokens in the vocabulary, without [MASK]; supplied by the data
            module.
        context: Maximum length of a text in tokens, minus 1; must be at least `data.context`.
        special_ids: Ids of special tokens, which are never masked; supplied by the data module if
            it has special tokens.
        Objective:
        objective: Pre-training objective (Table 5 of the paper): detect replaced tokens at all
            positions (`electra`) or at the chosen 15 % (`electra_15`); or predict all tokens
            (`all_tokens`), replaced tokens (`replace_mlm`) or masked tokens (`mlm`).
        lambda_disc: Weight of the discriminator's loss in the total loss (Eq. 5).
        Network:
        layers: Number of Transformer blocks in the main encoder and in the generator.
        heads: Number of attention heads of the main encoder. The generator has a quarter as many.
        width: Width of the main encoder's residual stream. The generator is a quarter as wide.
        embedding: Size E of the token and position embeddings.
        dropout: Dropout probability of the embeddings and of the output of each residual branch.
        positions: Type of position encoding: `learned` (embeddings), as in the paper, or `rotary`
            (rotation of queries and keys).
        norm_first: Normalise the input of each residual branch (pre-norm). False normalises after
            the addition, as in the paper (post-norm).
        Optimizer:
        optimizer: Type of optimizer: `adamw` for all parameters, or `muon` for the matrices of the
            blocks and AdamW for all other parameters.
        learning_rate: Peak learning rate. With Muon, it applies to the matrices of the blocks only.
        embedding_rate: Peak learning rate of all other parameters with Muon; unused with AdamW.
        warmup_steps: Number of updates over which the learning rate rises to its peak.
        weight_decay: Decoupled weight decay of matrices and embeddings. Gains and biases are
            not decayed.
    """

    modality = "embeddings"
    token_score = "probability that the token was replaced"
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
        positions: Literal["learned", "rotary"] = "learned",
        norm_first: bool = False,
        optimizer: Literal["adamw", "muon"] = "adamw",
        learning_rate: PositiveFloat = 5e-4,
        embedding_rate: PositiveFloat = 3e-3,
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
        self.positions = nn.Embedding(context + 1, embedding) if positions == "learned" else None
        self.norm = nn.LayerNorm(embedding)
        shared = (dropout, positions == "rotary", norm_first)
        self.main = Encoder(embedding, width, layers, heads, *shared)
        self.generator = None
        if objective != "mlm":
            self.generator = Encoder(embedding, width // 4, layers, max(1, heads // 4), *shared)
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
        """Build the layers of `word_logits` that map hidden states to the size of embeddings."""
        return nn.Sequential(nn.Linear(width, embedding), nn.GELU(), nn.LayerNorm(embedding))

    def word_logits(self, head: nn.Module, hidden: Tensor) -> Tensor:
        """Return token logits (..., V) of hidden states (..., width)."""
        return F.linear(head(hidden), self.embedding.weight[:-1], self.bias)

    def encode(self, encoder: Encoder, tokens: Tensor, valid: Tensor) -> Tensor:
        """Return hidden states (N, T, width) of tokens (N, T); `valid` is False at padding."""
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        x = self.norm(x)
        x = F.dropout(x, self.hparams.dropout, self.training)
        hidden: Tensor = encoder(x, valid[:, None, None])
        return hidden

    # Training

    def choose(self, valid: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the mask m (N, T) of Eq. 1, True at 15 % of the valid positions, at random."""
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
            at: Flat positions (M,) at which to compute logits; must include all chosen positions.
            generator: Random generator on the CPU; None uses the global generator.

        Returns:
            x_corrupt (N, T) of Eq. 2, and the generator's loss (N, T) of Eq. 3, which is 0 at
            positions that are not chosen.
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
            count: Sum of `length`, with which output layers skip padding; None includes padding.
            generator: Random generator on the CPU; None uses the global generator.
        """
        count = tokens.numel() if count is None else count
        valid = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        chosen = self.choose(valid & self.maskable[tokens], generator)
        at_chosen = true_first(chosen, 15 * count // 100 + len(tokens))  # rounded up in each row
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
        """Compute -log p of true tokens (M,) from hidden states (M, width).

        `corrupt` (M,) are the input tokens at the same positions.
        """
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
        """Return the total loss and the losses of both encoders, for a batch of `count` tokens."""
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
        betas = (0.9, 0.999)
        if h.optimizer == "muon":
            encoders = [one for one in (self.main, self.generator) if one is not None]
            blocks = nn.ModuleList([encoder.blocks for encoder in encoders])
            rates = h.learning_rate, h.embedding_rate
            optimizer = muon_or_adamw("muon", self, blocks, *rates, betas, h.weight_decay)
        else:
            groups = decay_groups(self.parameters(), h.weight_decay)
            optimizer = torch.optim.AdamW(groups, h.learning_rate, betas, eps=1e-6, fused=True)
        warmup, total = h.warmup_steps, self.total_updates

        def factor(step: int) -> float:
            """Return the factor of the learning rate after `step` updates.

            It rises linearly to 1, then falls linearly to 0 at the last update.
            """
            if step < warmup:
                return (step + 1) / warmup
            return max(0.0, (total - step) / max(1, total - warmup))

        return [optimizer], [{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}]

    @staticmethod
    def texts(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the tokens of a batch (N, T), and the number of tokens of each text (N,)."""
        return batch["tokens"], batch["length"] + 1

    def target_count(self, batch: dict[str, Any]) -> int:
        """Return the number of tokens, with first tokens of texts, which `num_targets` omits."""
        return int(batch["num_targets"]) + len(batch["tokens"])

    def _uniform(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """Sample uniform numbers in [0, 1); None uses the global random generator."""
        if generator is None:
            return torch.rand(shape, device=self.device)
        return torch.rand(shape, generator=generator).to(self.device)

    # Metrics

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        """Log losses, detection metrics and `baseline`, the accuracy if no token is detected."""
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

    def networks(self) -> dict[str, ExportedNetwork]:
        """Return the discriminator: the probability that each token is replaced (Eq. 4)."""
        if self.word_head is not None:
            return {}

        inputs = {
            "tokens": torch.ones(2, 4, dtype=torch.int64),
            "length": torch.tensor([4, 3]),
        }
        sizes = {"tokens": {0: "batch", 1: "length"}, "length": {0: "batch"}}
        network = ExportedNetwork(
            Method(self, self.replaced_probability), inputs, ("probability",), sizes
        )
        return {"discriminator": network}

    def replaced_probability(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Return the probability (N, T) that each token is replaced, D in Eq. 4.

        Args:
            tokens: Tokens (N, T).
            length: Number of tokens of each text (N,). Probabilities of padding are undefined.
        """
        valid = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        logits: Tensor = self.discriminator_head(self.encode(self.main, tokens, valid))
        return logits[..., 0].sigmoid()

    @sampling
    def score_tokens(self, text: str) -> list[tuple[str, float]]:
        """Return the tokens of a text, each with the probability that it is replaced.

        Raises:
            UserError: If the system has no discriminator, the text has a character that the
                tokenizer cannot encode, or the text is longer than the context.
        """
        if self.word_head is not None:
            raise UserError(
                f"a model with objective {self.hparams.objective} does not detect replaced "
                "tokens: train one with --model.objective electra"
            )
        tokenizer = self.known_tokenizer()
        bos, eos = ([tokenizer.special(one)] if tokenizer.specials else [] for one in RECORD[1:])
        ids = [*bos, *tokenizer.encode(text.strip()).tolist(), *eos]
        if not text.strip():
            raise UserError("the text is empty: give a longer text")
        longest = self.hparams.context + 1
        if len(ids) > longest:
            raise UserError(
                f"the text has {len(ids)} tokens, and the model reads at most {longest}: give a "
                "shorter text"
            )
        tokens = torch.tensor([ids], device=self.device)
        scores = self.replaced_probability(tokens, torch.tensor([len(ids)], device=self.device))
        pairs = list(zip(map(tokenizer.token, ids), scores[0].tolist()))
        return pairs[len(bos) : len(pairs) - len(eos)]

    @sampling
    def represent(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Return hidden states (N, T, width) of the main encoder for uncorrupted texts.

        Args:
            tokens: Tokens (N, T).
            length: Number of tokens of each text (N,). Hidden states of padding are undefined.
        """
        valid = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        return self.encode(self.main, tokens, valid)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Return corrupted texts, in which replaced tokens and detected tokens are marked.

        `new(true)` is a replaced token with the true token, and `[token]` is a detected token.
        """
        tokens, length = self.texts(batch)
        output = self(tokens, length, generator=torch.Generator().manual_seed(0))
        if self.tokenizer is None or output.replaced_logits is None:
            return {}
        tokenizer, lines = self.tokenizer, []

        def spell(number: int) -> str:
            """Return a token without spaces around it; a token of blanks has visible blanks."""
            text = tokenizer.token(number)
            return text.strip() or text.replace(" ", "\u2423").replace("\n", "\\n")

        for row, size in enumerate(length.tolist()):
            words = []
            for true, seen, logit in zip(
                tokens[row, :size].tolist(),
                output.corrupt[row].tolist(),
                output.replaced_logits[row].tolist(),
            ):
                word = spell(seen)
                if seen != true:
                    word += f"({spell(true)})"
                words.append(f"[{word}]" if logit > 0 else word)
            lines.append(" ".join(words))
        legend = ["new(true): replaced token", "[token]: detected as replaced"]
        return {"corrupted": lines, "corrupted/rows": legend}
