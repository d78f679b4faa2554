"""Discrete VAE: a picture as a small grid of codes out of a codebook, which a language model can
then write.

Ramesh et al., "Zero-Shot Text-to-Image Generation", ICML 2021, section 2.1 and appendix A (with the
networks of the released code); the relaxation is Jang et al. and Maddison et al., both ICLR 2017.
The other quantiser is van den Oord et al., "Neural Discrete Representation Learning", NIPS 2017,
with the averages of its appendix A.1 and the restarts of Dhariwal et al., "Jukebox", 2020, section
3.1.

    q(k|x) = softmax of the encoder's logits at each position,  p(k) = 1 / K                          (1)
    z = sum_k y_k e_k,  y = softmax((logits + g) / tau),  g = -log(-log u),  u ~ U(0, 1)              (2)
    ELB = E_q[log p(x|z)] - beta * KL(q || p)                                                         (3)
    KL = sum over positions of sum_k q(k|x) log(K q(k|x))                                             (4)
    p(x|z): log f = -log(2 b x' (1 - x')) - |logit x' - mu| / b,  x' = (1 - 2 eps) x + eps            (5)
    VQ: z = h + sg(e_k - h),  k = argmin |h - e_k|^2;   the term beside log p is beta * |h - sg(e_k)|^2  (6)
    n_k <- d n_k + (1 - d) sum_i [k_i = k],  m_k <- d m_k + (1 - d) sum_i h_i [k_i = k],  e_k = m_k / n_k  (7)

A choice has no gradient. Eq. 2 makes it soft and anneals tau, so that what is trained comes near to
what is used; Eq. 6 chooses hard and copies the gradient straight through. What is judged, cached
and drawn is always hard: the likeliest code, the nearest one. Drawn from the uniform prior of Eq. 1
the codes make no picture (`sample.py --mode prior`): which codes go together is what `dalle.py`
learns.

| paper | here |
|---|---|
| K, positions | codes, image_shape / 2^downsamplings a side, code_maps at each |
| tau, beta | temperature, beta: both on half a cosine over their steps; beta is also the commitment's weight in Eq. 6 |
| mu, b | mean, exp(log_scale) + LEAST_SCALE: two outputs for each value of the picture |
| n_hid, post-gain 1 / L^2 | width, `nn/bottleneck.py` |

Terms are sums over pixels and codes and means over the batch, in nats per image.

| DALL-E's discrete VAE | paper | released code (openai/DALL-E, no training) | here |
|---|---|---|---|
| loss | Eq. 3 / number of values | - | Eq. 3; the ratio of its terms is the same |
| pixels | 8 bits, Eq. 5 | mapped to [eps, 1 - eps] | the same, after uniform noise (Theis et al. 2016) |
| b | from the decoder | not used | at least LEAST_SCALE: the density of a constant white has no bound |
| learning rate | 1e-4 to 1.25e-6 in 1.2 M updates | - | to 1 / 80 of it when training ends |
| post-gain | 1 / L^2 | 1 / L^2 | `gain`: 0.4 in `configs/dvae/openmoji.yaml`, which trains for minutes |

| VQ-VAE | paper | released code (deepmind/sonnet, `vqvae.py`) | here |
|---|---|---|---|
| networks | 2 strided convolutions, 2 residual blocks, 256 units (section 4.1) | similar | those of the discrete VAE |
| p(x given z) | not named | Gaussian, mean over values | Eq. 5 |
| commitment, beta 0.25 | mean over codes (section 3.2) | mean over values | sum: the paper's beta is 0.25 / codes per image |
| latent, CIFAR-10 | 8x8x10 (section 3.2), number of codes not stated | 8x8 of 512 | 8x8x10 of 512, `code_maps` |
| unused codes | - | counts smoothed by 1e-5 | replaced by vectors of the batch |
| evaluated weights | the last | the last | averages |

Evaluation, codes and samples use averages of the weights. Eq. 7's sums and counts are averaged with
the same decay, so that codes and encoder are averages over the same updates.
"""

import math
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.checkpoints import load
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.nn.bottleneck import bottlenecks, conv
from lightning_modules.nn.encoders import conv_grid
from lightning_modules.nn.quantisers import QUANTISERS, VectorQuantiser
from lightning_modules.optim.schedules import cosine
from metrics.image_tokens import ImageTokensKept, ImageTokenUsage
from metrics.likelihood import ImportanceSampledNLL, SquaredError, bits_per_dim

