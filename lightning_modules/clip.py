"""CLIP: does the picture fit the words? Two networks that put pictures and captions into one space,
by telling pairs from others.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
section 2.3 and Figure 3; the loss is van den Oord et al., "Representation Learning with Contrastive
Predictive Coding", 2018. For N pairs of a batch, over all ranks,

    u_i = f(picture_i) / |f(picture_i)|,  v_i = g(caption_i) / |g(caption_i)|                     (1)
    logits_ij = exp(t) u_i' v_j                                                                  (2)
    loss = 1/2 mean_i -log softmax_j(logits_ij)_i + 1/2 mean_j -log softmax_i(logits_ij)_j       (3)

It models p(y|x) among the captions at hand, not p(x): it cannot draw, but it can say which of many
drawings fits best, which is how DALL-E's pictures are ranked, and how often a drawing's own caption
fits it best among 32, which is how they are measured here.

| paper | here |
|---|---|
| f, g | image_encoder, text_encoder |
| t, at most ln 100, from ln(1 / 0.07) (section 2.5) | log_scale |

The released code (`openai/CLIP`, clip/model.py) has the networks and no training. Where the three
differ:

| | paper | released code | here |
|---|---|---|---|
| f | ResNet with attention pooling, or ViT (section 2.4) | the same | residual blocks (`nn/bottleneck.py`), mean pooling |
| feature of a text | at its [EOS] token | at the largest token id, which is [EOS] | at its last token; no [SOS], no [EOS] |
| activation in g | not stated | QuickGELU, x sigmoid(1.702 x) | GELU |
| start of g | not stated | embeddings N(0, .02), positions N(0, .01); blocks by width, depth | blocks as PyTorch |
| Adam (appendix F) | ResNet (.9, .999), 1e-8; ViT (.9, .98), 1e-6 | none | as for ViT, though f is convolutional |
| dropout | none stated | none | of the branches of g |
| augmentation | random crops | none | shifts by up to `shift` pixels |
| equal captions in a batch | each counts as a negative of the others | the same | the target of Eq. 3 is spread evenly over them |

Equal captions are rare in 400 million pairs and common in small data sets.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from datamodules.captions.encoding import caption_tokens
from datamodules.tokenizers.bpe import BPETokenizer
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.nn.bottleneck import bottlenecks, conv
from lightning_modules.nn.encoders import conv_grid
from lightning_modules.nn.transformer import Block, TransformerConfig
from lightning_modules.optim.parameter_groups import decay_groups
from lightning_modules.optim.schedules import cosine
from metrics.retrieval import RankingAccuracy, image_keys


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, tokens: Tensor) -> Tensor:
    """Eq. 3 of N normalised features each (N, D), where captions `tokens` (N, T) that are equal
    answer for each other.
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = scale * images @ texts.T  # Eq. 2
        same = (tokens[:, None] == tokens).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class TextEncoder(nn.Module):
    """g: a Transformer over the tokens, whose last one speaks for all."""

    def __init__(
        self,
        vocab_size: int,
        text_length: int,
        layers: int,
        heads: int,
        width: int,
        dropout: float,
        features: int,
    ) -> None:
        super().__init__()
        shape = TransformerConfig(width, heads, dropout, 0.0, "layer", False, "gelu")
        self.embedding, self.positions = (
            nn.Embedding(vocab_size, width),
            nn.Embedding(text_length, width),
        )
        self.blocks = nn.ModuleList([Block(shape, layer) for layer in range(layers)])
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, features, bias=False)
        nn.init.normal_(self.embedding.weight, 0.0, 0.02)
        nn.init.normal_(self.positions.weight, 0.0, 0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, D) of tokens (N, T), padded with 0."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        last = (tokens > 0).sum(1).sub(1).clamp(min=0)
        features: Tensor = self.output(self.norm(x[torch.arange(len(x), device=x.device), last]))
        return features


