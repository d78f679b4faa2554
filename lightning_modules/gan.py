"""GAN: a generator trained against a discriminator that classifies images as real or generated.

Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014. The conditional model p(x|y) is from
Mirza and Osindero, "Conditional Generative Adversarial Nets", 2014.

    min_G max_D  E_x[log D(x)] + E_z[log(1 - D(G(z)))]                                           (1)
    D*(x) = p_data(x) / (p_data(x) + p_g(x))                                                     (2)

Symbols: z `noise` (N, D) · G `generator` · D(x) = sigmoid(logit), where `discriminator` returns the
logit · y `label`, one-hot, a second input of both networks. Losses are means over the batch. In
this table, `real` and `fake` are the discriminator's logits of real and generated images:

| loss | D minimises | G minimises |
|---|---|---|
| minimax (Eq. 1) | softplus(-real) + softplus(fake) | -softplus(fake) = log(1 - D(G(z))) |
| non_saturating (section 3) | same as minimax | softplus(-fake) = -log D(G(z)) |
| least_squares (Mao et al. 2017, Eq. 9) | ((real - 1)^2 + fake^2) / 2 | (fake - 1)^2 / 2 |
| wasserstein (Arjovsky et al. 2017, Eq. 2) | fake - real | -fake |
| hinge (Miyato et al. 2018, Eq. 16, 17) | relu(1 - real) + relu(1 + fake) | -fake |

If D rejects generated images confidently (fake far below 0), the gradient -sigmoid(fake) of the
minimax loss vanishes. The gradient sigmoid(fake) - 1 of the non-saturating loss does not vanish. If
D cannot distinguish real from generated images, D = 1/2 for images of any quality, so the values of
these two losses do not measure image quality. The Wasserstein estimate E[D(x)] - E[D(G(z))]
measures image quality if the slope of D is bounded. G may generate a single realistic image for all
z, because D receives one image at a time and cannot detect a lack of variety (mode collapse; see
configs/gan/ring_collapse.yaml).

The released code is github.com/goodfeli/adversarial (`mnist.yaml`, `__init__.py`), which uses
pylearn2. The conditional paper was not compared with any code. Departures:

- Noise: U(-sqrt 3, sqrt 3)^100 (`noise: unit_uniform`), as in the first version of the released
  `mnist.yaml`; a later version has normal noise.
- Loss of D: the released code minimises half the loss at learning rate 0.1; this file minimises the
  whole loss at learning rate 0.05.
- Initial output bias of G: logit of the mean training image, clipped at 1e-7, as in the released
  code.
- Updates: D first, then G (Algorithm 1). The recipe sets `simultaneous` to update both at once, as
  the released code does.
- Number of epochs: not fixed in the released code; 100 here.
- Noise of the conditional model: U(0, 1)^100 in the paper (unit hypercube, section 4.1);
  U(-sqrt 3, sqrt 3)^100 here, because all generated images were alike with U(0, 1).
- Dropout of the conditional model: 0.5 in both networks (section 4.1). Here the rate is also 0.5,
  except 0.2 on the input pixels of D.
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
from lightning_modules.core.conditioning import classes_used, labels_of
from lightning_modules.core.modes import sampling
from lightning_modules.core.networks import ExportedNetwork, generator_network
from lightning_modules.core.seeding import seeded_normal, truncated
from lightning_modules.nn.spectral_norm import apply_spectral_norm

LossName = Literal["non_saturating", "minimax", "least_squares", "wasserstein", "hinge"]
SMOOTHABLE = (
    "non_saturating",
    "minimax",
    "least_squares",
)  # losses with a target value for real images
# The mean image, whose logits the output biases start from, is clamped to [1e-7, 1 - 1e-7], as in
# pylearn2.
BIAS_CLIP = 1e-7


class Maxout(nn.Linear):
    """Maxout layer: each unit is the maximum of `pieces` linear maps (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__(inputs, outputs * pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(1, (-1, self.pieces)).amax(2)


def init_uniform(network: nn.Module, bound: float) -> None:
    """Initialise weights from U(-bound, bound) and biases with 0 (`irange` of pylearn2)."""
    for part in network.modules():
        if isinstance(part, nn.Linear):
            nn.init.uniform_(part.weight, -bound, bound)
            nn.init.zeros_(part.bias)


class GoodfellowGenerator(nn.Module):
    """Generator of Goodfellow et al. 2014, with two hidden layers of 1200 ReLU units.

    With labels (Mirza and Osindero 2014), 200 units of the first layer receive the noise and the
    other 1000 units receive the label, and `dropout` is the dropout rate of both hidden layers.
    """

    def __init__(
        self, image_shape: list[int], latent_dim: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.image_shape, self.dropout = image_shape, dropout if classes else 0.0
        self.from_noise = nn.Linear(latent_dim, 200 if classes else 1200)
        self.from_label = nn.Linear(classes, 1000) if classes else None
        self.joint = nn.Linear(1200, 1200)
        self.output = nn.Linear(1200, prod(image_shape))
        init_uniform(self, 0.05)

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        hidden = self.from_noise(noise)
        if self.from_label is not None:
            hidden = torch.cat([hidden, self.from_label(label)], 1)
        hidden = F.dropout(hidden.relu(), self.dropout, self.training)
        hidden = F.dropout(self.joint(hidden).relu(), self.dropout, self.training)
        return self.output(hidden).sigmoid().unflatten(1, self.image_shape) * 2 - 1


class MaxoutDiscriminator(nn.Module):
    """Discriminator of Goodfellow et al. 2014, with two hidden layers of 240 maxout units.

    Each maxout unit is the maximum of 5 linear maps. With labels (Mirza and Osindero 2014), 50
    further units of the first layer receive the label, and units of the second layer have 4 maps.
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
    """Fully connected generator with LeakyReLU and a tanh output.

    All hidden layers except the first have batch norm.
    """

    def __init__(
        self, image_shape: list[int], latent_dim: int, classes: int, hidden: list[PositiveInt]
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
    """Fully connected discriminator with LeakyReLU, without normalisation; returns logits (N,)."""

    def __init__(
        self, image_shape: list[int], classes: int, hidden: list[PositiveInt], dropout: float
    ) -> None:
        super().__init__()
        widths = [prod(image_shape) + classes, *hidden]
        layers: list[nn.Module] = [nn.Dropout(dropout * 2 / 3)] if dropout else []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        inputs = image.flatten(1) if label is None else torch.cat([image.flatten(1), label], 1)
        return self.layers(inputs)[:, 0]


def discriminator_objective(
    loss: LossName, real: Tensor, fake: Tensor, target: float = 1.0
) -> Tensor:
    """Return the discriminator loss from the logits of real and generated images.

    Args:
        loss: Name of a loss in the table at the top of `gan.py`.
        real: Logits of real images, any shape.
        fake: Logits of generated images, any shape.
        target: Target value for real images. A value below 1 is one-sided label smoothing
            (Salimans et al. 2016, section 3.4).

    Returns:
        Scalar loss, averaged over the batch.
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
    """Return the generator loss (a scalar) from the discriminator's logits of generated images."""
    if loss == "minimax":
        return -F.softplus(fake).mean()
    if loss == "non_saturating":
        return F.softplus(-fake).mean()
    if loss == "least_squares":
        return (fake - 1).square().mean() / 2
    return -fake.mean()  # wasserstein, hinge


def gradient_norm(logits: Tensor, image: Tensor) -> Tensor:
    """Return the norm (N,) of the gradient of each logit with respect to its image.

    The norm is itself differentiable, so a penalty on the norm can be minimised.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    return gradient.flatten(1).norm(dim=1)


def gradient_penalty(
    discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor
) -> Tensor:
    """Return the gradient penalty E[(|grad D(x^)| - 1)^2] of WGAN-GP.

    x^ are random interpolates between real and generated images (Gulrajani et al. 2017, Eq. 3).

    Args:
        discriminate: Function that maps images (N, C, H, W) to logits (N,).
        real: Real images (N, C, H, W).
        fake: Generated images (N, C, H, W).

    Returns:
        Scalar penalty, differentiable with respect to the discriminator's parameters.
    """
    weight = torch.rand(len(real), *[1] * (real.dim() - 1), dtype=real.dtype, device=real.device)
    between = torch.lerp(real, fake.to(real), weight).detach().requires_grad_()
    return (gradient_norm(discriminate(between), between) - 1).square().mean()


def r1_penalty(discriminate: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Return the R1 penalty 1/2 E[|grad D(x)|^2] at real images (Mescheder et al. 2018, Eq. 9)."""
    real = real.detach().requires_grad_()
    return gradient_norm(discriminate(real), real).square().mean() / 2


@torch.no_grad()
def clip_weights(network: nn.Module, limit: float) -> None:
    """Clamp all parameters to [-limit, limit] (Arjovsky et al. 2017, Algorithm 1)."""
    for parameter in network.parameters():
        parameter.clamp_(-limit, limit)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build Adam with the learning rate and beta1 of Radford et al. 2016, section 4."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


class GAN(AdversarialModule):
    """Generative adversarial network with fully connected layers, optionally conditional.

    One update (`AdversarialModule.training_step`):

    1. Generate as many images as the batch has (`generate`).
    2. Update the discriminator D to reduce `discriminator_loss`. No gradient flows through the
       generated images to the generator G in this step.
    3. Update G to reduce `generator_loss`, computed on the same generated images with the updated
       D. The parameters of D are frozen in this step.

    With `n_critic` = n, step 3 is done in every n-th update only. With `simultaneous`, the
    gradients of both networks are computed before either network is updated.

    Args:
        Data:
        image_shape: Shape (C, H, W) of an image, supplied by the data module.
        num_classes: Number of classes, supplied by the data module; used only if `conditional`.
        Network:
        conditional: Whether to condition the model on the class labels y of the data: p(x|y)
            instead of p(x).
        network: Architecture: "mlp" has fully connected layers with LeakyReLU. "maxout" has the
            layers of Goodfellow et al. 2014 or, if `conditional`, of Mirza and Osindero 2014.
        hidden: Number of units in each hidden layer of the "mlp" generator.
        discriminator_hidden: Number of units in each hidden layer of a fully connected
            discriminator with LeakyReLU, also for `network` "maxout". With None, "maxout" has its
            own discriminator, and the one of "mlp" has two hidden layers, whose sizes are the last
            two numbers of `hidden` in reverse order.
        dropout: Dropout rate of the hidden layers of the LeakyReLU discriminator; its input layer
            has two thirds of this rate.
        generator_dropout: Dropout rate of the generator of Mirza and Osindero, in training; other
            generators have no dropout.
        instance_noise: Standard deviation of normal noise that is added to all images that the
            discriminator receives in training, which have values in [-1, 1]. Real and generated
            images then overlap, so the discriminator cannot separate them perfectly (Arjovsky and
            Bottou 2017, section 3).
        latent_dim: Size of the noise vector z.
        noise: Distribution of the noise: "normal" is N(0, 1); "unit_uniform" is U(-sqrt 3, sqrt 3),
            which also has variance 1.
        truncation: Maximum absolute value of the noise in `sample`, as normal noise before it is
            made uniform (truncation trick, Brock et al. 2019, section 3.1); 0 disables truncation.
            Training uses all noise.
        Objective:
        loss: Loss of the discriminator and the generator. The table at the top of `gan.py` has the
            formulas.
        label_smoothing: One-sided label smoothing s: the discriminator's target for real images is
            1 - s.
        spectral: Whether to divide each weight matrix of the discriminator by its largest singular
            value (Miyato et al. 2018).
        penalty_weight: Weight of the gradient penalty (Gulrajani et al. 2017), for the Wasserstein
            loss only. 0 disables the penalty.
        r1_weight: Weight of the R1 penalty (Mescheder et al. 2018). 0 disables the penalty.
        weight_clip: Maximum absolute weight of the discriminator, for the Wasserstein loss only. 0
            disables the limit.
        Optimizer:
        generator_optimizer: Function that builds an optimizer from the generator's parameters.
        discriminator_optimizer: Function that builds an optimizer from the discriminator's
            parameters.
        **kwargs: Arguments of `AdversarialModule`: learning rate schedules, number of updates per
            network, gradient clipping, gradient accumulation and averaged weights.

    Raises:
        UserError: If the loss does not support the given label smoothing, gradient penalty or
            weight clip, if `dropout` is given for the maxout discriminator, or if the Wasserstein
            loss has none of `penalty_weight`, `weight_clip` and `spectral`.
    """

    sampling_settings = ("truncation",)

    def __init__(
        self,
        image_shape: list[int],
        num_classes: int | None = None,
        conditional: bool = False,
        network: Literal["mlp", "maxout"] = "mlp",
        hidden: list[PositiveInt] = [128, 256, 512, 1024],  # noqa: B006  # read only
        discriminator_hidden: list[PositiveInt] | None = None,
        dropout: ClosedUnitInterval = 0.0,
        generator_dropout: ClosedUnitInterval = 0.5,
        instance_noise: NonNegativeFloat = 0.0,
        latent_dim: PositiveInt = 100,
        noise: Literal["normal", "unit_uniform"] = "normal",
        truncation: NonNegativeFloat = 0.0,
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
            generator = GoodfellowGenerator(image_shape, latent_dim, classes, generator_dropout)
        else:
            generator = PlainGenerator(image_shape, latent_dim, classes, hidden)
            if discriminator_hidden is None:
                discriminator_hidden = hidden[:-3:-1]
        if dropout and not discriminator_hidden:
            raise UserError(
                "model.dropout is for the LeakyReLU discriminator: give "
                "model.discriminator_hidden, or leave it out"
            )
        if discriminator_hidden is not None:
            discriminator = PlainDiscriminator(image_shape, classes, discriminator_hidden, dropout)
        else:
            discriminator = MaxoutDiscriminator(image_shape, classes)
        if spectral:
            apply_spectral_norm(discriminator)
        self.set_networks(generator, discriminator)

    def check_losses(self) -> None:
        """Check that the loss supports the given label smoothing, penalty and weight clip.

        Raises:
            UserError: If the loss does not support the given `label_smoothing`, `penalty_weight` or
                `weight_clip`, or if no option bounds the slope of D for the Wasserstein loss.
        """
        given, loss = self.hparams, self.hparams.loss
        if given.label_smoothing and loss not in SMOOTHABLE:
            raise UserError(
                f"model.label_smoothing must be 0 for model.loss {loss} (got "
                f"{given.label_smoothing}): set it to 0, or model.loss to one of "
                f"{', '.join(SMOOTHABLE)}"
            )
        bounded = given.penalty_weight or given.weight_clip
        if bounded and loss != "wasserstein":
            raise UserError(
                f"model.penalty_weight and model.weight_clip must be 0 for model.loss {loss} (got "
                f"{given.penalty_weight} and {given.weight_clip}): set them to 0, or model.loss to "
                "wasserstein"
            )
        if loss == "wasserstein" and not (bounded or given.spectral):
            raise UserError(
                "model.loss wasserstein needs a discriminator of bounded slope: set "
                "model.penalty_weight, model.weight_clip or model.spectral"
            )

    def one_hot(self, batch: dict[str, Any]) -> Tensor | None:
        """Return one-hot labels (N, classes), or None if the model is not conditional."""
        return F.one_hot(batch["label"], self.classes).float() if self.classes else None

    def draw_noise(self, count: int) -> Tensor:
        """Sample z (count, D) with PyTorch's global random state, which the base class seeds."""
        if self.hparams.noise == "normal":
            return torch.randn(count, self.latent_dim, device=self.device)
        return 2 * sqrt(3) * torch.rand(count, self.latent_dim, device=self.device) - sqrt(3)

    def networks(self) -> dict[str, ExportedNetwork]:
        return generator_network(self.generator, self.latent_dim, self.classes)

    def generate(self, batch: dict[str, Any]) -> Tensor:
        return self.generator(self.draw_noise(len(batch["image"])), self.one_hot(batch))

    @property
    def differentiates_gradients(self) -> bool:
        """Whether the loss has gradient penalties, which `torch.compile` does not support."""
        return bool(self.hparams.penalty_weight or self.hparams.r1_weight)

    def discriminate(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Return D's logits (N,) in float32 for images; half precision is too coarse for losses."""
        if self.training and self.hparams.instance_noise:
            image = image + self.hparams.instance_noise * torch.randn_like(image)
        return self.discriminator(image, label).float()

    def discriminator_objective(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return D's loss without penalties, from logits (N,) of real and generated images."""
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
        }
        if self.hparams.loss != "wasserstein":  # a critic has no threshold
            targets = (1 - self.hparams.label_smoothing, 0.0)
            border = sum(targets) / 2 if self.hparams.loss == "least_squares" else 0.0
            values["accuracy_d"] = ((real > border).float() + (fake < border).float()).mean() / 2
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
        """Build the optimizers and learning rate schedules of the generator and discriminator.

        By default, each network has its own Adam optimizer with a constant learning rate.
        """
        optimizers, schedules = self.build_optimizers()
        if limit := self.hparams.weight_clip:
            optimizers[1].register_step_post_hook(
                lambda *_: clip_weights(self.discriminator, limit)
            )
        return optimizers, schedules

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the losses of D and G, without penalties, and the mean logits of D.

        D overfits if the mean logit of validation images (`val/d_real`) is far below the mean
        logit of training images (`train/d_real`). With dropout or instance noise, which act in
        training only, the two are not comparable.
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
        """Yield batches from which the batch-norm statistics of the averaged G are estimated.

        `generate` needs only the batch size and the labels, so the images are empty.
        """
        label = torch.arange(CALIBRATION_SIZE) % max(1, self.classes)
        for _ in range(CALIBRATION_BATCHES):
            yield {"image": torch.empty(CALIBRATION_SIZE, 0), "label": label}

    def seeded_noise(self, seeds: list[int], truncation: float = 0.0) -> Tensor:
        """Return two noise vectors per seed, (N, 2, D), identical on every device.

        Uniform noise is computed from normal noise, which is truncated to [-truncation, truncation]
        unless this is 0.
        """
        normal = truncated(seeded_normal(seeds, (2, self.latent_dim)), truncation).to(self.device)
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
        truncation: NonNegativeFloat | None = None,
    ) -> Tensor:
        """Generate images, or strips that interpolate between two noise vectors.

        Args:
            seeds: One seed per image or strip. Image or strip i depends on `seeds[i]` alone.
            mode: Sampling mode: "prior" generates one image per seed. "interpolate" generates a
                strip between two noise vectors of each seed.
            label: Class of all images, for conditional models. With None, the class of image i is
                `seeds[i] % classes`.
            steps: Number of images in a strip of mode "interpolate".
            truncation: Maximum absolute value of the normal noise; 0 disables truncation, None uses
                the model's `truncation`. Smaller values give more typical and less diverse images.

        Returns:
            Images (N, C, H, W), or strips (N, steps, C, H, W), in [-1, 1].

        Raises:
            UserError: If the model has no class `label`.
        """
        labels = labels_of(seeds, label, self.classes, self.device)
        given = None if labels is None else F.one_hot(labels, self.classes).float()
        limit = self.hparams.truncation if truncation is None else truncation
        noise = self.seeded_noise(seeds, limit)  # (N, 2, D)
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
        """Set the output bias of a new "maxout" generator to the logits of the mean image."""
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
