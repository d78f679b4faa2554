"""DALL-E: text-to-image generation by a Transformer over one sequence of text and image tokens.

Ramesh et al., "Zero-Shot Text-to-Image Generation", ICML 2021, section 2.2 and appendix B. A frozen
discrete VAE (`dvae.py`) encodes the image x as M image tokens z. The caption y is T text tokens.

    log p(x, y) >= E_q(z|x)[log p(x|y, z)] + log p(y) + log p(z|y)                             (1)
    p(y) p(z|y) = prod_t p(y_t | y_<t) prod_m p(z_m | y, z_<m)                                 (2)
    loss = 1/8 mean_t -log p(y_t | y_<t) + 7/8 mean_m -log p(z_m | y, z_<m)                    (3)
    row: j <= m and m - j <= w;  column: j <= m and w divides m - j;
        conv: j <= m and j is in the kernel around m                                           (4)
    log p = log p(z_m | none) + s * (log p(z_m | y) - log p(z_m | none))                       (5)

This system models the last two terms of Eq. 1. Each text position t has a padding token of its own,
used if the caption ends before t. Padding tokens are learnt and predicted like other tokens. Text
and image tokens have separate output heads. This is equal to one softmax over all tokens in which
image tokens are masked at text positions, and text tokens at image positions.

Eq. 4 defines the image tokens j to which image token m attends. Image tokens are numbered in raster
order on a grid of width w. Each image token also attends to all text (Figure 11). With "sparse"
attention, the last layer has the conv pattern. The other layers have the column pattern if
(layer - 2) mod 4 = 0, and the row pattern otherwise. With "dense" attention, each token
attends to all previous tokens.

Eq. 5 is classifier-free guidance (Ho and Salimans 2021); "none" is a text of padding tokens only.
Training replaces some captions by this text, so that the model learns p(z_m | none). A value of
s > 1 extrapolates beyond p(z_m | y).

Symbols: y `text` (N, T), which is `tokens` (N, T) with padding token V + t for a 0 at position t ·
z `image_tokens` (N, M), where M = h * w and (h, w) is `grid` · s `guidance`. The paper's BPE
dropout is the option `data.bpe_dropout`. The paper's reranking is `sample.py --ranker`, with a
checkpoint of `clip.py`.

Departures from the paper (the released code, `openai/DALL-E`, contains the networks of the discrete
VAE, but not the Transformer):

- Size (section 2.2): set by the configuration. The paper has 64 layers with 62 heads of width 64,
  256 text tokens, and 1,024 image tokens from a codebook of 8,192.
- Optimizer (appendix B.2): the paper's AdamW (learning rate 4.5e-4, betas .9 and .96, weight decay
  .045), or Muon. The learning rate follows a cosine; the paper halves it by hand on plateaus.
- Averaged weights: none. The paper averages weights once in 25 updates, with a decay of .99
  (appendix B.2).
- Dropout: in residual branches and embeddings. The paper does not state its dropout.
- Augmentation: shifts of a few pixels (`data.shift`); each batch is then encoded when it is used.
  The paper has random crops. With `data.captions_only`, all images are encoded once, without
  augmentation.
- Padding tokens: part of the loss of Eq. 3. The paper does not state whether they are.
- Guidance: captions are dropped with probability `caption_dropout`; dropped text has no loss. The
  paper has no guidance.
- Sampling (section 2.6): temperature .7 and s = 2 by default. The paper has temperature 1 and
  takes the best of 512 samples by CLIP.
"""

from itertools import product
from math import prod
from typing import Any, Literal, cast

import torch
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from datamodules.captions.encoding import caption_tokens
from datamodules.samplers import mix_seed
from datamodules.tokenizers.bpe import BPETokenizer
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.decoding.filters import FiniteNonNegative, NucleusProbability, SamplingConfig
from lightning_modules.decoding.generation import DecodableModel, Guided, generate
from lightning_modules.decoding.kv_cache import KVCache
from lightning_modules.dvae import load_discrete_vae
from lightning_modules.nn.transformer import Block, TransformerConfig, init_gpt
from lightning_modules.optim.muon import muon_or_adamw
from lightning_modules.optim.schedules import cosine
from metrics.language import TokenNLL

Pattern = Literal["row", "column", "conv"]
EMBEDDING_RATE = 2e-3  # peak learning rate of AdamW for the parameters that Muon does not update


