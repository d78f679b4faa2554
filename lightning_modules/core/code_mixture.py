"""Mixture of Gaussians that describes the codes of training images, from which codes are sampled.

Ghosh et al., "From Variational to Deterministic Autoencoders", ICLR 2020, section 4 ("ex-post
density estimation"). The training of the system does not use the mixture.
"""

import math
from typing import Any

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_modules.core.modes import evaluating
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.seeding import seeded_normal

EM_STEPS = 20  # steps of expectation maximisation
FITTED_CODES = 5000  # maximum number of training images
CODES_PER_COMPONENT = 30  # minimum; with fewer, samples resemble single training images
PSEUDO_COUNT = 20  # regularisation of the variances


class CodeMixture(nn.Module):
    """Mixture of K Gaussians with diagonal covariance matrices, fitted to codes.

    Before the first call of `fit`, all components are N(0, I).

    Args:
        components: Number K of Gaussians.
        latent_dim: Size D of a code.
    """

    weights: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, components: int, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("mean", torch.zeros(components, latent_dim))
        self.register_buffer("variance", torch.ones(components, latent_dim))

    @torch.no_grad()
    def fit(self, codes: Tensor) -> None:
        """Fit the mixture to codes (N, D) by expectation maximisation.

        The means start as random codes. There is at most one component per `CODES_PER_COMPONENT`
        codes; the others have weight 0. The variances of a component are estimated as if it had
        `PSEUDO_COUNT` more codes, with a tenth of the variance of all codes.
        """
        count = len(codes)
        used = max(1, min(len(self.weights), count // CODES_PER_COMPONENT))
        start = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:used]
        overall = codes.var(0, correction=0) + 1e-6  # above 0 even if all codes are equal
        self.weights.zero_()[:used] = 1 / used
        self.mean.zero_()[:used] = codes[start.to(codes.device)]
        self.variance.copy_(overall.expand_as(self.mean))
        for _ in range(EM_STEPS):
            responsibility = (self.weights.log() + self.log_densities(codes)).softmax(1)  # (N, K)
            size = responsibility.sum(0)
            self.weights.copy_(size / count)
            size = size.clamp(min=1e-6)[:, None]
            self.mean.copy_(responsibility.T @ codes / size)
            scatter = responsibility.T @ codes.square() - size * self.mean.square()
            scatter = scatter.clamp(min=0) + PSEUDO_COUNT * overall / 10
            self.variance.copy_(scatter / (size + PSEUDO_COUNT))

    def log_densities(self, codes: Tensor) -> Tensor:
        """Return the log density in nats of codes (N, D) under each component, (N, K).

        The square is expanded, since matrix products are faster than tensors (N, K, D).
        """
        precision = 1 / self.variance
        squares = codes.square() @ precision.T - 2 * codes @ (precision * self.mean).T
        constant = self.mean.square() * precision + (2 * math.pi * self.variance).log()
        return -0.5 * (squares + constant.sum(1))

    def sample(self, noise: Tensor, uniform: Tensor) -> Tensor:
        """Sample codes (..., D).

        Args:
            noise: Noise (..., D) from N(0, I).
            uniform: Random numbers (...) in [0, 1], which select the components.
        """
        cumulative = self.weights.cumsum(0)
        chosen = torch.searchsorted(cumulative, uniform * cumulative[-1])
        return self.mean[chosen] + self.variance[chosen].sqrt() * noise


class CodeSampler(GenerativeModule):
    """System with a latent space whose codes can be sampled from a mixture of Gaussians.

    A subclass implements `encode`, sets `latent_dim` and calls `init_mixture` in `__init__`.

    Attributes:
        latent_dim: Size D of a code.
        classes: Number of classes if `encode` also takes labels, otherwise 0.
        mixture: Mixture of Gaussians, or None.
    """

    sampling_settings = ("mixture_components",)
    latent_dim: int
    classes = 0

    def init_mixture(self, components: int) -> None:
        """Create a mixture of `components` Gaussians, or none if `components` is 0."""
        self.mixture = CodeMixture(components, self.latent_dim) if components else None
        self._fitted_at = -1  # number of the update after which the mixture was fitted

    @torch.no_grad()
    def fit_mixture(self) -> None:
        """Fit the mixture to codes of training images, with averaged weights if there are any.

        Every rank encodes the same images. Nothing happens without a mixture, or if it was fitted
        to the current weights before.
        """
        if self.mixture is None or self._fitted_at == self.trainer.global_step:
            return
        self._fitted_at = self.trainer.global_step
        model: Any = self
        data = model.trainer.datamodule
        count = len(data.split("train"))
        codes = []
        with self.averaged_weights(), evaluating(self):
            for index in torch.arange(0, count, -(-count // FITTED_CODES)).split(500):
                batch = data.batch("train", index.tolist())
                given = [batch["label"].to(self.device)] if self.classes else []
                codes.append(model.encode(batch["image"].to(self.device), *given))
        self.mixture.fit(torch.cat(codes))

    def on_validation_epoch_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:  # previews sample from the mixture
            self.fit_mixture()

    def on_train_end(self) -> None:
        self.fit_mixture()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fit the mixture to the saved weights."""
        super().on_save_checkpoint(checkpoint)
        if self.mixture is not None:
            self.fit_mixture()  # changes the buffers in `checkpoint["state_dict"]`

    def sample_codes(self, seeds: list[int], temperature: float, mixture: bool) -> Tensor:
        """Sample two codes per seed, (N, 2, D), from the mixture or from N(0, I).

        Args:
            seeds: One seed per pair of codes.
            temperature: Factor by which the noise is multiplied.
            mixture: Whether to sample from the mixture. Systems without a mixture sample from
                N(0, I).
        """
        if self.mixture is None or not mixture:
            return temperature * seeded_normal(seeds, (2, self.latent_dim), self.device)
        noise = seeded_normal(seeds, (2, self.latent_dim + 1), self.device)
        uniform = torch.special.ndtr(noise[..., -1].contiguous())
        return self.mixture.sample(temperature * noise[..., :-1], uniform)
