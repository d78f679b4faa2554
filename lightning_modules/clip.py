"""CLIP: contrastive training of an image encoder and a text encoder with a joint embedding space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
section 2.3 and Figure 3. The loss follows van den Oord et al., "Representation Learning with
Contrastive Predictive Coding", 2018. For the N pairs of a batch, gathered from all ranks:

    u_i = f(image_i) / |f(image_i)|,  v_i = g(caption_i) / |g(caption_i)|                      (1)
    logits_ij = exp(t) u_i' v_j                                                                (2)
    loss = 1/2 mean_i -log softmax_j(logits_ij)_i + 1/2 mean_j -log softmax_i(logits_ij)_j     (3)

CLIP models p(y|x), the probability of each of the given captions y for an image x, but not p(x). It
cannot generate images, but it can select the image that matches a caption best. Here CLIP ranks the
samples of DALL-E. It also evaluates them, by the share of samples whose own caption has the highest
score among 32 captions.

Symbols: f, g `image_encoder`, `text_encoder` · u, v of Eq. 1 `u`, `v` (N, D) · t `log_scale`,
initially ln(1 / 0.07), at most ln 100 (section 2.5).

Departures from the paper and from the released code (`openai/CLIP`, clip/model.py), which
contains the networks but does not train them:

- f: residual blocks (`nn/bottleneck.py`) with mean pooling. The paper and the released code have a
  ResNet with attention pooling or a ViT (section 2.4).
- Feature of a text: computed from the hidden state at its last token; texts have no [SOS] or [EOS]
  token. The paper and the released code use the hidden state at the [EOS] token, which the released
  code finds as the largest token id.
- Activation in g: GELU. The paper does not state it; the released code has x sigmoid(1.702 x).
- Initial weights of g: PyTorch's defaults in the blocks. In the released code they depend on width
  and depth.
- Adam (appendix F): betas (.9, .98) and epsilon 1e-6, which the paper has for the ViT. For the
  ResNet, which is convolutional like f, the paper has (.9, .999) and 1e-8.
- Dropout: in the residual branches of g. The paper and the released code have none.
- Augmentation: shifts by a few pixels (`data.shift`) and Gaussian blur of random width
  (`data.blur`). The paper has random crops. Without blur, the ranking accuracy is low on blurred
  images, such as those of a generator.
- Equal captions in a batch: the target of Eq. 3 is spread evenly over them. In the paper and the
  released code, equal captions are negatives of each other. Equal captions are rare in 400 million
  pairs and common in small data sets.
"""

import math
from typing import Any, cast

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

from common.errors import UserError
from datamodules.captions.encoding import caption_tokens
from datamodules.tokenizers.bpe import BPETokenizer
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.nn.bottleneck import bottlenecks, conv
from lightning_modules.nn.encoders import conv_grid
from lightning_modules.nn.transformer import Block, TransformerConfig
from lightning_modules.optim.parameter_groups import decay_groups
from lightning_modules.optim.schedules import cosine
from metrics.retrieval import RankingAccuracy, image_keys

RANKED = 8  # number of captions in the preview of ranked images, and of images for each of them


