"""GAN: a generator learns p(x) from nothing but the judgement of a discriminator that learns to
tell its pictures from real ones.

Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014; the conditional p(x|y) is Mirza and
Osindero, "Conditional Generative Adversarial Nets", 2014.

    min_G max_D  E_x[log D(x)] + E_z[log(1 - D(G(z)))]                                           (1)
    D*(x) = p_data(x) / (p_data(x) + p_g(x))                                                     (2)

Symbols: z `noise` (N, D) · G(z) `generator` · logit of D `discriminator`, so that D =
sigmoid(logit) · y `label`, one-hot, a second input of both networks. Losses are means over the
batch. With `real` and `fake` for the discriminator's logits of real and generated images:

| loss | D minimises | G minimises |
|---|---|---|
| minimax (Eq. 1) | softplus(-real) + softplus(fake) | -softplus(fake) = log(1 - D(G(z))) |
| non_saturating (section 3) | the same | softplus(-fake) = -log D(G(z)) |
| least_squares (Mao et al. 2017, Eq. 9) | ((real - 1)^2 + fake^2) / 2 | (fake - 1)^2 / 2 |
| wasserstein (Arjovsky et al. 2017, Eq. 2) | fake - real | -fake |
| hinge (Miyato et al. 2018, Eq. 16, 17) | relu(1 - real) + relu(1 + fake) | -fake |

Where D is sure (fake far below 0), the slope of the minimax loss is sigmoid(fake), which vanishes;
that of the non-saturating loss is sigmoid(fake) - 1, which does not. The fixed point of both is D =
1/2, whatever the images look like: neither loss tells how good they are. The Wasserstein estimate
E[D(x)] - E[D(G(z))] of a discriminator with a bounded slope does. Nothing in Eq. 1 rewards covering
p(x): D sees one image at a time, so that one perfect image is enough (mode collapse; the ring of
Gaussians shows it).

The released code is github.com/goodfeli/adversarial (`mnist.yaml`, `__init__.py`, and pylearn2
beneath); the conditional paper was compared with no code. Departures:

- Noise: U(-sqrt 3, sqrt 3)^100 ("unit_uniform"), as in the first version of the released
  `mnist.yaml`; normal in its later one.
- Loss of D: the released code minimises half of it at learning rate 0.1; here all of it at 0.05.
- Output bias of G: logit of the training set's mean, clipped at 1e-7, as in the released code.
- Updates: D first, then G (Algorithm 1); the recipe updates both at once by `simultaneous`, as the
  released code does.
- Stopping: none in the released code; 100 epochs here.
- Conditional, noise: unit hypercube in the paper (section 4.1); here U(-sqrt 3, sqrt 3)^100, since
  all images were alike from U(0, 1).
- Conditional, dropout: 0.5 in both networks (section 4.1); here 0.2 at the pixels that D sees.
- Conditional, stopping: best validation likelihood (section 4.1); here the last epoch.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from math import prod, sqrt
from typing import Any, Literal

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveInt
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.adversarial import (
    CALIBRATION_BATCHES,
    CALIBRATION_SIZE,
    OPTIMIZER_ARGUMENTS,
    AdversarialModule,
)
from lightning_modules.core.conditioning import check_label, classes_used
from lightning_modules.core.modes import sampling
from lightning_modules.core.seeding import seeded_normal
from lightning_modules.nn.spectral_norm import apply_spectral_norm

LossName = Literal["non_saturating", "minimax", "least_squares", "wasserstein", "hinge"]
SMOOTHABLE = ("non_saturating", "minimax", "least_squares")  # losses with a target for real images
BIAS_CLIP = 1e-7  # of mean pixels, as in pylearn2's `init_sigmoid_bias_from_marginals`


class Maxout(nn.Linear):
    """The largest of `pieces` linear maps for each unit (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__(inputs, outputs * pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(1, (-1, self.pieces)).amax(2)


def init_uniform(network: nn.Module, bound: float) -> None:
    """Weights from U(-bound, bound), biases 0: the released recipe's `irange`."""
    for part in network.modules():
        if isinstance(part, nn.Linear):
            nn.init.uniform_(part.weight, -bound, bound)
            nn.init.zeros_(part.bias)


class GoodfellowGenerator(nn.Module):
    """100 -> 1200 -> 1200 -> pixels; with labels 200 units see the noise, 1000 the label, and half
    of each layer drops out.
    """

    def __init__(self, image_shape: list[int], latent_dim: int, classes: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.from_noise = nn.Linear(latent_dim, 200 if classes else 1200)
        self.from_label = nn.Linear(classes, 1000) if classes else None
        self.joint = nn.Linear(1200, 1200)
        self.output = nn.Linear(1200, prod(image_shape))
        init_uniform(self, 0.05)

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        hidden = self.from_noise(noise)
        if self.from_label is not None:
            hidden = torch.cat([hidden, self.from_label(label)], 1)
        dropout = 0.5 if self.from_label is not None else 0.0
        hidden = F.dropout(hidden.relu(), dropout, self.training)
        hidden = F.dropout(self.joint(hidden).relu(), dropout, self.training)
        return self.output(hidden).sigmoid().unflatten(1, self.image_shape) * 2 - 1


class MaxoutDiscriminator(nn.Module):
    """Two maxout layers of 240 x 5 on pixels in [0, 1]; with labels 50 x 5 see the label and 240 x
    4 join both.
    """

    def __init__(self, image_shape: list[int], classes: int) -> None:
        super().__init__()
        self.from_image = Maxout(prod(image_shape), 240, 5)
        self.from_label = Maxout(classes, 50, 5) if classes else None
        self.joint = Maxout(290, 240, 4) if classes else Maxout(240, 240, 5)
        self.output = nn.Linear(240, 1)
        init_uniform(self, 0.005)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        pixels = (image.flatten(1) + 1) / 2
        hidden = self.from_image(F.dropout(pixels, 0.2, self.training))
        if self.from_label is not None:
            hidden = torch.cat([hidden, self.from_label(label)], 1)
        hidden = self.joint(F.dropout(hidden, 0.5, self.training))
        return self.output(F.dropout(hidden, 0.5, self.training))[:, 0]


class PlainGenerator(nn.Module):
    """Fully connected, with LeakyReLU, batch norm after all layers but the first, and tanh."""

    def __init__(
        self, image_shape: list[int], latent_dim: int, classes: int, hidden: list[int]
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        widths = [latent_dim + classes, *hidden]
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            layers += [
                nn.Linear(inputs, outputs),
                *([nn.BatchNorm1d(outputs)] if number else []),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], prod(image_shape)))

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        inputs = noise if label is None else torch.cat([noise, label], 1)
        return self.layers(inputs).tanh().unflatten(1, self.image_shape)


class PlainDiscriminator(nn.Module):
    """Fully connected, with LeakyReLU and without norm; returns a logit."""

    def __init__(self, image_shape: list[int], classes: int, hidden: list[int]) -> None:
        super().__init__()
        widths = [prod(image_shape) + classes, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        inputs = image.flatten(1) if label is None else torch.cat([image.flatten(1), label], 1)
        return self.layers(inputs)[:, 0]


def discriminator_objective(
    loss: LossName, real: Tensor, fake: Tensor, target: float = 1.0
) -> Tensor:
    """Loss of D on its logits of real and generated images, from the table above.

    Args:
        loss: Name of the loss.
        real: Logits of real images, any shape.
        fake: Logits of generated images.
        target: Target for real images; below 1, one-sided label smoothing (Salimans et al. 2016,
            section 3.4).
    """
    if loss == "least_squares":
        return ((real - target).square().mean() + fake.square().mean()) / 2
    if loss == "wasserstein":
        return fake.mean() - real.mean()
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    on_real = target * F.softplus(-real).mean() + (1 - target) * F.softplus(real).mean()
    return on_real + F.softplus(fake).mean()


def generator_objective(loss: LossName, fake: Tensor) -> Tensor:
    """Loss of G on the discriminator's logits of generated images, from the table above."""
    if loss == "minimax":
        return -F.softplus(fake).mean()
    if loss == "non_saturating":
        return F.softplus(-fake).mean()
    if loss == "least_squares":
        return (fake - 1).square().mean() / 2
    return -fake.mean()  # wasserstein, hinge


def gradient_norm(logits: Tensor, image: Tensor) -> Tensor:
    """(N,) norm of the gradient of each logit by its own image, itself differentiable."""
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    return gradient.flatten(1).norm(dim=1)


def gradient_penalty(
    discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor
) -> Tensor:
    """E[(|gradient of D at x^| - 1)^2], x^ random interpolates of real and generated images.

    Gulrajani et al. 2017, Eq. 3.
    """
    weight = torch.rand(len(real), *[1] * (real.dim() - 1), dtype=real.dtype, device=real.device)
    between = torch.lerp(real, fake.to(real), weight).detach().requires_grad_()
    return (gradient_norm(discriminate(between), between) - 1).square().mean()


def r1_penalty(discriminate: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """1/2 E[|gradient of D at real images|^2] (Mescheder et al. 2018, Eq. 9)."""
    real = real.detach().requires_grad_()
    return gradient_norm(discriminate(real), real).square().mean() / 2


@torch.no_grad()
def clip_weights(network: nn.Module, limit: float) -> None:
    """Clamp all parameters to [-limit, limit] (Arjovsky et al. 2017, Algorithm 1)."""
    for parameter in network.parameters():
        parameter.clamp_(-limit, limit)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with the learning rate and beta1 of Radford et al. 2016, section 4."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


class GAN(AdversarialModule):
    """Generative adversarial network of fully connected layers, conditional where asked.

    One update (`AdversarialModule.training_step`): `generate` images for a batch; step D on
    `discriminator_loss` of these images, detached; then step G on `generator_loss` of the same
    images through the updated D, whose parameters are frozen meanwhile. With `n_critic` G is
    updated at every n-th update only; with `simultaneous` both gradients come before both steps.

    Args:
        image_shape: (C, H, W), a fact of the data.
        num_classes: Number of labels, a fact of the data; used only where `conditional`.
        conditional: Model p(x|y) with the batch's labels.
        network: Networks released with the papers ("maxout") or plain ones ("mlp").
        hidden: Widths of the plain generator; the plain discriminator has the last two, reversed.
        latent_dim: Size of the noise, D.
        noise: Distribution of the noise: N(0, 1), or U(-sqrt 3, sqrt 3), whose variance is 1.
        loss: Row of the table of losses.
        label_smoothing: One-sided label smoothing: the target for real images is 1 less this.
        spectral: Divide the discriminator's weights by their largest singular values.
        penalty_weight: Weight of the gradient penalty, for the Wasserstein loss; 0 for none.
        r1_weight: Weight of the R1 penalty; 0 for none.
        weight_clip: Largest absolute weight of the discriminator, for the Wasserstein loss; 0 for
            no limit.
        generator_optimizer: Factory of the generator's optimizer.
        discriminator_optimizer: Factory of the discriminator's optimizer.
        **kwargs: See `AdversarialModule`: schedules, clipping, accumulation, averaged weights.

    Raises:
        UserError: if a penalty or a limit contradicts the loss.
    """

    def __init__(
        self,
        image_shape: list[int],
        num_classes: int | None = None,
        conditional: bool = False,
        network: Literal["mlp", "maxout"] = "mlp",
        hidden: list[int] = [128, 256, 512, 1024],  # noqa: B006  # read only; a YAML file's list
        latent_dim: PositiveInt = 100,
        noise: Literal["normal", "unit_uniform"] = "normal",
        loss: LossName = "non_saturating",
        label_smoothing: ClosedUnitInterval = 0.0,
        spectral: bool = False,
        penalty_weight: NonNegativeFloat = 0.0,
        r1_weight: NonNegativeFloat = 0.0,
        weight_clip: NonNegativeFloat = 0.0,
        generator_optimizer: OptimizerCallable = adam,
        discriminator_optimizer: OptimizerCallable = adam,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator_optimizer, discriminator_optimizer, **kwargs)
        self.save_hyperparameters(ignore=OPTIMIZER_ARGUMENTS)
        self.check_losses()
        self.latent_dim = latent_dim
        self.classes = classes = classes_used(num_classes, conditional)
        generator: nn.Module
        discriminator: nn.Module
        if network == "maxout":
            generator = GoodfellowGenerator(image_shape, latent_dim, classes)
            discriminator = MaxoutDiscriminator(image_shape, classes)
        else:
            generator = PlainGenerator(image_shape, latent_dim, classes, hidden)
            discriminator = PlainDiscriminator(image_shape, classes, hidden[:-3:-1])
        if spectral:
            apply_spectral_norm(discriminator)
        self.set_networks(generator, discriminator)

    def check_losses(self) -> None:
        """Check that the loss, its penalties and limits go together.

        Raises:
            UserError: with the reason, if they do not.
        """
        given = self.hparams
        wasserstein = given.loss == "wasserstein"
        bounded = given.penalty_weight or given.weight_clip
        reasons = {
            "model.label_smoothing needs a loss with a target": given.label_smoothing
            and given.loss not in SMOOTHABLE,
            "model.penalty_weight and model.weight_clip belong to model.loss wasserstein": bounded
            and not wasserstein,
            "model.loss wasserstein needs a bounded slope: model.penalty_weight, model.weight_clip "
            "or model.spectral": wasserstein and not (bounded or given.spectral),
        }
        for reason, broken in reasons.items():
            if broken:
                raise UserError(f"{reason} (model.loss is {given.loss})")

    def one_hot(self, batch: dict[str, Any]) -> Tensor | None:
        """Labels (N, classes) where the model is conditional."""
        return F.one_hot(batch["label"], self.classes).float() if self.classes else None

    def draw_noise(self, count: int) -> Tensor:
        """z (count, D) from the global random generator."""
        if self.hparams.noise == "normal":
            return torch.randn(count, self.latent_dim, device=self.device)
        return 2 * sqrt(3) * torch.rand(count, self.latent_dim, device=self.device) - sqrt(3)

    def generate(self, batch: dict[str, Any]) -> Tensor:
        return self.generator(self.draw_noise(len(batch["image"])), self.one_hot(batch))

    def discriminate(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Logits (N,) of images, in full precision, since losses take differences of them."""
        return self.discriminator(image, label).float()

    def discriminator_objective(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of D on its logits (N,), without penalties."""
        target = 1 - self.hparams.label_smoothing
        return discriminator_objective(self.hparams.loss, real, fake, target)

    def discriminator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        image, label = batch["image"], self.one_hot(batch)
        twice = None if label is None else torch.cat([label, label])
        real, fake = self.discriminate(torch.cat([image, generated]), twice).chunk(2)
        loss = self.discriminator_objective(real, fake)  # Eq. 1, max
        values = {
            "d_real": real.mean(),
            "d_fake": fake.mean(),
            "wasserstein": real.mean() - fake.mean(),
            "accuracy_d": ((real > 0).float().mean() + (fake < 0).float().mean()) / 2,
        }
        if weight := self.hparams.penalty_weight:
            values["penalty"] = gradient_penalty(
                lambda x: self.discriminate(x, label), image, generated
            )
            loss = loss + weight * values["penalty"]
        if weight := self.hparams.r1_weight:
            loss = loss + weight * r1_penalty(lambda x: self.discriminate(x, label), image)
        return {"loss": loss, **values}

    def generator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        fake = self.discriminate(generated, self.one_hot(batch))
        return {"loss": generator_objective(self.hparams.loss, fake)}  # Eq. 1, min

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer and schedule per network: `adam` at a constant rate unless given."""
        optimizers, schedules = self.build_optimizers()
        if limit := self.hparams.weight_clip:
            optimizers[1].register_step_post_hook(
                lambda *_: clip_weights(self.discriminator, limit)
            )
        return optimizers, schedules

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log both losses, without penalties, and the mean logits of unseen and generated images.

        A `val/d_real` far below `train/d_real` means that D overfits.
        """
        label = self.one_hot(batch)
        fake = self.discriminate(self.generate(batch), label)
        real = self.discriminate(batch["image"], label)
        values = {
            "val/loss_d": self.discriminator_objective(real, fake),
            "val/loss_g": generator_objective(self.hparams.loss, fake),
            "val/d_real": real.mean(),
            "val/d_fake": fake.mean(),
        }
        self.log_dict(values, batch_size=len(real), sync_dist=True)

    def calibration_batches(self) -> Iterator[dict[str, Any]]:
        """Batches with labels 0, 1, 2, ...: noise needs no images of the data."""
        label = torch.arange(CALIBRATION_SIZE) % max(1, self.classes)
        for _ in range(CALIBRATION_BATCHES):
            yield {"image": torch.empty(CALIBRATION_SIZE, 0), "label": label}

    def seeded_noise(self, seeds: list[int]) -> Tensor:
        """Two draws of z for each seed, (N, 2, D), the same on every device."""
        normal = seeded_normal(seeds, (2, self.latent_dim), self.device)
        if self.hparams.noise == "normal":
            return normal
        return 2 * sqrt(3) * torch.special.ndtr(normal) - sqrt(3)

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        mode: Literal["prior", "interpolate"] = "prior",
        label: int | None = None,
        steps: PositiveInt = 9,
    ) -> Tensor:
        """Generate images.

        Args:
            seeds: One seed per image; image i depends on `seeds[i]` alone.
            mode: Noise from the prior, or from the line between two draws.
            label: Class of all images, for a conditional model; by default, the seed modulo the
                number of classes.
            steps: Images of an interpolation.

        Returns:
            (N, C, H, W), or strips (N, steps, C, H, W), in [-1, 1].

        Raises:
            UserError: if the model does not know the class.
        """
        check_label(label, self.classes)
        labels = torch.tensor(
            [seed if label is None else label for seed in seeds], device=self.device
        )
        given = F.one_hot(labels % self.classes, self.classes).float() if self.classes else None
        noise = self.seeded_noise(seeds)  # (N, 2, D)
        if mode == "prior":
            return self.generator(noise[:, 0], given)
        weight = torch.linspace(0, 1, steps, device=self.device)[None, :, None]
        line = torch.lerp(noise[:, :1], noise[:, 1:], weight)  # (N, steps, D)
        repeated = None if given is None else given.repeat_interleave(steps, 0)
        return self.generator(line.flatten(0, 1), repeated).unflatten(0, line.shape[:2])

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        return {"samples": self.sample(list(range(len(batch["image"]))))}

    def on_train_start(self) -> None:
        """Begin a maxout generator with the logits of the mean training image as output bias."""
        generator: Any = self.generator
        if (
            self.hparams.network == "maxout"
            and self.trainer.global_step == 0
            and not generator.output.bias.any()
        ):
            mean: Tensor = self.trainer.datamodule.mean_image()  # type: ignore[attr-defined]
            bias = torch.logit(mean, eps=BIAS_CLIP).flatten()
            averages: Any = [self.ema.networks["generator"]] if self.ema is not None else []
            for network in (generator, *averages):
                network.output.bias.data.copy_(bias)
