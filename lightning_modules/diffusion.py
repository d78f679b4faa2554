"""Diffusion: a network that removes noise from images; sampling applies it many times to noise.

Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models" (DDPM), NeurIPS 2020, with the
cosine schedule of Nichol and Dhariwal, "Improved DDPM", ICML 2021. The objective "velocity" is from
Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023, with the straight paths of Liu et
al., "Flow Straight and Fast" (rectified flow), ICLR 2023. Guidance is from Ho and Salimans,
"Classifier-Free Diffusion Guidance", NeurIPS workshop 2021.

    x_t = alpha_t x + sigma_t e,   e ~ N(0, I),   0 <= t <= 1                                    (1)
    noise:     alpha_t = cos(pi/2 (t + .008)/1.008) / cos(pi/2 .008/1.008),
               sigma_t^2 = 1 - alpha_t^2,  L = E |F(x_t, t) - e|^2 / D                           (2)
    velocity:  alpha_t = 1 - t,  sigma_t = t,  L = E |F(x_t, t) - (e - x)|^2 / D                 (3)
    q(x_s | x_t, x) = N(alpha_s (w x_t/alpha_t + (1 - w) x), sigma_s^2 (1 - w)),
               w = (r_s/r_t)^2,  s < t                                                           (4)
    DDIM:      x_s = alpha_s x^ + sigma_s e^                                                     (5)
    ODE:       d(x_t/alpha_t) / dr_t = e^                                                        (6)
    guidance:  F_g = F(x_t, t) + g (F(x_t, t, y) - F(x_t, t))                                    (7)
    -log p(x) <= E[-log p(x|x_0)] + KL(q(x_T|x) || N(0, sigma_T^2))
               + T/2 E_i[(1/r_{i-1}^2 - 1/r_i^2) |x - x^|^2],  r_0 < ... < r_T                   (8)

Symbols: x `image` (N, C, H, W) in [-1, 1] · D, the number of values of an image · e `noise` · t `t`
(N,), 0 for images, 1 for noise · F `network` · x^, e^ `denoised`, `predicted_noise`, computed from
the output of F · alpha, sigma `alpha`, `sigma` · r = sigma/alpha `ratio` · y `label` · g
`guidance`, 1 + w of Ho and Salimans · T `BOUND_STEPS`. In Eq. 8, indices number the noise levels:
x_i is x_t at the ratio r_i, and x^ is limited to [-1, 1].

With the objective "image", F predicts the image: x^ = F(x_t, t). The velocity (x_t - F)/t in Eq. 3
gives L = E |F(x_t, t) - x|^2 / (D max(t, .05)^2); the bound .05 limits the weight of small t. An
image is easier to predict than noise if the network works on squares of pixels (`patch`), because
images lie near a low-dimensional manifold (Li and He, "Back to Basics: Let Denoising Generative
Models Denoise", 2025; with a Transformer instead of the U-Net).

All objectives estimate the same function: the mean E[x | x_t/alpha_t] at the noise level r_t. If F
minimises its objective, x^ is this mean over all images that fit x_t, and e^ = (x_t - alpha_t
x^)/sigma_t. The objectives differ in the path, in the output of the network and in the weights of
the noise levels. Many uniform t have a very high or very low noise level, at which the network
learns little. Logit-normal t are more often near 1/2 (Esser et al., "Scaling Rectified Flow
Transformers for High-Resolution Image Synthesis", ICML 2024, section 3.1). At high noise levels, x^
is blurred (`preview` shows x^ at several t). Samplers therefore remove the noise in many steps.

Samplers: "ddpm" samples Eq. 4 with x^ in place of x, limited to [-1, 1] as in the released code (Ho
et al., Algorithm 2). "ddim" follows Eq. 5 without new noise (J. Song, Meng and Ermon, "Denoising
Diffusion Implicit Models", ICLR 2021); on the path of Eq. 3, this is an Euler step, x_s = x_t + (s
- t) (e^ - x^). "heun" solves Eq. 6 with Heun's method and the noise levels of Karras et al.,
NeurIPS 2022 (Algorithm 1); its error falls with the square of the number of steps. Eq. 8 is the
bound of Kingma et al., "Variational Diffusion Models", NeurIPS 2021 (Eq. 11 to 13), with T noise
levels in geometric progression. It is valid for all objectives.

Inpainting replaces the known pixels after every step by the input at that step's noise level (Y.
Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021,
appendix I.2). "heun" and "ddim" add the same noise in all steps, so new pixels fit the known ones
less well than with "ddpm". The resampling of RePaint (Lugmayr et al. 2022) is not implemented.

| | paper or released code, CIFAR-10 | here |
|---|---|---|
| schedule of the noise | linear beta, 1,000 steps | cosine, continuous t |
| network | width 128, factors 1, 2, 2, 2, two blocks each, attention at 16 x 16 | options |
| initial weights | uniform, scaled by inputs and outputs | PyTorch's; last layers are 0 |
| time embedding | sinusoids of the step, two layers | sinusoids of 1,000 t, two layers |
| new noise of a "ddpm" step | variance beta | variance of Eq. 4 |
| optimizer | Adam 2e-4, batch 128, warm-up of 5,000 updates, clipping at 1 | options |
| averaged weights | decay .9999 | option; the decay rises from .1 |
| input | pixels | option `patch`: squares of pixels as channels |
| time of "velocity" and "image" | 0 for noise; velocity x - e | 0 for images; velocity e - x |
| first and last time of a sampler | 1 and 0 | those of r = 80 and r = .002 |
"""