def image_mask(pattern: Pattern, height: int, width: int, kernel: int) -> Tensor:
    """Return the causal attention mask between the image tokens of a grid (Eq. 4).

    Args:
        pattern: Attention pattern, "row", "column" or "conv".
        height: Height h of the grid, which has M = h * w image tokens in raster order.
        width: Width w of the grid.
        kernel: Side of the conv pattern, an odd number. The pattern wraps around at the left and
            right sides of the grid.

    Returns:
        Boolean mask (M, M); entry (m, j) is True where image token m attends to image token j.
    """
    position = torch.arange(height * width)
    distance = position[:, None] - position
    if pattern == "row":
        return (distance >= 0) & (distance <= width)
    if pattern == "column":
        return (distance >= 0) & (distance % width == 0)
    reach = kernel // 2
    offsets = product(range(reach + 1), range(-reach, reach + 1))
    inside = [down * width + right for down, right in offsets]
    return torch.isin(distance, torch.tensor([offset for offset in inside if offset >= 0]))


def layer_pattern(layer: int, layers: int) -> Pattern:
    """Return the sparse attention pattern of layer 1, 2, ..., `layers` (appendix B.1)."""
    return "conv" if layer == layers else "column" if (layer - 2) % 4 == 0 else "row"


def sequence_mask(mask: Tensor, text_length: int) -> Tensor:
    """Return the attention mask (T + M, T + M) of [BOS], text and all image tokens but the last.

    Attention between text tokens is causal. Image tokens attend to all text tokens. Image
    token m attends to image token j where the boolean `mask` (M, M) is True at (m, j).
    """
    length = text_length + len(mask)
    whole = torch.ones(length, length, dtype=torch.bool).tril()
    whole[text_length + 1 :, text_length + 1 :] = mask[:-1, :-1]
    return whole