EPSILON = 0.1  # eps of Eq. 5
LEAST_SCALE = (
    0.1  # of b, some three of 256 levels: what never varies, such as white, would drown all else
)


def annealed(step: int, first: float, last: float, steps: int) -> float:
    """From `first` to `last` on half a cosine over `steps` updates, then `last` (appendix A.2)."""
    progress = min(1.0, step / steps) if steps else 1.0
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def logit_laplace_log_likelihood(mean: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
    """log p(x|z) of x in [0, 1], a density in these units, summed over pixels: (N, C, H, W) ->
    (N,).
    """
    squeezed = (1 - 2 * EPSILON) * x + EPSILON
    scale = log_scale.exp() + LEAST_SCALE  # b
    density = (
        -(2 * scale * squeezed * (1 - squeezed)).log() - (squeezed.logit() - mean).abs() / scale
    )  # Eq. 5
    return (density + math.log(1 - 2 * EPSILON)).sum((1, 2, 3))


class Networks(nn.Module):
    """Encoder, quantiser and decoder of the released code: groups of bottlenecks, halved by maxima,
    doubled by repetition.

    Args:
        channels: of pictures.
        width: channels of the first group, doubled by each further one.
        downsamplings: halvings, one less than groups.
        blocks: of a group.
        codes: K.
        code_width: D, of a code.
        maps: codes at each position.
        quantiser: which.
        gain: of each block's branch.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        downsamplings: int,
        blocks: int,
        codes: int,
        code_width: int,
        maps: int,
        quantiser: str,
        gain: float,
    ) -> None:
        super().__init__()
        self.maps = maps
        self.quantiser = QUANTISERS[quantiser](codes, code_width)
        widths = [width * 2**group for group in range(downsamplings + 1)]
        features = self.quantiser.features
        self.encoder = nn.Sequential(
            conv(channels, width, 7),
            bottlenecks(width, widths, blocks, [3, 3, 3, 1], nn.MaxPool2d(2), gain),
            conv(widths[-1], maps * features, 1),
        )
        self.decoder = nn.Sequential(
            bottlenecks(
                maps * code_width,
                widths[::-1],
                blocks,
                [1, 3, 3, 3],
                nn.Upsample(scale_factor=2),
                gain,
            ),
            conv(width, 2 * channels, 1),
        )

    def encode(self, image: Tensor) -> Tensor:
        """Features (N, F, maps * h, w) of images (N, C, H, W); the `maps` codes of a position are
        adjacent rows.
        """
        return self.encoder(image).unflatten(1, (self.maps, -1)).movedim(1, 3).flatten(2, 3)

    def decode(self, z: Tensor) -> Tensor:
        """Means and log-scales (N, 2 C, H, W) of z (N, D, maps * h, w)."""
        return self.decoder(z.unflatten(2, (-1, self.maps)).movedim(3, 1).flatten(1, 2))

    def look_up(self, codes: Tensor) -> Tensor:
        """z (N, D, maps * h, w) of codes (N, maps * h, w)."""
        return F.embedding(codes, self.quantiser.codebook).movedim(3, 1)


class DiscreteVAE(GenerativeModule):
    """Discrete variational autoencoder, or VQ-VAE.

    Args:
        image_shape: (C, H, W), a fact of the data.
        codes: K, size of the codebook.
        code_width: D, of each code.
        quantiser: Eq. 2 or Eq. 6.
        width: channels of the first group of blocks.
        downsamplings: times that the picture is halved.
        code_maps: Number of codes at each position of the grid; the grid of codes has `code_maps`
            times as many rows.
        blocks: of each of the groups.
        gain: of their branches; 0 for the paper's 1 / L^2, by all L of them.
        beta: weight of Eq. 4 or of the commitment in Eq. 6.
        beta_steps: updates over which it rises from 0.
        temperature: tau at the end, from 1.
        temperature_steps: updates until then.
        learning_rate: of AdamW.
        last_rate: share of it that is left when training ends.
        weight_decay: of all weights.
        ema_decay: of the average of the weights, which is what is judged and drawn from; less in
            the first updates.
    """

    monitor = ("val/nll", "min")
    ema_modules = ("network",)

    def __init__(
        self,
        image_shape: list[int],
        codes: int = 8192,
        code_width: int = 128,
        quantiser: Literal["gumbel", "vq"] = "gumbel",
        width: int = 256,
        downsamplings: int = 3,
        code_maps: int = 1,
        blocks: int = 2,
        gain: float = 0.0,
        beta: float = 6.6,
        beta_steps: int = 5000,
        temperature: float = 1 / 16,
        temperature_steps: int = 150_000,
        learning_rate: float = 1e-4,
        last_rate: float = 0.0125,
        weight_decay: float = 1e-4,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__()
        if width % 4:
            raise UserError(
                f"model.width {width}: give a multiple of 4, for a block narrows it to a quarter"
            )
        if codes < 2:
            raise UserError(f"model.codes {codes}: give at least 2")
        self.save_hyperparameters()
        rows, columns = conv_grid(image_shape, [0] * downsamplings)
        self.grid = [code_maps * rows, columns]
        self.network = Networks(
            image_shape[0],
            width,
            downsamplings,
            blocks,
            codes,
            code_width,
            code_maps,
            quantiser,
            gain,
        )
        self.init_ema()
        self.nll, self.squared_error = ImportanceSampledNLL(1), SquaredError()
        self.usage, self.perplexity, self.kept = (
            ImageTokenUsage(codes, "share"),
            ImageTokenUsage(codes, "perplexity"),
            ImageTokensKept(),
        )

    # Training

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        h, step = self.hparams, self.trainer.global_step
        beta = annealed(step, 0.0, h.beta, h.beta_steps)
        temperature = annealed(step, 1.0, h.temperature, h.temperature_steps)
        features = self.network.encode(batch["image"])
        z, term = self.network.quantiser(features, temperature)
        if isinstance(self.network.quantiser, VectorQuantiser):
            total, ranks = (
                partial(self.trainer.strategy.reduce, reduce_op="sum"),
                (self.trainer.global_rank, self.trainer.world_size),
            )
            self.network.quantiser.learn(features, step, total, *ranks)
        reconstruction = -self._log_likelihood(self.network, z, batch["image"]).mean()
        loss = reconstruction + beta * term.mean()  # Eq. 3
        self.log_train(beta=beta, temperature=temperature)
        return {
            "loss": loss,
            "reconstruction": reconstruction,
            "kl" if h.quantiser == "gumbel" else "commitment": term.mean(),
        }

    @staticmethod
    def _log_likelihood(network: Networks, z: Tensor, image: Tensor) -> Tensor:
        """log p(x|z) of dequantised pictures (N,)."""
        mean, log_scale = network.decode(z).float().chunk(2, 1)
        levels = (image + 1) * 127.5
        return logit_laplace_log_likelihood(
            mean, log_scale, (levels + torch.rand_like(levels)) / 256
        )

    def configure_optimizers(self) -> Any:
        h = self.hparams
        adam = torch.optim.AdamW(
            self.network.parameters(),
            h.learning_rate,
            (0.9, 0.999),
            weight_decay=h.weight_decay,
            fused=True,
        )
        return [adam], [cosine(adam, self.total_updates, last=h.last_rate)]

    # Figures

    def _measure(self, batch: dict[str, Any], stage: str) -> None:
        image, network = batch["image"], self.network
        features = network.encode(image)
        codes = network.quantiser.nearest(features)
        log_p = self._log_likelihood(network, network.look_up(codes), image)
        prior = -prod(self.grid) * math.log(
            self.hparams.codes
        )  # log p(z); q(z|x) is all in one place
        self.nll.update(lambda _: (log_p + prior)[None])
        self.log_metric(f"{stage}/nll", self.nll)
        loss = (
            -log_p.mean()
            + self.hparams.beta * network.quantiser(features, self.hparams.temperature)[1].mean()
        )
        self.log(f"{stage}/loss", loss, batch_size=len(image), sync_dist=True)
        self.usage.update(codes)
        self.perplexity.update(codes)
        self.log_metric(f"{stage}/codes_used", self.usage)
        self.log_metric(f"{stage}/codes_perplexity", self.perplexity)
        if stage == "test":
            picture = self.picture(codes)
            self.kept.update(codes, self.codes_of(picture))
            self.squared_error.update((picture + 1) / 2, (image + 1) / 2)
            self.log_metric("test/codes_kept", self.kept)
            self.log_metric("test/sse", self.squared_error)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        with self.averaged_weights():
            self._measure(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        with self.averaged_weights():
            self._measure(batch, "test")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.log("test/bpd", bits_per_dim(self.nll.compute(), prod(self.hparams.image_shape), 256))
        self.signatures["test/bpd"] = "bpd[codes=hard|prior=uniform|dequantised]"

    # Codes and pictures

    @sampling
    def codes_of(self, image: Tensor) -> Tensor:
        """Codes (N, h, w) of pictures (N, C, H, W) in [-1, 1], in full precision: with less, near
        ones are taken for each other.

        Raises:
            UserError: if the pictures are of another size.
        """
        shape = list(image.shape[1:])
        if shape != self.hparams.image_shape:
            raise UserError(
                f"these codes are of pictures {self.hparams.image_shape}, not {shape}: train a discrete VAE on them"
            )
        with torch.autocast(image.device.type, enabled=False):
            return self.network.quantiser.nearest(self.network.encode(image))

    @sampling
    def picture(self, codes: Tensor) -> Tensor:
        """Previews (N, C, H, W) in [-1, 1] of codes (N, h, w): where Eq. 5 has its median."""
        return self._mean(self.network.look_up(codes))

    def _mean(self, z: Tensor) -> Tensor:
        squeezed = self.network.decode(z).chunk(2, 1)[0].sigmoid()
        return ((squeezed - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1) * 2 - 1

    @sampling
    def reconstruct(self, image: Tensor) -> Tensor:
        """What is left of pictures that went through their codes."""
        return self.picture(self.codes_of(image))

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        mode: Literal["prior", "reconstruct"] = "prior",
    ) -> Tensor:
        """Draw from the uniform prior, which knows nothing of pictures, or show what the codes keep
        of one.

        Args:
            seeds: row i depends on `seeds[i]` alone.
            batch: unseen pictures, row i for seed i.
            mode: codes from Eq. 1; or reconstructions of unseen pictures beside them.

        Returns:
            (N, C, H, W), or strips (N, 2, C, H, W), in [-1, 1].

        Raises:
            UserError: if there are no pictures to reconstruct.
        """
        if mode == "reconstruct":
            if batch is None:
                raise UserError("--mode reconstruct needs pictures: give the data they come from")
            image = batch["image"].to(self.device)
            return torch.stack([image, self.reconstruct(image)], 1)
        rows = [
            torch.randint(
                self.hparams.codes, self.grid, generator=torch.Generator().manual_seed(seed)
            )
            for seed in seeds
        ]
        return self.picture(torch.stack(rows).to(self.device))

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Previews above their reconstructions, from the mean of all codes and from the chosen
        ones; and all codes as patches.
        """
        image, network = batch["image"], self.network
        features = network.encode(image)
        rows = [image, self.picture(network.quantiser.nearest(features))]
        if self.hparams.quantiser == "gumbel":
            soft = torch.einsum("nkhw,kd->ndhw", features.softmax(1), network.quantiser.codebook)
            rows.insert(1, self._mean(soft))
        return {"reconstructions": torch.stack(rows), "codebook": self._patches()}

    def _patches(self) -> Tensor:
        """What each of the first 1,024 codes looks like amid its like, (K, C, P, P)."""
        side = 2**self.hparams.downsamplings
        codes = torch.arange(min(1024, self.hparams.codes), device=self.device)[:, None, None]
        codes = codes.expand(-1, 3 * self.hparams.code_maps, 3)
        return self.picture(codes)[:, :, side : 2 * side, side : 2 * side]


def discrete_vae(dvae: str | dict[str, Any], image_shape: list[int]) -> DiscreteVAE:
    """From a checkpoint, or new from its hyper-parameters, for a system that holds it (whose
    `__init__` may not call the other's: Lightning would take the arguments of both for
    hyper-parameters of each).

    Raises:
        UserError: if it is something else, or of other pictures.
    """
    if isinstance(dvae, str) and not Path(dvae).is_file():
        raise UserError(
            f"model.dvae {dvae}: there is no such checkpoint; train a discrete VAE first (configs/dvae)"
        )
    made = load(dvae) if isinstance(dvae, str) else DiscreteVAE(**dvae)
    if not isinstance(made, DiscreteVAE):
        raise UserError(
            f"model.dvae {dvae}: is a {type(made).__name__}; give the checkpoint of a discrete VAE"
        )
    if made.hparams.image_shape != image_shape:
        raise UserError(
            f"model.dvae {dvae}: is of pictures {made.hparams.image_shape}, this data's are {image_shape}; train one on it"
        )
    return made
