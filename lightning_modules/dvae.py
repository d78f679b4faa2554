"""Discrete VAE: encodes an image as a grid of discrete tokens that a language model can learn.

Ramesh et al., "Zero-Shot Text-to-Image Generation", ICML 2021, section 2.1 and appendix A, with the
networks of the released code. The quantiser "gumbel" uses the Gumbel-softmax relaxation of Jang et
al. and Maddison et al., both ICLR 2017. The quantiser "vq" follows van den Oord et al., "Neural
Discrete Representation Learning", NIPS 2017, with the moving averages of its appendix A.1. Its
random restarts follow Dhariwal et al., "Jukebox", 2020, section 3.1.

    q(k|x) = softmax of the encoder's logits at each position,  p(k) = 1 / K                   (1)
    z = sum_k y_k e_k,  y = softmax((logits + g) / tau),  g = -log(-log u),  u ~ U(0, 1)       (2)
    ELB = E_q[log p(x|z)] - beta * KL(q || p)                                                  (3)
    KL = sum over positions of sum_k q(k|x) log(K q(k|x))                                      (4)
    p(x|z): log f = log(1 - 2 eps) - log(2 b x' (1 - x')) - |logit x' - mu| / b,
        x' = (1 - 2 eps) x + eps                                                               (5)
    VQ: z = h + sg(e_k - h),  k = argmin |h - e_k|^2;  KL becomes |h - sg(e_k)|^2              (6)
    n_k <- d n_k + (1 - d) sum_i [k_i = k],
        m_k <- d m_k + (1 - d) sum_i h_i [k_i = k],  e_k = m_k / n_k                           (7)
    weighted reconstruction loss: sum over pixels of sg(b)^r (-log f)                          (8)

The choice of a codebook vector is not differentiable. "gumbel" relaxes the choice (Eq. 2); as tau
falls, the relaxed choice approaches the hard choice. "vq" makes the hard choice and copies the
gradient from z to h (Eq. 6). Evaluation and samples use the hard choice: the most probable vector
("gumbel") or the nearest one ("vq"). Image tokens sampled from the uniform prior of Eq. 1 do not
decode to plausible images (`sample.py --mode prior`). `dalle.py` learns the joint distribution of
the image tokens.

The gradient of Eq. 5 with respect to mu has the magnitude 1 / b. Pixels that are hard to predict
have a large b, thus a small gradient, so details are learnt late. Eq. 8 is the beta-NLL of Seitzer
et al., "On the Pitfalls of Heteroscedastic Uncertainty Estimation with Probabilistic Neural
Networks", ICLR 2022, for a Laplace density. With r = 0 it is the likelihood. With r = 1, the
gradient with respect to mu has the magnitude 1 at all pixels; b is still estimated.

Symbols: K `codebook_size` · D `token_width` · h `features`, z `z` (N, D, h, w) · image tokens
`tokens` (N, h, w), with `tokens_per_position` rows for each row of the encoder's output · e
`codebook` (K, D) · m, n `sums`, `uses` · sg: stop-gradient · d VQ_DECAY · tau, beta: half-cosine
schedules that end at `temperature` and `beta`; beta is also the weight of the commitment (Eq. 6) ·
mu, b `mean`, exp(`log_scale`) + MIN_SCALE, for each value of the image · r `scale_exponent`.
`width` and `gain` (`nn/bottleneck.py`) are called n_hid and post-gain in the released code.

Losses are summed over pixels and image tokens and averaged over the batch. They are in nats per
image, except the reconstruction and the whole loss with r > 0.

Departures from DALL-E's discrete VAE, whose released code (openai/DALL-E) does not train it:

- Eq. 3 is not divided by the number of pixel values. This does not change the ratio of its two
  terms.
- Uniform noise (Theis et al. 2016) is added to pixels before they are mapped to [eps, 1 - eps].
- b is at least MIN_SCALE; otherwise the density of constant white pixels would be unbounded.
- Biases have no weight decay. The paper does not state which parameters have.
- The learning rate falls to 1 / 80 of its initial value by the end of training. In the paper it
  falls from 1e-4 to 1.25e-6 in 1.2 million updates.
- `configs/dvae/openmoji.yaml` weights pixels by Eq. 8 with r = 1. The paper trains with the
  likelihood.
- With `patch` 4, as in `configs/dvae/openmoji.yaml`, the encoder's input and the decoder's output
  have a quarter of the resolution and 16 times the channels, and the first convolution is 3x3. The
  released code has a 7x7 convolution at full resolution, where most of the computation is. With
  `downsamplings` 0, all blocks work at the resolution of the tokens; the released code has four
  resolutions.
- log(1 - 2 eps) in Eq. 5, which makes it a density of x; the paper has the density of x'.
- Codebook of "gumbel": N(0, 1) at the start, without a bias. In the released code, it is a
  convolution with weights from N(0, 1 / K) and a bias.
- `configs/dvae/openmoji.yaml` has Muon (Jordan et al. 2024) with a learning rate of 0.01. With
  `patch` 2, the squared error after 2.5 minutes of training is 35, and 54 with AdamW, which the
  paper has.
- `gain` is 0.4 in `configs/dvae/openmoji.yaml`, which trains for minutes. The paper has a
  gain of 1 / L^2, where L is the number of blocks.

Departures from VQ-VAE and its released code (deepmind/sonnet, `vqvae.py`):

- Networks: as in DALL-E's discrete VAE. The paper has 2 strided convolutions and 2 residual blocks
  of 256 units (section 4.1).
- p(x|z): Eq. 5. The paper does not state p(x|z). The released code has a Gaussian, and
  averages the loss over pixel values.
- Commitment: a sum over image tokens. The paper has a mean over image tokens (section 3.2): its
  beta of 0.25 corresponds to 0.25 / (tokens per image) here. The released code has a mean over
  values.
- Grid of image tokens for CIFAR-10: 8x8x10 with 512 vectors (`tokens_per_position` 10). The paper
  has 8x8x10 and does not state the number of vectors; the released code has 8x8 with 512 vectors.
- Unused vectors: replaced by features of the batch. The released code applies Laplace smoothing of
  1e-5 to the counts instead.
- Averaged weights: used for evaluation and samples. The sums and counts of Eq. 7 are averaged with
  the same decay, so that the averaged codebook matches the averaged encoder.
"""