def contrastive_loss(u: Tensor, v: Tensor, scale: Tensor, tokens: Tensor) -> Tensor:
    """Return the contrastive loss of Eq. 3, a scalar.

    Args:
        u: Normalised features (N, D) of images.
        v: Normalised features (N, D) of the images' captions.
        scale: Scalar exp(t), the inverse temperature.
        tokens: Tokens (N, T) of the captions. Equal captions share the target evenly.
    """
    with torch.autocast(u.device.type, enabled=False):
        logits = scale * u @ v.T  # Eq. 2
        same = (tokens[:, None] == tokens).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class TextEncoder(nn.Module):
    """Text encoder g: a Transformer, and a linear layer on the hidden state at the last token."""

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
        config = TransformerConfig(width, heads, dropout, 0.0, "layer", False, "gelu")
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(text_length, width)
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(layers)])
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, features, bias=False)
        nn.init.normal_(self.embedding.weight, 0.0, 0.02)
        nn.init.normal_(self.positions.weight, 0.0, 0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the features (N, D), not normalised, of tokens (N, T) padded with 0."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        last = (tokens > 0).sum(1).sub(1).clamp(min=0)
        features: Tensor = self.output(
            self.norm(x[torch.arange(x.shape[0], device=x.device), last])
        )
        return features


class CLIP(GenerativeModule):
    """CLIP: contrastive pre-training on images and captions.

    Args:
        Data:
        image_shape: Shape (C, H, W) of an image; supplied by the data module.
        vocab_size: Number of text tokens; supplied by the data module.
        text_length: Maximum number of tokens of a caption; supplied by the data module.
        Network:
        channels: Number of channels of the image encoder at the image's resolution. It doubles each
            time the resolution is halved.
        downsamplings: Number of times that the image encoder halves the resolution. H and W must be
            multiples of 2^downsamplings.
        blocks: Number of residual blocks of the image encoder at each resolution.
        layers: Number of Transformer blocks of the text encoder.
        heads: Number of attention heads of the text encoder; must divide `width`.
        width: Width of the text encoder's residual stream.
        dropout: Dropout probability of the text encoder's residual branches.
        features: Dimension D of the joint embedding space (Eq. 1).
        Optimizer:
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Weight decay of matrices. Gains, biases and the learnt temperature are
            not decayed.
        warmup_steps: Number of updates over which the learning rate rises to its peak.
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
        channels: PositiveInt = 32,
        downsamplings: NonNegativeInt = 3,
        blocks: PositiveInt = 2,
        layers: PositiveInt = 3,
        heads: PositiveInt = 4,
        width: PositiveInt = 128,
        dropout: ClosedUnitInterval = 0.1,
        features: PositiveInt = 128,
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: NonNegativeFloat = 0.2,
        warmup_steps: NonNegativeInt = 200,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        conv_grid(image_shape, [0] * downsamplings)
        if channels % 4:
            raise UserError(
                f"model.channels must be a multiple of 4 (got {channels}), because each residual "
                "block has inner layers of a quarter of the channels"
            )
        widths = [channels * 2**group for group in range(downsamplings + 1)]
        gain = (len(widths) * blocks) ** -0.5
        self.image_encoder = nn.Sequential(
            conv(image_shape[0], channels, 3),
            bottlenecks(channels, widths, blocks, [3, 3, 3, 1], nn.MaxPool2d(2), gain),
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
        """Return the normalised features u (N, D) of images (N, C, H, W) in [-1, 1] (Eq. 1)."""
        return F.normalize(self.image_encoder(image).float(), dim=1)

    def text_features(self, tokens: Tensor) -> Tensor:
        """Return the normalised features v (N, D) of captions, given as tokens (N, T) (Eq. 1)."""
        return F.normalize(self.text_encoder(tokens).float(), dim=1)

    # Training

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        tokens = batch["tokens"]
        u, v = self.image_features(batch["image"]), self.text_features(tokens)
        if self.trainer.world_size > 1:  # gather the pairs of all ranks, with gradients
            u, v = (
                cast(Tensor, self.all_gather(part, sync_grads=True)).flatten(0, 1)
                for part in (u, v)
            )
            tokens = cast(Tensor, self.all_gather(tokens)).flatten(0, 1)
        loss = contrastive_loss(u, v, self.log_scale.exp(), tokens)
        return {"loss": loss, "scale": self.log_scale.exp()}

    def configure_optimizers(self) -> Any:
        h = self.hparams
        adam = torch.optim.AdamW(
            decay_groups(self.parameters(), h.weight_decay),  # no decay of gains, biases and t
            h.learning_rate,
            (0.9, 0.98),
            eps=1e-6,
            fused=True,
        )

        def limit(*_: Any) -> None:
            self.log_scale.data.clamp_(max=math.log(100))  # before a checkpoint can be saved

        adam.register_step_post_hook(limit)
        return [adam], [cosine(adam, self.total_updates, h.warmup_steps)]

    # Evaluation

    def _evaluate(self, batch: dict[str, Any], stage: str) -> None:
        u, v = self.image_features(batch["image"]), self.text_features(batch["tokens"])
        # The pairs of one rank only: with several ranks, the loss of training has more negatives.
        loss = contrastive_loss(u, v, self.log_scale.exp(), batch["tokens"])
        self.log(f"{stage}/loss", loss, batch_size=len(u), sync_dist=True)
        self.ranking.update(u, v, batch["tokens"], image_keys(batch["image"]), batch["index"])
        self.log_metric(f"{stage}/ranking", self.ranking)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    # Ranking

    @sampling
    def features(self, what: Tensor | list[str]) -> Tensor:
        """Return the normalised features (N, D) of images or captions (Eq. 1).

        Args:
            what: Images (N, C, H, W) in [-1, 1], or N captions.

        Raises:
            UserError: If the images differ in shape from the training images, or a caption cannot
                be encoded.
        """
        if isinstance(what, Tensor):
            shape = list(what.shape[1:])
            if shape != self.hparams.image_shape:
                raise UserError(
                    f"this CLIP encodes images of shape {self.hparams.image_shape}, not {shape}: "
                    "train a CLIP on images of this shape"
                )
            return self.image_features(what.to(self.device))
        return self.text_features(self.tokenize(what))

    def tokenize(self, captions: list[str]) -> Tensor:
        """Return the tokens (N, T) of N captions.

        Raises:
            UserError: If a caption cannot be encoded.
        """
        tokens = caption_tokens(self.known_tokenizer(), captions, self.hparams.text_length)
        return tokens.to(self.device)

    def score(self, image: Tensor, captions: list[str]) -> Tensor:
        """Return cosine similarities (N, M) of images (N, C, H, W) in [-1, 1] and M captions."""
        return self.features(image) @ self.features(captions).T

    def networks(self) -> dict[str, ExportedNetwork]:
        image = torch.zeros(2, *self.hparams.image_shape)
        tokens = torch.ones(2, self.hparams.text_length, dtype=torch.int64)
        images, texts = (
            Method(self.image_encoder, self.image_features),
            Method(self.text_encoder, self.text_features),
        )
        return {
            "image_encoder": ExportedNetwork(images, {"image": image}, ("features",)),
            "text_encoder": ExportedNetwork(texts, {"tokens": tokens}, ("features",)),
        }

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Rank the images of the batch for eight of its captions, and captions for each image.

        The best eight images of a caption are in one row, with their scores. Each line of text has
        the best three captions of an image; "*" marks the image's own caption.
        """
        if self.tokenizer is None:
            return {}
        scores = self.image_features(batch["image"]) @ self.text_features(batch["tokens"]).T
        captions = [self.tokenizer.decode(row) for row in batch["tokens"].tolist()]
        lines = []
        for number, row in enumerate(scores):
            best = row.topk(min(3, len(row))).indices.tolist()
            marks = ["*" if other == number else "" for other in best]
            parts = [f"{mark}{captions[i]} {row[i]:.2f}" for mark, i in zip(marks, best)]
            lines.append("; ".join(parts))
        chosen = list(range(0, len(captions), max(1, len(captions) // RANKED)))[:RANKED]
        best_scores, best_images = scores.T[chosen].topk(min(RANKED, len(scores)))
        return {
            "ranked_images": batch["image"][best_images],  # (R, N, C, H, W)
            "ranked_images/rows": [captions[number] for number in chosen],
            "ranked_images/captions": [
                f"{score:.2f}{' (own)' if image == number else ''}"
                for number, row, of_row in zip(chosen, best_images.tolist(), best_scores.tolist())
                for image, score in zip(row, of_row)
            ],
            "captions": lines,
            "captions/rows": ["an image per line", "* its own caption"],
        }