import itertools
import math
from collections.abc import Callable
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
from lightning_modules.core.conditioning import classes_used, labels_of
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.seeding import seeded_normal
from lightning_modules.optim.muon import muon_or_adamw
from lightning_modules.optim.schedules import cosine
from metrics.likelihood import bits_per_dim, reconstruction_nll

FIRST_ANGLE = math.pi / 2 * 0.008 / 1.008  # of Eq. 2 at t = 0
MIN_ALPHA = 5e-5  # of Eq. 2 at t = 1, where Nichol and Dhariwal limit beta to .999
MIN_RATIO, MAX_RATIO = 0.002, 80.0  # r between which samplers and the bound evaluate the network
RHO = 7.0  # curvature of the noise levels of "heun" (Karras et al. 2022, Eq. 5)
BOUND_STEPS = 1000  # T of Eq. 8
ADAMW_RATE = 1e-3  # peak learning rate of gains and biases with Muon
PREVIEWED = (0.2, 0.5, 0.8)  # values of t

Objective = Literal["noise", "velocity", "image"]
# Functions of noisy images (N, C, H, W) and a time, a scalar: the first returns x^ and e^, the
# second the images with known pixels restored. The third returns new noise.
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Restore = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[], Tensor]


class NoisePath:
    """Coefficients of Eq. 1, and the meaning of the network's output, for one of the objectives.

    Args:
        objective: Objective of the training: "noise" has the path of Eq. 2, "velocity" and "image"
            that of Eq. 3.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma for times t in [0, 1], of any shape."""
        if self.objective != "noise":
            return 1 - t, t
        turn, scale = math.pi / 2 / 1.008 * t, math.cos(FIRST_ANGLE)
        alpha = ((FIRST_ANGLE + turn).cos() / scale).clamp(min=MIN_ALPHA)
        # cos^2 a - cos^2 b = sin(b - a) sin(b + a) has no difference of close numbers
        return alpha, (turn.sin() * (2 * FIRST_ANGLE + turn).sin()).sqrt() / scale

    def time(self, ratio: Tensor) -> Tensor:
        """Return the times t at which sigma / alpha has the given values."""
        if self.objective != "noise":
            return ratio / (1 + ratio)
        sine = (ratio.square() + math.sin(FIRST_ANGLE) ** 2).sqrt()
        angle = torch.atan2(sine, torch.full_like(ratio, math.cos(FIRST_ANGLE)))
        return ((angle - FIRST_ANGLE) * 1.008 * 2 / math.pi).clamp(0, 1)

    def posterior(self, x_t: Tensor, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of q(x_s | x_t, x) (Eq. 4), for times s < t."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.coefficients(t), self.coefficients(s)
        weight = (sigma_s * alpha_t / (alpha_s * sigma_t)).square()  # w
        mean = alpha_s * (weight * x_t / alpha_t + (1 - weight) * x)
        return mean, sigma_s * (1 - weight).clamp(min=0).sqrt()

    def predictions(self, x_t: Tensor, t: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return x^ and e^ for noisy images (N, C, H, W), times t (N,) or () and outputs of F."""
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in self.coefficients(t))
        if self.objective == "image":
            return output, (x_t - alpha * output) / sigma
        if self.objective == "velocity":
            return x_t - sigma * output, x_t + alpha * output
        return (x_t - sigma * output) / alpha, output


def group_norm(channels: int) -> nn.GroupNorm:
    """Return group norm with 32 groups, or fewer if they do not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def init_zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Set a layer to 0, so that its output is 0 at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


class ResidualBlock(nn.Module):
    """Two convolutions with a skip connection, shifted by the embedding of time and label."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(inputs), group_norm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.shift = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        self.dropout = nn.Dropout(dropout)
        self.conv2 = init_zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x))) + self.shift(embedding)[:, :, None, None]
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(hidden))))


class SelfAttention(nn.Module):
    """Attention with one head between all positions of a feature map, with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.output = init_zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        # Fused kernels need contiguous channels.
        qkv = self.qkv(self.norm(x)).flatten(2).mT.contiguous()
        q, k, v = qkv.unsqueeze(1).chunk(3, 3)  # (N, 1, HW, C)
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.output(mixed.mT.unflatten(2, x.shape[2:]))


class Stage(nn.Sequential):
    """Layers in sequence, of which the residual blocks also receive the embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class UNet(nn.Module):
    """U-Net of Ho et al. 2020, appendix B.

    Each resolution of the encoder has residual blocks; all but the last end with a convolution that
    halves the sides. The decoder mirrors the encoder. Each block of the decoder also receives the
    output of one layer of the encoder.

    Args:
        channels: Number of channels of an image.
        patch: Side of the square of pixels that become the channels of one position.
        width: Number of channels of the first level.
        levels: Factor of `width` at each level.
        blocks: Number of residual blocks per level of the way down; one more on the way up.
        attention: Indices of the levels with attention after each block.
        dropout: Dropout rate of the residual blocks.
        classes: Number of labels; the label `classes` stands for no label.
    """

    frequencies: Tensor

    def __init__(
        self,
        channels: int,
        patch: int,
        width: int,
        levels: list[int],
        blocks: int,
        attention: list[int],
        dropout: float,
        classes: int,
    ) -> None:
        super().__init__()
        size = 4 * width
        frequencies = 10_000 ** -torch.linspace(0, 1, width // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.time = nn.Sequential(nn.Linear(width, size), nn.SiLU(), nn.Linear(size, size))
        self.label = nn.Embedding(classes + 1, size) if classes else None
        values = channels * patch**2
        self.first = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(values, width, 3, padding=1))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now, stack = width, [width]  # channels of the current features, and of saved ones

        def stage(inputs: int, outputs: int, level: int) -> Stage:
            layers = Stage(ResidualBlock(inputs, outputs, size, dropout))
            return layers.append(SelfAttention(outputs)) if level in attention else layers

        for level, factor in enumerate(levels):
            for _ in range(blocks):
                self.down.append(stage(now, factor * width, level))
                now = factor * width
                stack.append(now)
            if level + 1 < len(levels):
                self.down.append(Stage(nn.Conv2d(now, now, 3, 2, 1)))
                stack.append(now)
        first, last = (ResidualBlock(now, now, size, dropout) for _ in range(2))
        self.middle = Stage(first, SelfAttention(now), last)
        for level, factor in reversed(list(enumerate(levels))):
            for number in range(blocks + 1):
                layers = stage(now + stack.pop(), factor * width, level)
                now = factor * width
                if level and number == blocks:
                    layers.extend([nn.Upsample(scale_factor=2.0), nn.Conv2d(now, now, 3, 1, 1)])
                self.up.append(layers)
        output = init_zero(nn.Conv2d(now, values, 3, padding=1))
        self.last = nn.Sequential(group_norm(now), nn.SiLU(), output, nn.PixelShuffle(patch))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """Return F(x, t, y), of the shape of noisy images x (N, C, H, W).

        Args:
            x: Noisy images (N, C, H, W).
            t: Times (N,) in [0, 1].
            label: Labels (N,), `classes` for none; None for a network without labels.
        """
        angles = 1000 * t[:, None] * self.frequencies
        embedding = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        if self.label is not None:
            embedding = embedding + self.label(label)
        x = self.first(x)
        saved = [x]
        for stage in self.down:
            x = stage(x, embedding)
            saved.append(x)
        x = self.middle(x, embedding)
        for stage in self.up:
            x = stage(torch.cat([x, saved.pop()], 1), embedding)
        return self.last(x)


class Diffusion(GenerativeModule):
    """Diffusion model, optionally conditioned on labels.

    Args:
        Data:
        image_shape: Shape (C, H, W) of an image, supplied by the data module.
        num_classes: Number of classes, supplied by the data module; used only if `conditional`.
        Network:
        conditional: Whether to condition the model on the class labels y of the data: p(x|y)
            instead of p(x).
        patch: Side in pixels of the squares whose pixels become channels (`PixelUnshuffle`); 1 for
            none. With 2, the network works at half the resolution and takes about a quarter of the
            time.
        width: Number of channels at the first resolution; must be even.
        levels: Factors of `width`, one per resolution. The side of the feature maps is halved
            from one resolution to the next.
        blocks: Number of residual blocks per resolution of the encoder; the decoder has one more.
        attention: Indices of the resolutions with self-attention; 0 is the first resolution.
        dropout: Dropout rate of the residual blocks.
        Objective:
        objective: Prediction target of the network: "noise" (Eq. 2 in `diffusion.py`), "velocity"
            (Eq. 3, flow matching) or "image" (the image itself, with the noise levels of
            "velocity"; meant for `patch` above 1).
        times: Distribution of the times t of training, from 0 (image) to 1 (noise): "uniform", or
            "logit-normal", the sigmoid of a standard normal value, which is more often near 1/2.
        label_dropout: Probability that the label of a training image is dropped, in conditional
            models. Guidance needs a value above 0.
        Optimizer:
        optimizer: Type of optimizer: AdamW without weight decay, which is Adam ("adamw"), or Muon
            (`optim/muon.py`) for matrices and kernels and Adam for gains and biases ("muon").
        learning_rate: Peak learning rate. With "muon", only that of matrices and kernels; the
            learning rate of gains and biases is 1e-3.
        warmup_steps: Number of updates over which the learning rate rises linearly.
        last_rate: Learning rate at the last update, as a fraction of the peak; the decay follows
            half a cosine. 1 keeps the learning rate constant after the warm-up.
        ema_decay: Decay of the moving average of the weights, used in evaluation and sampling. The
            decay is smaller in the first updates.
        Test:
        test_times: Number of noise levels per image at which the test bound is estimated.

    Raises:
        UserError: If a side of the images cannot be divided by `patch` and halved between levels,
            if `width` is odd, if `attention` has an index outside `levels`, or if `conditional` is
            true and the data has no labels.
    """

    monitor = ("val/loss", "min")
    ema_modules = ("network",)

    def __init__(
        self,
        image_shape: list[int],
        num_classes: int | None = None,
        conditional: bool = False,
        patch: PositiveInt = 1,
        width: PositiveInt = 64,
        levels: list[PositiveInt] = [1, 2, 2],  # noqa: B006  # read only
        blocks: PositiveInt = 2,
        attention: list[NonNegativeInt] = [2],  # noqa: B006  # read only
        dropout: ClosedUnitInterval = 0.0,
        objective: Objective = "noise",
        times: Literal["uniform", "logit-normal"] = "uniform",
        label_dropout: ClosedUnitInterval = 0.1,
        optimizer: Literal["adamw", "muon"] = "adamw",
        learning_rate: PositiveFloat = 2e-4,
        warmup_steps: NonNegativeInt = 500,
        last_rate: ClosedUnitInterval = 1.0,
        ema_decay: OpenUnitInterval = 0.999,
        test_times: PositiveInt = 20,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        channels, *sides = image_shape
        divisor = patch * 2 ** (len(levels) - 1)
        if any(side % divisor for side in sides):
            raise UserError(
                f"images of {sides[0]}x{sides[1]}: sides must be multiples of {divisor} for "
                f"{len(levels)} model.levels and model.patch {patch}; resize the images"
            )
        if width % 2:
            raise UserError(f"model.width must be even (got {width})")
        if wrong := [level for level in attention if level >= len(levels)]:
            raise UserError(f"model.attention has {wrong}; model.levels has {len(levels)} entries")
        self.classes = classes_used(num_classes, conditional)
        self.path = NoisePath(objective)
        self.network = UNet(
            channels, patch, width, levels, blocks, attention, dropout, self.classes
        )
        self.init_ema()

    # Training

    def add_noise(self, image: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return x_t (Eq. 1) for images (N, C, H, W), times (N,) and noise of the images' shape."""
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in self.path.coefficients(t))
        return alpha * image + sigma * noise

    def times_at(self, quantiles: Tensor) -> Tensor:
        """Return the times t (N,) at quantiles (N,) of their distribution in training."""
        normal = torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4))
        return normal.sigmoid() if self.hparams.times == "logit-normal" else quantiles

    def losses_at(self, batch: dict[str, Any], t: Tensor, label: Tensor | None) -> Tensor:
        """Return the loss (N,) of the objective at times t (N,), averaged over image values."""
        image, noise = batch["image"], torch.randn_like(batch["image"])
        output = self.network(self.add_noise(image, t, noise), t, label).float()
        targets = {"noise": noise, "velocity": noise - image, "image": image}
        error = (output - targets[self.path.objective]).square().mean((1, 2, 3))
        return error / t.clamp(min=0.05).square() if self.path.objective == "image" else error

    def labels_of(self, batch: dict[str, Any]) -> Tensor | None:
        """Return the labels (N,) of a batch; None if the model is not conditional."""
        return batch["label"] if self.classes else None

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        count, label = len(batch["image"]), self.labels_of(batch)
        if label is not None:
            dropped = torch.rand(count, device=self.device) < self.hparams.label_dropout
            label = torch.where(dropped, self.classes, label)
        # The loss varies less with evenly spaced times and a common random offset than with
        # independent times (Kingma et al. 2021, appendix I.1: low-discrepancy sampler).
        spaced = torch.arange(count, device=self.device) + torch.rand((), device=self.device)
        return {"loss": self.losses_at(batch, self.times_at(spaced / count), label).mean()}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        count = len(batch["image"])
        t = self.times_at((torch.arange(count, device=self.device) + 0.5) / count)
        with self.averaged_weights():
            loss = self.losses_at(batch, t, self.labels_of(batch)).mean()
        self.log("val/loss", loss, batch_size=count, sync_dist=True)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        net, betas = self.network, (0.9, 0.999)
        # AdamW without weight decay is Adam.
        optimizer = muon_or_adamw(h.optimizer, net, net, h.learning_rate, ADAMW_RATE, betas, 0.0)
        total = self.total_updates if h.last_rate < 1 else 0  # a constant rate needs no length
        return [optimizer], [cosine(optimizer, total, h.warmup_steps, h.last_rate)]

    # Likelihood

    def bound(self, image: Tensor, label: Tensor | None, times: int) -> Tensor:
        """Return an unbiased estimate of the bound of Eq. 8 (N,), in nats per image.

        Args:
            image: Images (N, C, H, W) with values k / 127.5 - 1, where k is one of 0 to 255.
            label: Labels (N,); None if the model is not conditional.
            times: Number of noise levels at which the sum over i is estimated.
        """
        # 256 logits per pixel value: 3 MB per colour image of 32 x 32, so 8 images at a time
        noisy = image + MIN_RATIO * torch.randn_like(image)
        pairs = zip(noisy.split(8), image.split(8))
        parts = [reconstruction_nll(y, x, MIN_RATIO) for y, x in pairs]
        prior = (image / MAX_RATIO).square().sum((1, 2, 3)) / 2
        total = torch.zeros(len(image), device=self.device)
        factor = (MAX_RATIO / MIN_RATIO) ** (1 / BOUND_STEPS)
        for number in range(times):  # one i from each of `times` equal parts of 1 .. T
            part = (number + torch.rand(len(image), device=self.device)) / times
            i = (part * BOUND_STEPS).floor().clamp(max=BOUND_STEPS - 1) + 1
            ratio, before = MIN_RATIO * factor**i, MIN_RATIO * factor ** (i - 1)
            t = self.path.time(ratio)
            x_t = self.add_noise(image, t, torch.randn_like(image))
            denoised, _ = self.path.predictions(x_t, t, self.network(x_t, t, label).float())
            error = (image - denoised.clamp(-1, 1)).square().sum((1, 2, 3))
            total += (before**-2 - ratio**-2) * error
        return torch.cat(parts) + prior + BOUND_STEPS / 2 * total / times  # Eq. 8

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        h, label = self.hparams, self.labels_of(batch)
        # bf16 would round the noise of low noise levels.
        with self.averaged_weights(), torch.autocast(self.device.type, enabled=False):
            nats = self.bound(batch["image"], label, h.test_times)
        bits = bits_per_dim(nats, math.prod(h.image_shape))
        self.log("test/bpd", bits.mean(), batch_size=len(bits), sync_dist=True)
        given = "|given=label" if self.classes else ""
        self.signatures["test/bpd"] = f"bpd[bound|steps={BOUND_STEPS}|times={h.test_times}{given}]"

    # Samples

    def guided(self, x: Tensor, t: Tensor, label: Tensor | None, guidance: float) -> Tensor:
        """Return the network's output with guidance (Eq. 7), for noisy images (N, C, H, W)."""
        if label is None:
            return self.network(x, t, None)
        none = torch.full_like(label, self.classes)
        if guidance in (0, 1):
            return self.network(x, t, label if guidance else none)
        both = self.network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([none, label]))
        without, given = both.chunk(2)
        return without + guidance * (given - without)  # Eq. 7

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        sampler: Literal["heun", "ddim", "ddpm"] = "heun",
        steps: PositiveInt = 20,
        label: int | None = None,
        guidance: NonNegativeFloat = 1.0,
        image: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Generate images from noise, or fill a region of given images.

        Args:
            seeds: One seed per image. Image i depends on `seeds[i]` and on its row of `image` and
                `mask` alone.
            sampler: Sampling algorithm: "heun" and "ddim" are deterministic for a given initial
                noise; "ddpm" adds noise at each step. For few steps, "heun" is the most accurate.
            steps: Number of steps. "ddpm" needs hundreds of steps. "heun" evaluates the network
                twice per step, except the last.
            label: Class of all images, for conditional models. With None, the class of image i is
                `seeds[i] % classes`.
            guidance: Weight g of the guidance (Eq. 7 in `diffusion.py`), for conditional models: 0
                ignores the label, 1 is the conditional model. Larger values give more typical and
                less diverse images.
            image: Image (N, C, H, W) in [-1, 1] in which the pixels selected by `mask` are
                replaced; needs `mask`.
            mask: Mask (N, 1, H, W): 1 (white) where pixels are generated, 0 (black) elsewhere.

        Returns:
            Images (N, C, H, W) in [-1, 1].

        Raises:
            UserError: If the model has no class `label`, if `guidance` is not 1 and the model was
                not trained for it, or if only one of `image` and `mask` is given.
        """
        given = labels_of(seeds, label, self.classes, self.device)
        if guidance != 1 and not (self.classes and self.hparams.label_dropout):
            raise UserError(
                "--guidance needs a model with model.conditional true and model.label_dropout "
                "above 0: leave it out"
            )
        if (image is None) != (mask is None):
            raise UserError("--input and --mask belong together: give both, or none of them")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        # Other generators for the known pixels: they must not change the noise of the others.
        restoring = [torch.Generator().manual_seed(seed + 2**40) for seed in seeds]
        noise = self.draw(generators)
        known = None if image is None or mask is None else (image.to(noise), mask.to(noise) > 0)

        def predict(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            """Return x^ and e^ for noisy images at the time t, a scalar."""
            output = self.guided(x, t.expand(len(x)), given, guidance).float()
            return self.path.predictions(x, t, output)

        def restore(x: Tensor, t: Tensor) -> Tensor:
            """Replace the known pixels by those of the input at the noise level of time t."""
            if known is None:
                return x
            alpha, sigma = self.path.coefficients(t)
            new = self.draw(restoring) if sampler == "ddpm" else noise
            return torch.where(known[1], x, alpha * known[0] + sigma * new)

        if sampler == "heun":
            x = heun(self.path, predict, restore, noise, steps)
        else:
            draw = (lambda: self.draw(generators)) if sampler == "ddpm" else None
            x = ddim_or_ddpm(self.path, predict, restore, noise, steps, draw)
        return (x if known is None else torch.where(known[1], x, known[0])).clamp(-1, 1)

    def draw(self, generators: list[torch.Generator]) -> Tensor:
        """Sample standard normal noise (N, C, H, W), row i with generator i, on the CPU."""
        rows = [torch.randn(self.hparams.image_shape, generator=one) for one in generators]
        return torch.stack(rows).to(self.device)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Return samples, and noisy validation images with x^ for several t."""
        image, label = batch["image"], self.labels_of(batch)
        noise = seeded_normal(list(range(len(image))), image.shape[1:], self.device)
        rows, names = [image], ["image"]
        for value in PREVIEWED:
            t = torch.full((len(image),), value, device=self.device)
            x_t = self.add_noise(image, t, noise)
            denoised, _ = self.path.predictions(x_t, t, self.network(x_t, t, label).float())
            rows += [x_t.clamp(-1, 1), denoised.clamp(-1, 1)]
            names += [f"x_t, t = {value}", f"x^, t = {value}"]
        samples = self.sample(list(range(len(image))), steps=10)
        return {"samples": samples, "denoised": torch.stack(rows), "denoised/rows": names}