import math
from collections.abc import Callable
from functools import partial
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
    restricted_number_type,
)
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.checkpoints import load
from lightning_modules.core.exports import local_path
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.nn.bottleneck import bottlenecks, conv
from lightning_modules.nn.encoders import conv_grid
from lightning_modules.optim.muon import muon_or_adamw
from lightning_modules.optim.schedules import cosine
from metrics.image_tokens import ImageTokensKept, ImageTokenUsage
from metrics.likelihood import ImportanceSampledNLL, SquaredError, bits_per_dim

EPSILON = 0.1  # eps of Eq. 5, which maps pixels to [eps, 1 - eps]
# Minimum of the scale b in Eq. 5; near white, 0.1 in logit space is about 3 of 256 pixel levels.
# Without it, the density of pixels that are always white would be unbounded.
MIN_SCALE = 0.1
LIKELIHOOD = "codes=hard|prior=uniform|dequantised"  # settings of test/nll and test/bpd
VQ_DECAY = 0.99  # decay d of the moving averages in Eq. 7
INITIAL_USE = 1e-6  # initial n_k of Eq. 7; with it, the first batch outweighs the initial vectors
ADAMW_RATE = 2e-3  # initial learning rate of AdamW for the parameters that Muon does not update
FINAL_RATE = 0.0125  # final learning rate divided by the initial one
MIN_USE = 0.1  # a codebook vector used less than this fraction of the mean use is replaced

CodebookSize = restricted_number_type("CodebookSize", int, (">=", 2))