class CLIP(GenerativeModule):
    """Contrastive pre-training of pictures and captions.

    Args:
        image_shape: (C, H, W), a fact of the data.
        vocab_size: a fact of the data.
        text_length: most tokens of a caption, a fact of the data.
        channels: of the first group of the picture's blocks, doubled by each further one.
        downsamplings: times that the picture is halved.
        blocks: of each group.
        layers: of the text's Transformer.
        heads: of its attention.
        width: of its residual stream.
        dropout: of its branches.
        features: D of Eq. 1.
        shift: pixels by which training pictures are moved at random, at most, on their own edges.
        learning_rate: of AdamW at its peak.
        weight_decay: of matrices.
        warmup_steps: updates on the way up.
    """

    modality = "embeddings"
    scores_captions = True
    monitor = ("val/ranking", "max")
    tokenizer: BPETokenizer | None

    def __init__(
        self,
        image_shape: list[int],
        vocab_size: int,
        text_length: int,
        channels: int = 32,
        downsamplings: int = 3,
        blocks: int = 2,
        layers: int = 3,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.1,
        features: int = 128,
        shift: int = 2,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.2,
        warmup_steps: int = 200,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        conv_grid(image_shape, [0] * downsamplings)
        widths = [channels * 2**group for group in range(downsamplings + 1)]
        self.image_encoder = nn.Sequential(
            conv(image_shape[0], channels, 3),
            bottlenecks(
                channels,
                widths,
                blocks,
                [3, 3, 3, 1],
                nn.MaxPool2d(2),
                (len(widths) * blocks) ** -0.5,
            ),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LayerNorm(widths[-1]),
            nn.Linear(widths[-1], features, bias=False),
        )
        self.text_encoder = TextEncoder(
            vocab_size, text_length, layers, heads, width, dropout, features
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.ranking = RankingAccuracy()

    def image_features(self, image: Tensor) -> Tensor:
        """u of Eq. 1, (N, D), of pictures (N, C, H, W) in [-1, 1]."""
        return F.normalize(self.image_encoder(image).float(), dim=1)

    def text_features(self, tokens: Tensor) -> Tensor:
        """v of Eq. 1, (N, D), of tokens (N, T)."""
        return F.normalize(self.text_encoder(tokens).float(), dim=1)

    def _loss(self, image: Tensor, tokens: Tensor) -> Tensor:
        u, v = self.image_features(image), self.text_features(tokens)
        if (
            self.trainer.world_size > 1
        ):  # pairs of all ranks are told apart; gradients flow back to each
            u, v = (
                cast(Tensor, self.all_gather(part, sync_grads=True)).flatten(0, 1)
                for part in (u, v)
            )
            tokens = cast(Tensor, self.all_gather(tokens)).flatten(0, 1)
        return contrastive_loss(u, v, self.log_scale.exp(), tokens)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        loss = self._loss(self._shifted(batch["image"]), batch["tokens"])
        return {"loss": loss, "scale": self.log_scale.exp()}

    def _shifted(self, image: Tensor) -> Tensor:
        """Each picture moved by up to `shift` pixels."""
        most, (height, width) = self.hparams.shift, image.shape[-2:]
        if not most:
            return image
        moved = F.pad(image, (most,) * 4, mode="replicate")
        down, right = torch.randint(2 * most + 1, (2, len(image), 1), device=image.device)
        rows = (torch.arange(height, device=image.device) + down)[:, None, :, None]
        columns = (torch.arange(width, device=image.device) + right)[:, None, None, :]
        number = torch.arange(len(image), device=image.device)[:, None, None, None]
        return moved[
            number, torch.arange(image.shape[1], device=image.device)[:, None, None], rows, columns
        ]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One update, and the limit of section 2.5: before a checkpoint of the update can be
        written.
        """
        super().optimizer_step(*args, **kwargs)
        self.log_scale.data.clamp_(max=math.log(100))

    def configure_optimizers(self) -> Any:
        h = self.hparams
        adam = torch.optim.AdamW(
            decay_groups(self.parameters(), h.weight_decay),
            h.learning_rate,
            (0.9, 0.98),
            eps=1e-6,
            fused=True,
        )
        return [adam], [cosine(adam, self.total_updates, h.warmup_steps)]

    # Figures

    def _measure(self, batch: dict[str, Any], stage: str) -> None:
        u, v = self.image_features(batch["image"]), self.text_features(batch["tokens"])
        loss = contrastive_loss(u, v, self.log_scale.exp(), batch["tokens"])
        self.log(f"{stage}/loss", loss, batch_size=len(u), sync_dist=True)
        self.ranking.update(u, v, batch["tokens"], image_keys(batch["image"]), batch["index"])
        self.log_metric(f"{stage}/ranking", self.ranking)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "test")

    # Ranking

    @sampling
    def features(self, what: Tensor | list[str]) -> Tensor:
        """Eq. 1, (N, D), of pictures (N, C, H, W) in [-1, 1] or of N captions.

        Raises:
            UserError: if the pictures are of another size, or a caption cannot be read.
        """
        if isinstance(what, Tensor):
            shape = list(what.shape[1:])
            if shape != self.hparams.image_shape:
                raise UserError(
                    f"this CLIP knows pictures of {self.hparams.image_shape}, not {shape}: train one on these"
                )
            return self.image_features(what.to(self.device))
        return self.text_features(self.read(what))

    def read(self, captions: list[str]) -> Tensor:
        """Tokens (N, T) of captions; complains as `encode_caption`."""
        return caption_tokens(self.known_tokenizer(), captions, self.hparams.text_length).to(
            self.device
        )

    def score(self, image: Tensor, captions: list[str]) -> Tensor:
        """Cosine (N, M) of pictures (N, C, H, W) in [-1, 1] and M captions."""
        return self.features(image) @ self.features(captions).T

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """For each picture the three captions of the batch that fit it best, its own marked."""
        scores = self.image_features(batch["image"]) @ self.text_features(batch["tokens"]).T
        if self.tokenizer is None:
            return {}
        captions = [self.tokenizer.decode(row) for row in batch["tokens"].tolist()]
        lines = []
        for number, row in enumerate(scores):
            best = row.topk(min(3, len(row))).indices.tolist()
            lines.append(
                "; ".join(
                    f"{'*' if other == number else ''}{captions[other]} {row[other]:.2f}"
                    for other in best
                )
            )
        return {"captions": lines}