class DALLE(GenerativeModule):
    """DALL-E: text-to-image generation with the image tokens of a discrete VAE.

    Args:
        Inputs:
        dvae: Path of a discrete VAE's checkpoint, or hyper-parameters of a new discrete VAE. A
            checkpoint of DALL-E contains its discrete VAE.
        image_shape: Shape (C, H, W) of an image; supplied by the data module.
        vocab_size: Number V of text tokens; supplied by the data module.
        text_length: Maximum number T of tokens of a caption; supplied by the data module.
        Network:
        layers: Number of Transformer blocks.
        heads: Number of attention heads; must divide `width`.
        width: Width of the residual stream.
        dropout: Dropout probability of residual branches and embeddings.
        attention: Type of attention: to all previous tokens ("dense"), or between image tokens in
            alternating row, column and conv patterns ("sparse", Eq. 4).
        kernel: Side, in image tokens, of the conv pattern of "sparse" attention; must be odd.
        Objective:
        caption_dropout: Probability that the caption of a training image is dropped. Sampling with
            guidance needs a model trained with a value above 0.
        Previews:
        prompts: Captions of additional preview images; the number of captions must be even. All
            these images have the same seed. The images of two successive captions are shown one
            above the other.
        Optimizer:
        optimizer: Type of optimizer: AdamW ("adamw"), or Muon (`optim/muon.py`) for the matrices of
            the Transformer blocks and AdamW for all other parameters ("muon").
        learning_rate: Peak learning rate. With "muon", it applies only to the matrices of the
            Transformer blocks; all other parameters have a peak of 2e-3.
        weight_decay: Weight decay of matrices. Other parameters are not decayed.
        warmup_steps: Number of updates over which the learning rate rises to its peak.

    Raises:
        UserError: If the discrete VAE cannot be loaded or was trained on images of another shape,
            if the number of prompts is odd, or if `kernel` is even.
    """

    modality = "text-to-image"
    scores_captions = True
    monitor = ("val/nll", "min")
    tokenizer: BPETokenizer | None
    masks: Tensor | None

    def __init__(
        self,
        dvae: str | dict[str, Any],
        image_shape: list[int],
        vocab_size: int,
        text_length: int,
        layers: PositiveInt = 6,
        heads: PositiveInt = 8,
        width: PositiveInt = 256,
        dropout: ClosedUnitInterval = 0.1,
        attention: Literal["dense", "sparse"] = "dense",
        kernel: PositiveInt = 11,
        caption_dropout: ClosedUnitInterval = 0.1,
        prompts: list[str] = [],  # noqa: B006  # read only
        optimizer: Literal["adamw", "muon"] = "adamw",
        learning_rate: PositiveFloat = 4.5e-4,
        weight_decay: NonNegativeFloat = 4.5e-2,
        warmup_steps: NonNegativeInt = 5000,
    ) -> None:
        super().__init__()
        if len(prompts) % 2 or kernel % 2 == 0:
            raise UserError(
                "model.prompts must have an even number of captions, and model.kernel must be odd "
                f"(got {len(prompts)} captions, kernel={kernel})"
            )
        discrete_vae = load_discrete_vae(dvae, image_shape)
        dvae = dict(discrete_vae.hparams)  # saved as a hyper-parameter instead of the path
        self.save_hyperparameters()
        self.grid, self.text_length = discrete_vae.grid, text_length
        height, columns = self.grid
        codebook_size = discrete_vae.hparams.codebook_size
        config = TransformerConfig(width, heads, dropout, 0.0, "layer", False, "gelu")
        # Embeddings of V text tokens, T padding tokens and [BOS].
        self.text_embedding = nn.Embedding(vocab_size + text_length + 1, width)
        self.text_positions = nn.Embedding(text_length + 1, width)
        self.image_embedding = nn.Embedding(codebook_size, width)
        self.rows, self.columns = nn.Embedding(height, width), nn.Embedding(columns, width)
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.text_head = nn.Linear(width, vocab_size + text_length)
        self.image_head = nn.Linear(width, codebook_size)
        masks = None
        if attention == "sparse":
            patterns = [layer_pattern(layer, layers) for layer in range(1, layers + 1)]
            images = [image_mask(pattern, height, columns, kernel) for pattern in patterns]
            masks = torch.stack([sequence_mask(mask, text_length) for mask in images])
        self.register_buffer("masks", masks, persistent=False)  # (layers, T + M, T + M)
        init_gpt(self, layers)
        self.dvae = discrete_vae  # assigned after `init_gpt`, which would overwrite its weights
        self.text_nll, self.nll = TokenNLL(), TokenNLL()
        self._image_tokens: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> "DALLE":
        super().train(mode)
        self.dvae.eval()
        return self

    # The sequence: [BOS], T text tokens, M image tokens

    def pad_text(self, tokens: Tensor) -> Tensor:
        """Replace each 0 of tokens (N, T) by the padding token V + t of its position t."""
        padding = self.hparams.vocab_size + torch.arange(self.text_length, device=tokens.device)
        return torch.where(tokens > 0, tokens, padding)

    def embed(self, text: Tensor, image_tokens: Tensor) -> Tensor:
        """Return embeddings (N, 1 + T + m, width) of [BOS], text (N, T) and image tokens (N, m)."""
        bos = torch.full_like(text[:, :1], self.text_embedding.num_embeddings - 1)
        embedded = self.text_embedding(torch.cat([bos, text], 1)) + self.text_positions.weight
        return torch.cat([embedded, self.embed_image(image_tokens, 0)], 1)

    def embed_image(self, image_tokens: Tensor, start: int) -> Tensor:
        """Return embeddings (N, m, width) of image tokens (N, m), the first at position `start`."""
        stop, columns = start + image_tokens.shape[1], self.grid[1]
        position = torch.arange(start, stop, device=image_tokens.device)
        row, column = self.rows(position // columns), self.columns(position % columns)
        return self.image_embedding(image_tokens) + row + column

    def hidden(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the hidden states (N, S, width) of embeddings (N, S, width).

        Without a cache or with an empty cache, `x` contains the embeddings of the whole sequence.
        Otherwise `x` contains the embedding of the next token only.
        """
        last = x.shape[1] + (0 if cache is None else cache.length)
        x = F.dropout(x, self.hparams.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            mask = None
            if self.masks is not None:
                mask = self.masks[layer, last - x.shape[1] : last, :last]
            x = block(x, cache, mask)
        if cache is not None:
            cache.length = last
        return self.norm(x)

    def forward(self, text: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of text (N, T, V + T) and image tokens (N, M, K), given previous tokens.

        Args:
            text: Text tokens (N, T) from `pad_text`, including padding tokens.
            image_tokens: Image tokens (N, M).
        """
        hidden = self.hidden(self.embed(text, image_tokens[:, :-1]))  # (N, T + M, width)
        of_text, of_image = hidden[:, : self.text_length], hidden[:, self.text_length :]
        return self.text_head(of_text), self.image_head(of_image)

    # Training

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        tokens = self.drop_captions(batch["tokens"], batch["seed"])
        text_nll, image_nll = self.token_nll(tokens, self.image_tokens(batch, "train"))
        has_caption = tokens[:, :1] > 0  # a dropped caption has no loss
        # The mean over the captions of this batch: gradients that are accumulated over small
        # batches have a different weight per caption, depending on how many were dropped.
        count = has_caption.sum() * self.text_length
        text, image = (text_nll * has_caption).sum() / count.clamp(min=1), image_nll.mean()
        return {"loss": (text + 7 * image) / 8, "loss_text": text, "loss_image": image}  # Eq. 3

    def token_nll(self, tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return -log p in nats of each text token (N, T) and of each image token (N, M)."""
        text = self.pad_text(tokens)
        text_logits, image_logits = self(text, image_tokens)
        return (
            F.cross_entropy(text_logits.mT.float(), text, reduction="none"),
            F.cross_entropy(image_logits.mT.float(), image_tokens, reduction="none"),
        )

    def drop_captions(self, tokens: Tensor, seed: int) -> Tensor:
        """Set all tokens of a row of captions (N, T) to 0 with probability `caption_dropout`."""
        generator = torch.Generator(tokens.device)
        generator.manual_seed(mix_seed(seed, "caption dropout"))
        numbers = torch.rand(len(tokens), 1, generator=generator, device=tokens.device)
        return tokens.masked_fill(numbers < self.hparams.caption_dropout, 0)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        optimizer = muon_or_adamw(
            h.optimizer,
            self,
            self.blocks,
            h.learning_rate,
            EMBEDDING_RATE,
            (0.9, 0.96),
            h.weight_decay,
        )
        return [optimizer], [cosine(optimizer, self.total_updates, h.warmup_steps)]

    # Image tokens of the data. The discrete VAE is frozen: if batches contain no images, all images
    # are encoded once, before training.

    def on_fit_start(self) -> None:
        if not getattr(self.trainer.datamodule, "captions_only", False):  # type: ignore[attr-defined]
            return
        for split in ("train", "val"):
            if len(self.trainer.datamodule.split(split)):  # type: ignore[attr-defined]
                self._encode_split(split)

    def _encode_split(self, split: str) -> None:
        """Encode all images of a split; each rank encodes a part of the images."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        size, world_size = len(data.split(split)), self.trainer.world_size
        steps = torch.arange(-(-size // world_size))
        index = (steps * world_size + self.trainer.global_rank) % size
        parts = []
        for part in index.split(data.eval_batch_size):
            image = data.batch(split, part.tolist())["image"].to(self.device)
            parts.append(self.dvae.encode_tokens(image).flatten(1).int())
        gathered = cast(Tensor, self.all_gather(torch.cat(parts)))
        ranks = gathered.view(world_size, -1, prod(self.grid))
        self._image_tokens[split] = ranks.transpose(0, 1).flatten(0, 1)[:size]

    def image_tokens(self, batch: dict[str, Any], split: str) -> Tensor:
        """Return image tokens (N, M): encoded from `batch["image"]` if present, else cached."""
        if "image" in batch:
            return self.dvae.encode_tokens(batch["image"]).flatten(1)
        if split not in self._image_tokens:
            self._encode_split(split)
        return self._image_tokens[split][batch["index"].to(self.device)].long()

    # Evaluation

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Any], stage: str) -> None:
        text, image = self.token_nll(batch["tokens"], self.image_tokens(batch, stage))
        loss = (text.mean() + 7 * image.mean()) / 8
        self.log(f"{stage}/loss", loss, batch_size=len(text), sync_dist=True)
        for metric, losses, name, sample in (
            (self.text_nll, text, "nll_text", "caption"),
            (self.nll, image, "nll", "image|given=caption"),
        ):
            metric.description = f"unit=nats/{sample}"
            metric.update(losses, len(losses))
            self.log_metric(f"{stage}/{name}", metric)

    # Sampling: a plain loop, and an equivalent loop with a cache

    @sampling
    def sample_tokens(
        self, tokens: Tensor, seeds: list[int], guidance: float = 2.0, temperature: float = 0.7
    ) -> Tensor:
        """Sample image tokens (N, h, w) for captions (N, T) with a plain loop.

        The loop recomputes the whole sequence for each token; `generate_tokens` is faster.
        """
        text, none = self.pad_text(tokens), self.pad_text(torch.zeros_like(tokens))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        image_tokens = tokens.new_empty(len(tokens), 0)
        while image_tokens.shape[1] < prod(self.grid):
            logits, unguided = (
                self.image_head(self.hidden(self.embed(caption, image_tokens))[:, -1])
                for caption in (text, none)
            )  # each (N, K)
            logits = unguided + guidance * (logits - unguided)  # Eq. 5
            cdf = (logits / temperature).softmax(-1).double().cumsum(-1)
            # CPU generators: a seed gives the same numbers on every device.
            numbers = torch.stack([torch.rand(1, generator=generator) for generator in generators])
            numbers = numbers.to(cdf).double() * cdf[:, -1:]
            next_token = torch.searchsorted(cdf, numbers, right=True)  # (N, 1)
            image_tokens = torch.cat([image_tokens, next_token], 1)
        return image_tokens.view(-1, *self.grid)

    def prefill(self, prompts: Tensor) -> tuple[Tensor, KVCache]:
        """Compute next-token logits and the cache for prompts (N, T + m).

        A prompt has T text tokens and then m >= 0 image tokens. See `DecodableModel.prefill`.
        """
        cache = KVCache(self.hparams.layers, self.text_length + prod(self.grid))
        text, image_tokens = prompts[:, : self.text_length], prompts[:, self.text_length :]
        hidden = self.hidden(self.embed(text, image_tokens), cache)
        return self.image_head(hidden[:, -1]), cache

    def decode_step(self, tokens: Tensor, state: KVCache) -> tuple[Tensor, KVCache]:
        x = self.embed_image(tokens[:, None], state.length - self.text_length - 1)
        return self.image_head(self.hidden(x, state)[:, 0]), state

    def guided(self, guidance: float) -> DecodableModel:
        """Return a model whose logits follow Eq. 5 with s = `guidance`; if s = 1, return `self`."""
        if guidance == 1:
            return self

        def unconditional(prompts: Tensor) -> Tensor:
            text = self.pad_text(torch.zeros_like(prompts[:, : self.text_length]))
            return torch.cat([text, prompts[:, self.text_length :]], 1)

        return Guided(self, guidance, unconditional)

    def generate_tokens(
        self,
        tokens: Tensor,
        seeds: list[int],
        guidance: float,
        config: SamplingConfig,
        given: Tensor | None = None,
    ) -> Tensor:
        """Sample image tokens (N, h, w) for captions (N, T) with a cache and one seed per caption.

        If image tokens `given` (m,) are passed, they are the first image tokens of every sample.
        """
        first = tokens.new_empty(0) if given is None else given
        prompts = torch.cat([self.pad_text(tokens), first.expand(len(tokens), -1)], 1)
        count = prod(self.grid) - len(first)
        rows = generate(self.guided(guidance), prompts, seeds, max_new_tokens=count, config=config)
        image_tokens = torch.tensor(rows, device=self.device)
        return torch.cat([prompts[:, self.text_length :], image_tokens], 1).view(-1, *self.grid)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Return the text tokens (N, T) of N prompts.

        Raises:
            UserError: If a prompt cannot be encoded.
        """
        return caption_tokens(self.known_tokenizer(), prompts, self.text_length).to(self.device)

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        prompt: list[str] | None = None,
        guidance: FiniteNonNegative = 2.0,
        temperature: FiniteNonNegative = 0.7,
        top_k: NonNegativeInt = 0,
        top_p: NucleusProbability = 1.0,
        prime: Tensor | None = None,
        prime_share: OpenUnitInterval = 0.5,
    ) -> Tensor:
        """Sample images for captions.

        Args:
            seeds: One seed per image; image i depends on `seeds[i]` and caption i alone.
            batch: Dictionary with the captions of unseen images, one per seed, as tokens (N, T)
                under the key `tokens`. It is unused if `prompt` is given.
            prompt: Caption of all images, or one caption per image. `sample.py` generates the
                images of all seeds for each prompt. None uses the captions of `batch`.
            guidance: Scale of classifier-free guidance, s in Eq. 5 of `dalle.py`; 1 disables
                guidance.
            temperature: Divisor of the logits; 0 takes the most probable token.
            top_k: Number of most probable tokens to sample from; 0 samples from all tokens.
            top_p: Total probability of the smallest set of most probable tokens to sample from
                (nucleus sampling), in (0, 1]; 1 samples from all tokens.
            prime: Image (C, H, W) in [-1, 1]. All samples start with the image tokens of its upper
                part, and the model generates the rest. None generates whole images.
            prime_share: Fraction of the height of `prime` that the samples start with, between 0
                and 1.

        Returns:
            Images (N, C, H, W) in [-1, 1].

        Raises:
            UserError: If an option is out of range, there are no captions, a caption cannot be
                encoded, or the number of captions is neither 1 nor the number of seeds.
        """
        config = SamplingConfig(temperature, top_k, top_p)
        if guidance != 1 and not self.hparams.caption_dropout:
            raise UserError(
                f"--guidance {guidance} needs a model trained with model.caption_dropout above 0, "
                "and this model was not: give --guidance 1"
            )
        if prime is not None and not 0 < prime_share < 1:  # the command line checks it, too
            raise UserError(f"--prime_share must be between 0 and 1 (got {prime_share})")
        tokens = self._captions(len(seeds), batch, prompt)
        given = None
        if prime is not None:
            rows, width = self.grid
            count = min(max(1, round(prime_share * rows)) * width, rows * width - 1)
            given = self.dvae.encode_tokens(prime[None].to(self.device)).flatten()[:count]
        return self.dvae.decode_tokens(self.generate_tokens(tokens, seeds, guidance, config, given))

    def _captions(
        self, count: int, batch: dict[str, Any] | None, prompt: list[str] | None
    ) -> Tensor:
        """Return text tokens (count, T) of the prompts or, without prompts, of the batch."""
        if prompt is not None:
            tokens = self.tokenize(prompt)
        elif batch is not None:
            tokens = batch["tokens"].to(self.device)
        else:
            raise UserError(
                "DALL-E needs captions: give --prompt TEXT, or --data CONFIG for the captions of "
                "its test split"
            )
        tokens = tokens.expand(count, -1) if len(tokens) == 1 else tokens
        if len(tokens) != count:
            raise UserError(
                f"{len(tokens)} captions for {count} seeds: give one caption, or one per seed"
            )
        return tokens

    @sampling
    def score(self, image: Tensor, captions: list[str]) -> Tensor:
        """Return log p(z|y) (N, M) in nats of N images (N, C, H, W) for M captions.

        With DALL-E as `--ranker`, `sample.py` ranks images by these scores.
        """
        image_tokens = self.dvae.encode_tokens(image.to(self.device)).flatten(1)
        scores = [
            -self.token_nll(row.expand(len(image_tokens), -1), image_tokens)[1].sum(1)
            for row in self.tokenize(captions)
        ]
        return torch.stack(scores, 1)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Return a grid of images, their reconstructions and samples for their captions.

        A second grid has one sample for each prompt in `model.prompts`. Prompts 1 and 2, 3 and 4,
        and so on are pairs; the two samples of a pair are in one column.
        """
        image, tokens = batch["image"], batch["tokens"]
        guidance = 2.0 if self.hparams.caption_dropout else 1.0
        samples = self.sample(list(range(len(image))), batch=batch, guidance=guidance)
        shown: dict[str, Tensor | list[str]] = {
            "samples": torch.stack([image, self.dvae.reconstruct(image), samples]),
            "samples/rows": ["real", "reconstructed", "generated"],
        }
        if self.tokenizer is not None:
            shown["samples/captions"] = [self.tokenizer.decode(row) for row in tokens.tolist()]
        if self.tokenizer is not None and (prompts := self.hparams.prompts):
            pairs = self.sample([0] * len(prompts), prompt=prompts, guidance=guidance)
            shown["prompts"] = torch.stack([pairs[::2], pairs[1::2]])
            shown["prompts/captions"] = [*prompts[::2], *prompts[1::2]]
        return shown