def full_precision(device: torch.device) -> torch.autocast:
    """Return a context without autocast: 16 bits cannot separate close codebook vectors."""
    return torch.autocast(device.type, enabled=False)


def annealed(step: int, first: float, last: float, steps: int) -> float:
    """Return the value at update `step` of a half-cosine schedule (appendix A.2).

    The value changes from `first` to `last` in the first `steps` updates, then stays at `last`.
    """
    progress = min(1.0, step / steps) if steps else 1.0
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def logit_laplace_log_likelihood(
    mean: Tensor, log_scale: Tensor, x: Tensor, scale_exponent: float = 0.0
) -> Tensor:
    """Return the log-density (N,) in nats of images x (N, C, H, W) in [0, 1] (Eq. 5).

    `mean` is mu, and exp(`log_scale`) + MIN_SCALE is b; both have shape (N, C, H, W). The term of
    each pixel is multiplied by b to the power of `scale_exponent`, a constant for the gradient
    (Eq. 8); with 0, the sum is the log-density.
    """
    squeezed = (1 - 2 * EPSILON) * x + EPSILON  # x'
    scale = log_scale.exp() + MIN_SCALE  # b
    normalizer = (2 * scale * squeezed * (1 - squeezed)).log()
    density = -normalizer - (squeezed.logit() - mean).abs() / scale + math.log(1 - 2 * EPSILON)
    return (density * scale.detach() ** scale_exponent).sum((1, 2, 3))


def uniform_kl(logits: Tensor) -> Tensor:
    """Return the KL divergence (N,) of Eq. 4 in nats, from logits (N, K, h, w) of q(k|x)."""
    log_q = logits.log_softmax(1)
    return (log_q.exp() * (log_q + math.log(logits.shape[1]))).sum((1, 2, 3))