def ddim_or_ddpm(
    path: NoisePath, predict: Predict, restore: Restore, x: Tensor, steps: int, draw: Draw | None
) -> Tensor:
    """Return images (N, C, H, W) after equal steps of t.

    Args:
        path: Coefficients of Eq. 1.
        predict: Function of noisy images and a time that returns x^ and e^.
        restore: Function of noisy images and a time that restores known pixels.
        x: Initial noise (N, C, H, W).
        steps: Number of steps.
        draw: Function that samples new noise for each step (DDPM, Eq. 4); None for DDIM (Eq. 5).
    """
    first, last = path.time(torch.tensor([MAX_RATIO, MIN_RATIO], device=x.device))
    times = torch.lerp(first, last, torch.linspace(0, 1, steps, device=x.device))
    x = restore(path.coefficients(first)[1] * x, first)
    for t, s in itertools.pairwise(times):
        denoised, predicted_noise = predict(x, t)
        if draw is None:
            alpha, sigma = path.coefficients(s)
            x = alpha * denoised + sigma * predicted_noise  # Eq. 5
        else:
            mean, deviation = path.posterior(x, denoised.clamp(-1, 1), t, s)
            x = mean + deviation * draw()  # Eq. 4
        x = restore(x, s)
    return predict(x, times[-1])[0]