class GumbelQuantiser(nn.Module):
    """Relaxed choice of codebook vectors by Gumbel-softmax (Eq. 2).

    The features of the encoder are the logits of q(k|x).

    Args:
        codebook_size: Number K of codebook vectors.
        token_width: Number D of values per codebook vector.
    """

    def __init__(self, codebook_size: int, token_width: int) -> None:
        super().__init__()
        self.features = codebook_size
        self.codebook = nn.Parameter(torch.randn(codebook_size, token_width))

    def forward(self, features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return z (N, D, h, w) for logits (N, K, h, w), and the KL divergence (N,) of Eq. 4."""
        noise = -torch.empty_like(features).exponential_().log()  # g
        y = ((features + noise) / temperature).softmax(1)
        return torch.einsum("nkhw,kd->ndhw", y, self.codebook), uniform_kl(features)  # Eq. 2

    def nearest(self, features: Tensor) -> Tensor:
        """Return the most probable image tokens (N, h, w) for logits (N, K, h, w)."""
        return features.argmax(1)


class VectorQuantiser(nn.Module):
    """Choice of the nearest codebook vector (Eq. 6), with a codebook of moving averages (Eq. 7).

    The codebook is the quotient of the buffers `sums` (m) and `uses` (n). If both buffers are
    averaged over updates, their quotient is an average of the codebooks, weighted by use.

    Args:
        codebook_size: Number K of codebook vectors.
        token_width: Number D of values per codebook vector.
    """

    uses: Tensor  # n of Eq. 7, (K,)
    sums: Tensor  # m of Eq. 7, (K, D)

    def __init__(self, codebook_size: int, token_width: int) -> None:
        super().__init__()
        self.features = token_width
        self.register_buffer("uses", torch.full((codebook_size,), INITIAL_USE))
        self.register_buffer("sums", INITIAL_USE * torch.randn(codebook_size, token_width))

    @property
    def codebook(self) -> Tensor:
        """Codebook vectors e_k of Eq. 7, of shape (K, D)."""
        return self.sums / self.uses[:, None]

    def forward(self, features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return z for features h, both (N, D, h, w), and the commitment |h - sg(e_k)|^2 (N,)."""
        chosen = F.embedding(self.nearest(features), self.codebook).movedim(3, 1)
        commitment = (features - chosen.detach()).square().sum((1, 2, 3))
        return features + (chosen - features).detach(), commitment  # Eq. 6

    @torch.no_grad()
    def nearest(self, features: Tensor) -> Tensor:
        """Return the indices (N, h, w) of the codebook vectors nearest to features (N, D, h, w)."""
        codebook = self.codebook
        products = torch.einsum("ndhw,kd->nkhw", features, codebook)
        return (2 * products - codebook.square().sum(1)[:, None, None]).argmax(1)

    @torch.no_grad()
    def update_codebook(
        self,
        features: Tensor,
        seed: int,
        reduce: Callable[[Tensor], Tensor],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Update the moving averages of Eq. 7 with the batches of all ranks.

        Codebook vectors used less than MIN_USE times as often as the mean are replaced by random
        features of the batches.

        Args:
            features: Features (N, D, h, w) of this rank's batch. Sample i of this batch is sample
                i * world_size + rank of the joined batch of all ranks.
            seed: Seed of the random replacements; must be equal on all ranks.
            reduce: Function that sums a tensor over all ranks.
            rank: Index of this rank.
            world_size: Number of ranks.
        """
        rows, tokens = features.movedim(1, 3).flatten(0, 2), self.nearest(features).flatten()
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, rows)
        counts = torch.zeros_like(self.uses).index_add_(0, tokens, torch.ones_like(rows[:, 0]))
        # `choice[k]` is the row, in the joined batch of all ranks, that may replace vector k.
        generator = torch.Generator(rows.device).manual_seed(seed)
        choice = torch.randint(
            len(rows) * world_size, self.uses.shape, generator=generator, device=rows.device
        )
        positions = len(rows) // len(features)
        sample = choice // positions
        own = rows[sample // world_size * positions + choice % positions]
        replacements = own * (sample % world_size == rank)[:, None]
        sums, counts, replacements = reduce(
            torch.cat([sums, counts[:, None], replacements], 1)
        ).split([sums.shape[1], 1, sums.shape[1]], 1)
        self.uses.lerp_(counts[:, 0], 1 - VQ_DECAY)
        self.sums.lerp_(sums, 1 - VQ_DECAY)
        min_use = MIN_USE * counts.mean()
        unused = self.uses < min_use
        self.uses.copy_(torch.where(unused, min_use, self.uses))
        self.sums.copy_(torch.where(unused[:, None], replacements * min_use, self.sums))


class Network(nn.Module):
    """Encoder, quantiser and decoder of a discrete VAE.

    Encoder and decoder have one group of bottleneck blocks per resolution, as in the released code
    of DALL-E. Between groups, the encoder halves the sides of the feature maps with max pooling,
    and the decoder doubles the sides by repeating pixels.

    Args:
        channels: Number C of image channels.
        patch: Side of the blocks of pixels that become channels before the encoder, and pixels
            again after the decoder.
        widths: Number of channels at each resolution, the highest first.
        blocks: Number of bottleneck blocks per group.
        quantiser: Module with the codebook.
        tokens_per_position: Number of image tokens at each position of the encoder's output.
        gain: Factor of each block's residual branch. 0 uses 1 / L^2, where L is the number of
            blocks of the encoder.
    """

    def __init__(
        self,
        channels: int,
        patch: int,
        widths: list[int],
        blocks: int,
        quantiser: GumbelQuantiser | VectorQuantiser,
        tokens_per_position: int,
        gain: float,
    ) -> None:
        super().__init__()
        self.patch, self.quantiser, self.tokens_per_position = patch, quantiser, tokens_per_position
        pool, repeat = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.encoder = nn.Sequential(
            conv(channels * patch**2, widths[0], 7 if patch == 1 else 3),
            bottlenecks(widths[0], widths, blocks, [3, 3, 3, 1], pool, gain),
            conv(widths[-1], tokens_per_position * quantiser.features, 1),
        )
        inputs = tokens_per_position * quantiser.codebook.shape[1]
        self.decoder = nn.Sequential(
            bottlenecks(inputs, widths[::-1], blocks, [1, 3, 3, 3], repeat, gain),
            conv(widths[0], 2 * channels * patch**2, 1),
        )

    def encode(self, image: Tensor) -> Tensor:
        """Encode images (N, C, H, W) as float32 features (N, F, h, w).

        F is the number of features per image token. Adjacent rows contain the features of the image
        tokens at the same position of the encoder's output.
        """
        features = self.encoder(F.pixel_unshuffle(image, self.patch))
        features = features.unflatten(1, (self.tokens_per_position, -1))
        return features.movedim(1, 3).flatten(2, 3).float()

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Decode z (N, D, h, w) to the mean and log-scale of p(x|z), each (N, C, H, W)."""
        z = z.unflatten(2, (-1, self.tokens_per_position)).movedim(3, 1).flatten(1, 2)
        mean, log_scale = F.pixel_shuffle(self.decoder(z), self.patch).float().chunk(2, 1)
        return mean, log_scale

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the codebook vectors z (N, D, h, w) of image tokens (N, h, w)."""
        return F.embedding(tokens, self.quantiser.codebook).movedim(3, 1)


class DiscreteVAE(GenerativeModule):
    """Discrete VAE with the quantiser of DALL-E ("gumbel") or of VQ-VAE ("vq").

    Args:
        Data:
        image_shape: Shape (C, H, W) of an image; supplied by the data module.
        Network:
        codebook_size: Number K of codebook vectors.
        token_width: Number D of values per codebook vector.
        quantiser: Type of quantiser: Gumbel-softmax, as in DALL-E ("gumbel", Eq. 2), or nearest
            codebook vector, as in VQ-VAE ("vq", Eq. 6).
        patch: Side of the blocks of pixels that become channels before the encoder, and pixels
            again after the decoder: 1 (the paper's network), 2 or 4. With 2, a network of the same
            width needs a quarter of the computation.
        width: Number of channels of the feature maps with sides of H / patch and W / patch; must be
            a multiple of 4. It doubles each time the resolution is halved.
        downsamplings: Number of times that the encoder halves the resolution. H and W must be
            multiples of patch * 2^downsamplings.
        tokens_per_position: Number of image tokens at each position of the encoder's output. The
            grid of image tokens has this many times as many rows as the encoder's output.
        blocks: Number of residual blocks at each resolution, in the encoder and in the decoder.
        gain: Factor of each block's residual branch. 0 uses the paper's 1 / L^2, where L is the
            number of blocks of the encoder.
        Objective:
        beta: Final weight of the KL divergence ("gumbel", Eq. 4) or of the commitment loss ("vq",
            Eq. 6).
        beta_steps: Number of updates over which the weight of the KL divergence or of the
            commitment loss rises from 0 to `beta`.
        scale_exponent: Exponent r, from 0 to 1, of the scale b that weights each pixel in the loss
            (Eq. 8). 0 maximises the likelihood; with 1, details that are hard to predict are learnt
            earlier.
        temperature: Final temperature tau of the Gumbel-softmax (Eq. 2), used by "gumbel" only.
        temperature_steps: Number of updates over which the temperature falls from 1 to
            `temperature`.
        Optimizer:
        optimizer: Type of the optimizer: AdamW, or Muon for the kernels of convolutions and AdamW
            for the other parameters.
        learning_rate: Initial learning rate. With "muon", only that of the kernels of convolutions;
            all other parameters start at 2e-3.
        weight_decay: Decoupled weight decay of kernels and of the codebook of "gumbel"; biases have
            none.
        ema_decay: Decay of the moving average of the weights, used in evaluation and sampling. The
            decay is smaller in the first updates.

    Raises:
        UserError: If `width` is not a multiple of 4, or a side of the images is not a multiple of
            patch * 2^downsamplings.
    """

    monitor = ("val/nll", "min")
    ema_modules = ("network",)

    def __init__(
        self,
        image_shape: list[int],
        codebook_size: CodebookSize = 8192,  # type: ignore[valid-type]
        token_width: PositiveInt = 128,
        quantiser: Literal["gumbel", "vq"] = "gumbel",
        patch: Literal[1, 2, 4] = 1,
        width: PositiveInt = 256,
        downsamplings: NonNegativeInt = 3,
        tokens_per_position: PositiveInt = 1,
        blocks: PositiveInt = 2,
        gain: NonNegativeFloat = 0.0,
        beta: NonNegativeFloat = 6.6,
        beta_steps: NonNegativeInt = 5000,
        scale_exponent: ClosedUnitInterval = 0.0,
        temperature: PositiveFloat = 1 / 16,
        temperature_steps: NonNegativeInt = 150_000,
        optimizer: Literal["adamw", "muon"] = "adamw",
        learning_rate: PositiveFloat = 1e-4,
        weight_decay: NonNegativeFloat = 1e-4,
        ema_decay: OpenUnitInterval = 0.999,
    ) -> None:
        super().__init__()
        if width % 4:
            raise UserError(
                f"model.width must be a multiple of 4 (got {width}), because each residual block "
                "has inner layers of a quarter of this width"
            )
        self.save_hyperparameters()
        halvings = downsamplings + patch.bit_length() - 1
        height, columns = conv_grid(image_shape, [0] * halvings)
        self.grid = [tokens_per_position * height, columns]  # (h, w) of the image tokens
        widths = [width * 2**group for group in range(downsamplings + 1)]
        quantiser_class = GumbelQuantiser if quantiser == "gumbel" else VectorQuantiser
        codebook = quantiser_class(codebook_size, token_width)
        self.network = Network(
            image_shape[0], patch, widths, blocks, codebook, tokens_per_position, gain
        )
        self.init_ema()
        self.nll, self.squared_error = ImportanceSampledNLL(1), SquaredError()
        self.usage = ImageTokenUsage(codebook_size, "share")
        self.perplexity = ImageTokenUsage(codebook_size, "perplexity")
        self.tokens_kept = ImageTokensKept()

    # Training

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        h, step, quantiser = self.hparams, self.trainer.global_step, self.network.quantiser
        beta = annealed(step, 0.0, h.beta, h.beta_steps)
        temperature = annealed(step, 1.0, h.temperature, h.temperature_steps)
        features = self.network.encode(batch["image"])
        with full_precision(self.device):
            z, term = quantiser(features, temperature)  # Eq. 2 and 4, or Eq. 6
            if isinstance(quantiser, VectorQuantiser):
                reduce = partial(self.trainer.strategy.reduce, reduce_op="sum")
                rank, world_size = self.trainer.global_rank, self.trainer.world_size
                quantiser.update_codebook(features, step, reduce, rank, world_size)  # Eq. 7
        log_likelihood = self.log_likelihood(z, batch["image"], h.scale_exponent)  # Eq. 5 and 8
        reconstruction = -log_likelihood.mean()
        loss = reconstruction + beta * term.mean()  # Eq. 3
        self.log_train(beta=beta, temperature=temperature)
        name = "kl" if h.quantiser == "gumbel" else "commitment"
        return {"loss": loss, "reconstruction": reconstruction, name: term.mean()}

    def log_likelihood(self, z: Tensor, image: Tensor, scale_exponent: float = 0.0) -> Tensor:
        """Return log p(x|z) (N,) of images (N, C, H, W) in [-1, 1], with uniform noise added.

        With `scale_exponent` above 0, pixels are weighted (Eq. 8).
        """
        mean, log_scale = self.network.decode(z)
        levels = (image + 1) * 127.5
        x = (levels + torch.rand_like(levels)) / 256
        return logit_laplace_log_likelihood(mean, log_scale, x, scale_exponent)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        blocks = nn.ModuleList([self.network.encoder, self.network.decoder])
        betas = (0.9, 0.999)
        optimizer = muon_or_adamw(
            h.optimizer, self.network, blocks, h.learning_rate, ADAMW_RATE, betas, h.weight_decay
        )
        return [optimizer], [cosine(optimizer, self.total_updates, last=FINAL_RATE)]

    # Evaluation

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        with self.averaged_weights():
            self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        with self.averaged_weights():
            self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Any], stage: str) -> None:
        image, h, quantiser = batch["image"], self.hparams, self.network.quantiser
        with full_precision(self.device):
            features = self.network.encode(image)
            tokens = quantiser.nearest(features)
        log_p = self.log_likelihood(self.network.embed(tokens), image)
        prior = -prod(self.grid) * math.log(h.codebook_size)  # log p(z); q(z|x) = 1 for this z
        self.nll.update(lambda _: (log_p + prior)[None])
        self.log_metric(f"{stage}/nll", self.nll)
        self.signatures[f"{stage}/nll"] = f"nll[{LIKELIHOOD}]"
        with full_precision(self.device):
            term = quantiser(features, h.temperature)[1].mean()
        weighted = self.log_likelihood(self.network.embed(tokens), image, h.scale_exponent)
        loss = h.beta * term - weighted.mean()
        self.log(f"{stage}/loss", loss, batch_size=len(image), sync_dist=True)
        self.usage.update(tokens)
        self.perplexity.update(tokens)
        self.log_metric(f"{stage}/codebook_used", self.usage)
        self.log_metric(f"{stage}/codebook_perplexity", self.perplexity)
        if stage == "test":
            decoded = self.decode_tokens(tokens)
            self.tokens_kept.update(tokens, self.encode_tokens(decoded))
            self.squared_error.update((decoded + 1) / 2, (image + 1) / 2)
            self.log_metric("test/tokens_kept", self.tokens_kept)
            self.log_metric("test/sse", self.squared_error)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.log("test/bpd", bits_per_dim(self.nll.compute(), prod(self.hparams.image_shape), 256))
        self.signatures["test/bpd"] = f"bpd[{LIKELIHOOD}]"

    # Images and image tokens

    @sampling
    def encode_tokens(self, image: Tensor) -> Tensor:
        """Encode images (N, C, H, W) in [-1, 1] as image tokens (N, h, w).

        Raises:
            UserError: If the images differ in shape from the training images.
        """
        shape = list(image.shape[1:])
        if shape != self.hparams.image_shape:
            raise UserError(
                f"this discrete VAE encodes images of shape {self.hparams.image_shape}, not "
                f"{shape}: train a discrete VAE on images of this shape"
            )
        with full_precision(image.device):
            return self.network.quantiser.nearest(self.network.encode(image))

    @sampling
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Decode image tokens (N, h, w) to the medians (N, C, H, W), in [-1, 1], of p(x|z)."""
        return self._median(self.network.embed(tokens))

    def _median(self, z: Tensor) -> Tensor:
        squeezed = self.network.decode(z)[0].sigmoid()
        return ((squeezed - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1) * 2 - 1

    def networks(self) -> dict[str, ExportedNetwork]:
        def encode(image: Tensor) -> Tensor:
            return self.network.quantiser.nearest(self.network.encode(image))

        def decode(tokens: Tensor) -> Tensor:
            return self._median(self.network.embed(tokens))

        image = torch.zeros(2, *self.hparams.image_shape)
        tokens = encode(image.to(self.device)).cpu()
        return {
            "encoder": ExportedNetwork(Method(self.network, encode), {"image": image}, ("tokens",)),
            "decoder": ExportedNetwork(
                Method(self.network, decode), {"tokens": tokens}, ("image",)
            ),
        }

    def reconstruct(self, image: Tensor) -> Tensor:
        """Encode images (N, C, H, W) in [-1, 1] as image tokens, and decode the tokens."""
        return self.decode_tokens(self.encode_tokens(image))

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        mode: Literal["prior", "reconstruct"] = "prior",
    ) -> Tensor:
        """Decode random image tokens, or reconstruct images.

        Args:
            seeds: One seed per image; image i depends on `seeds[i]` alone.
            batch: Dictionary with the images to reconstruct, one per seed, under the key `image`.
                Only mode "reconstruct" uses `batch`.
            mode: Type of result: "prior" decodes image tokens that are sampled from the uniform
                prior of Eq. 1; "reconstruct" pairs each image of `batch` with its reconstruction.

        Returns:
            Images (N, C, H, W), or pairs (N, 2, C, H, W), in [-1, 1].

        Raises:
            UserError: If `mode` is "reconstruct" and `batch` is None.
        """
        if mode == "reconstruct":
            if batch is None:
                raise UserError("--mode reconstruct needs images: give --data CONFIG")
            image = batch["image"].to(self.device)
            return torch.stack([image, self.reconstruct(image)], 1)
        rows = []
        for seed in seeds:  # CPU generators: a seed gives the same tokens on every device
            generator = torch.Generator().manual_seed(seed)
            rows.append(torch.randint(self.hparams.codebook_size, self.grid, generator=generator))
        return self.decode_tokens(torch.stack(rows).to(self.device))

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Return a grid of images above their reconstructions, and a grid of codebook vectors.

        Codebook vectors are shown as decoded patches. With "gumbel", a row between the
        images and the reconstructions shows images decoded from the mean of the codebook vectors
        under q(k|x).
        """
        image, network = batch["image"], self.network
        features = network.encode(image)
        rows = [image, self.decode_tokens(network.quantiser.nearest(features))]
        names = ["real", "reconstructed"]
        if self.hparams.quantiser == "gumbel":
            z = torch.einsum("nkhw,kd->ndhw", features.softmax(1), network.quantiser.codebook)
            rows.insert(1, self._median(z))
            names.insert(1, "mean vectors")
        return {
            "reconstructions": torch.stack(rows),
            "reconstructions/rows": names,
            "codebook": self._patches(),
        }

    def _patches(self) -> Tensor:
        """Decode the first 1,024 codebook vectors to patches (K, C, P, P).

        A patch is the centre of the image decoded from 3x3 copies of one vector.
        """
        side = self.hparams.patch * 2**self.hparams.downsamplings
        tokens = torch.arange(min(1024, self.hparams.codebook_size), device=self.device)
        tokens = tokens[:, None, None].expand(-1, 3 * self.hparams.tokens_per_position, 3)
        return self.decode_tokens(tokens)[:, :, side : 2 * side, side : 2 * side]


def load_discrete_vae(dvae: str | dict[str, Any], image_shape: list[int]) -> DiscreteVAE:
    """Load a frozen discrete VAE for use in another system, with averaged weights if it has any.

    The other system's `__init__` must call this function instead of building the discrete VAE,
    because Lightning would otherwise save the arguments of both systems as hyper-parameters.

    Args:
        dvae: Path of a checkpoint, or hyper-parameters of a new discrete VAE.
        image_shape: Shape (C, H, W) of the other system's images.

    Raises:
        UserError: If the checkpoint is missing, belongs to another system, or was trained on images
            of another shape.
    """
    if isinstance(dvae, str) and not local_path(dvae).exists():
        raise UserError(
            f"model.dvae {dvae}: there is no such checkpoint; train a discrete VAE first "
            "(configs/dvae)"
        )
    model = load(dvae) if isinstance(dvae, str) else DiscreteVAE(**dvae)
    if not isinstance(model, DiscreteVAE):
        raise UserError(
            f"model.dvae {dvae}: is a {type(model).__name__}; give the checkpoint of a discrete VAE"
        )
    if model.hparams.image_shape != image_shape:
        raise UserError(
            f"model.dvae {dvae}: was trained on images of shape {model.hparams.image_shape}, but "
            f"this data has {image_shape}; train a discrete VAE on this data"
        )
    if model.ema is not None and model.has_averaged_weights:
        model.network = cast(Network, model.ema.networks["network"])
    model.ema = None
    return model.requires_grad_(False).eval()