def heun(path: NoisePath, predict: Predict, restore: Restore, x: Tensor, steps: int) -> Tensor:
    """Solve Eq. 6 with Heun's method (Karras et al. 2022, Algorithm 1) and return images.

    Args:
        path: Coefficients of Eq. 1.
        predict: Function of noisy images and a time that returns x^ and e^.
        restore: Function of noisy images and a time that restores known pixels.
        x: Initial noise (N, C, H, W).
        steps: Number of steps.
    """
    high, low = MAX_RATIO ** (1 / RHO), MIN_RATIO ** (1 / RHO)
    ratios = torch.linspace(high, low, steps, device=x.device) ** RHO
    times = path.time(ratios)
    alphas, _ = path.coefficients(times)
    y = restore(ratios[0] * alphas[0] * x, times[0]) / alphas[0]  # x_t / alpha_t
    for k in range(steps - 1):
        slope = predict(alphas[k] * y, times[k])[1]
        change = ratios[k + 1] - ratios[k]
        guess = y + change * slope
        slope = (slope + predict(alphas[k + 1] * guess, times[k + 1])[1]) / 2
        y = restore(alphas[k + 1] * (y + change * slope), times[k + 1]) / alphas[k + 1]
    return predict(alphas[-1] * y, times[-1])[0]
