"""GAN: a generator learns p(x) from nothing but the judgement of a discriminator that learns to
tell its pictures from real ones.

Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014; the conditional p(x|y) is Mirza and
Osindero, "Conditional Generative Adversarial Nets", 2014.

    min_G max_D  E_x[log D(x)] + E_z[log(1 - D(G(z)))]                                           (1)
    D*(x) = p_data(x) / (p_data(x) + p_g(x))                                                     (2)

Symbols: z `noise` (N, D) · G(z) `generator` · logit of D `discriminator`, so that D =
sigmoid(logit) · y `label`. Losses are means over the batch. In Eq. 1 the gradient for G vanishes
where D is sure; "non_saturating" maximises log D(G(z)) instead, with the same fixed point. At that
point D = 1/2 everywhere, whatever the pictures look like: neither loss tells how good they are, and
on the way they oscillate, since each player's optimum moves with the other. Nothing in Eq. 1
rewards covering p(x): a generator that makes one perfect picture has fooled a discriminator that
looks at pictures one by one (mode collapse; the ring of Gaussians shows it).

Where a label is given, D answers the question p(real|x, y); see the VAE for p(y|x) from p(x|y).

The released code is github.com/goodfeli/adversarial (`mnist.yaml`, `__init__.py`, and pylearn2
beneath); the conditional paper was compared with no code.

| | paper | released code | here |
|---|---|---|---|
| noise | - | U(-sqrt 3, sqrt 3)^100 (`mnist.yaml`, first version; normal in the later one) | the former, "unit_uniform" |
| loss of D | Eq. 1 | half of it, learning rate 0.1 | all of it, learning rate 0.05: the same |
| output bias of G | - | logit of the training set's mean, clipped at 1e-7 | the same |
| updates | D first, then G (Algorithm 1) | both at once | both at once in the recipe, by `simultaneous` |
| stopping | - | none | 100 epochs |
| conditional: loss of D | Eq. 2 of that paper | - | learning rate halved, as in the released code of 2014 |
| conditional: noise | unit hypercube, U(0, 1)^100 (section 4.1) | - | U(-sqrt 3, sqrt 3)^100; from U(0, 1) all images were alike |
| conditional: dropout | 0.5 in both networks (section 4.1) | - | the same, but 0.2 at D's pixels |
| conditional: stopping | best validation likelihood (section 4.1) | - | the last epoch |
"""

import itertools
from collections.abc import Iterator
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.adversarial import (
    CALIBRATION_BATCHES,
    CALIBRATION_SIZE,
    AdversarialModule,
)
from lightning_modules.core.conditioning import check_sampling, classes_used
from lightning_modules.core.modes import sampling
from lightning_modules.nn.adversarial import (
    LOSSES,
    clip_weights,
    diff_augment,
    gradient_penalty,
    has_batch_norm,
    normalise_spectrally,
    r1_penalty,
    refuse_contradictions,
)
from lightning_modules.nn.noise import draw_noise, seeded_noise

BIAS_CLIP = 1e-7  # of mean pixels, as in pylearn2's `init_sigmoid_bias_from_marginals`


class Maxout(nn.Linear):
    """The largest of `pieces` linear maps for each unit (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__(inputs, outputs * pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(1, (-1, self.pieces)).amax(2)


def init_uniform(network: nn.Module, reach: float) -> None:
    """Weights from U(-reach, reach), biases 0: the released recipe's `irange`."""
    for part in network.modules():
        if isinstance(part, nn.Linear):
            nn.init.uniform_(part.weight, -reach, reach)
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
        unit = (image.flatten(1) + 1) / 2
        hidden = self.from_image(F.dropout(unit, 0.2, self.training))
        if self.from_label is not None:
            hidden = torch.cat([hidden, self.from_label(label)], 1)
        hidden = self.joint(F.dropout(hidden, 0.5, self.training))
        return self.output(F.dropout(hidden, 0.5, self.training))[:, 0]


class PlainGenerator(nn.Module):
    """Fully connected with leaky units and, after the first layer, batch norm; tanh at the end for
    pictures.
    """

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
    """Fully connected with leaky units and no norm; answers with a logit."""

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


class NoiseGAN(AdversarialModule):
    """The game of Eq. 1 between any two networks, from noise to pictures; `GAN` and `DCGAN` bring
    the networks.

    Both networks take a one-hot label (N, classes), or None, as their second input.

    Args:
        latent_dim: D, size of the noise.
        noise: see `nn/noise.py`.
        loss: see `nn/adversarial.py`.
        label_smoothing: real pictures are to be called real with 1 less this.
        spectral: divide the discriminator's weights by their largest singular values.
        penalty_weight: lambda of the Wasserstein gradient penalty.
        r1_weight: gamma of R1.
        weight_clip: largest absolute weight of the discriminator.
        augment: DiffAugment before the discriminator.
        **kwargs: see `AdversarialModule`.

    Raises:
        UserError: if a penalty and a loss, or a penalty and a norm, contradict each other.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        noise: Literal["normal", "uniform", "unit_uniform"] = "normal",
        loss: Literal[
            "non_saturating", "minimax", "least_squares", "wasserstein", "hinge"
        ] = "non_saturating",
        label_smoothing: float = 0.0,
        spectral: bool = False,
        penalty_weight: float = 0.0,
        r1_weight: float = 0.0,
        weight_clip: float = 0.0,
        augment: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.latent_dim = latent_dim
        self.losses = LOSSES[loss]
        self.classes = 0

    def set_networks(self, generator: nn.Module, discriminator: nn.Module) -> None:
        refuse_contradictions(self.hparams, discriminator)
        super().set_networks(
            generator,
            normalise_spectrally(discriminator) if self.hparams.spectral else discriminator,
        )

    def one_hot(self, batch: dict[str, Any]) -> Tensor | None:
        """Labels (N, classes) where the model is conditional."""
        return F.one_hot(batch["label"], self.classes).float() if self.classes else None

    def generate(self, batch: dict[str, Any]) -> Tensor:
        noise = draw_noise(self.hparams.noise, len(batch["image"]), self.latent_dim, self.device)
        return self.generator(noise, self.one_hot(batch))

    def calibration_batches(self) -> Iterator[dict[str, Any]]:
        """Yield batches of noise with labels 0, 1, 2, ... in order; no images are needed."""
        label = torch.arange(CALIBRATION_SIZE) % max(1, self.classes)
        for _ in range(CALIBRATION_BATCHES):
            yield {"image": torch.empty(CALIBRATION_SIZE, 0), "label": label}

    def discriminate(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Logits (N,) of pictures, augmented where asked; in full precision, since losses take
        differences of them.
        """
        return self.discriminator(
            diff_augment(image) if self.hparams.augment else image, label
        ).float()

    def adversarial_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss of its logits (N,), without penalties."""
        smoothing = (
            {"target": 1 - self.hparams.label_smoothing} if self.hparams.label_smoothing else {}
        )
        return self.losses.discriminator(real, fake, **smoothing)  # Eq. 1, max

    def discriminator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        real, label = batch["image"], self.one_hot(batch)
        if has_batch_norm(self.discriminator):  # whose statistics are to be of one kind of pictures
            logits_real, logits_fake = (
                self.discriminate(real, label),
                self.discriminate(generated, label),
            )
        else:
            twice = None if label is None else torch.cat([label, label])
            logits_real, logits_fake = self.discriminate(torch.cat([real, generated]), twice).chunk(
                2
            )
        loss = self.adversarial_loss(logits_real, logits_fake)
        answers = {"d_real": logits_real.mean(), "d_fake": logits_fake.mean()}
        right = ((logits_real > 0).float().mean() + (logits_fake < 0).float().mean()) / 2
        values: dict[str, Tensor] = {
            **answers,
            "wasserstein": answers["d_real"] - answers["d_fake"],
            "accuracy_d": right,
        }
        if self.hparams.penalty_weight:
            penalty = gradient_penalty(
                lambda image: self.discriminate(image, label), real, generated
            )
            values["penalty"] = penalty
            loss = loss + self.hparams.penalty_weight * penalty
        if self.hparams.r1_weight:
            loss = loss + self.hparams.r1_weight * r1_penalty(
                lambda image: self.discriminate(image, label), real
            )
        return {"loss": loss, **values}

    def generator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        logits = self.discriminate(generated, self.one_hot(batch))
        return {"loss": self.losses.generator(logits)}  # Eq. 1, min

    def configure_optimizers(self) -> Any:
        optimizers, schedules = super().configure_optimizers()
        if limit := self.hparams.weight_clip:
            optimizers[1].register_step_post_hook(
                lambda *_: clip_weights(self.discriminator, limit)
            )
        return optimizers, schedules

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Both losses without penalties, and the discriminator's answers to pictures it was never
        shown: far below `train/d_real`, it has learnt the training pictures by heart.
        """
        generated, label = self.generate(batch), self.one_hot(batch)
        real, fake = self.discriminate(batch["image"], label), self.discriminate(generated, label)
        losses = {
            "val/loss_d": self.adversarial_loss(real, fake),
            "val/loss_g": self.losses.generator(fake),
        }
        self.log_dict(
            {**losses, "val/d_real": real.mean(), "val/d_fake": fake.mean()},
            batch_size=len(real),
            sync_dist=True,
        )

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        mode: Literal["prior", "interpolate", "arithmetic"] = "prior",
        label: int | None = None,
        truncation: float | None = None,
        steps: int = 9,
        base: list[int] = [],  # noqa: B006  # read only
        minus: list[int] = [],  # noqa: B006
        plus: list[int] = [],  # noqa: B006
    ) -> Tensor:
        """Draw pictures.

        Args:
            seeds: row i depends on `seeds[i]` alone.
            mode: noise from the prior; a line between two draws; or the mean noise of `base` less
                that of `minus` plus that of `plus`, with a little noise of its own per seed
                (Radford et al. 2016, section 6.3.2).
            label: class to draw, where the model is conditional; otherwise the classes take turns.
            truncation: see `seeded_noise`; below 1 less variety and more typical pictures.
            steps: pictures of an interpolation.
            base: seeds whose pictures have what is to be kept and what is to be replaced.
            minus: seeds whose pictures have what is to be replaced.
            plus: seeds whose pictures have what is to come instead.

        Returns:
            (N, C, H, W), or strips (N, steps, C, H, W), in [-1, 1].

        Raises:
            UserError: if the options do not fit the model, or each other.
        """
        check_sampling(label, self.classes, steps)
        generator = self.generator
        classes = torch.tensor(
            [seed if label is None else label for seed in seeds], device=self.device
        )
        given = F.one_hot(classes % self.classes, self.classes).float() if self.classes else None
        kind, two = self.hparams.noise, (2, self.latent_dim)
        noise = seeded_noise(kind, seeds, two, self.device, truncation)  # (N, 2, D)
        if mode == "interpolate":
            weight = torch.linspace(0, 1, steps, device=self.device)[None, :, None]
            codes = torch.lerp(noise[:, :1], noise[:, 1:], weight)  # (N, steps, D)
            repeated = None if given is None else given.repeat_interleave(steps, 0)
            return generator(codes.flatten(0, 1), repeated).unflatten(0, codes.shape[:2])
        if mode == "arithmetic":
            if not (base and minus and plus):
                raise UserError(
                    "--mode arithmetic needs --base, --minus and --plus, each a seed or several"
                )
            mean = [
                seeded_noise(kind, group, two, self.device)[:, 0].mean(0)
                for group in (base, minus, plus)
            ]
            return generator(mean[0] - mean[1] + mean[2] + 0.25 * noise[:, 0].clamp(-1, 1), given)
        return generator(noise[:, 0], given)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        return {"samples": self.sample(list(range(len(batch["image"]))))}


class GAN(NoiseGAN):
    """Generative adversarial network of fully connected layers, conditional where asked.

    Args:
        image_shape: (C, H, W), a fact of the data.
        num_classes: number of labels, a fact of the data; used only where `conditional`.
        conditional: model p(x|y) with the batch's labels.
        network: the papers' released networks ("maxout") or plain ones ("mlp").
        hidden: widths of the plain generator; the plain discriminator has the last two, in reverse.
        **kwargs: see `NoiseGAN` and `AdversarialModule`.
    """

    def __init__(
        self,
        image_shape: list[int],
        num_classes: int | None = None,
        conditional: bool = False,
        network: Literal["mlp", "maxout"] = "mlp",
        hidden: list[int] = [128, 256, 512, 1024],  # noqa: B006  # read only; a list is what a YAML file can hold
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.classes = classes = classes_used(num_classes, conditional)
        if network == "maxout":
            generator = GoodfellowGenerator(image_shape, self.latent_dim, classes)
            self.set_networks(generator, MaxoutDiscriminator(image_shape, classes))
        else:
            plain = PlainGenerator(image_shape, self.latent_dim, classes, hidden)
            self.set_networks(plain, PlainDiscriminator(image_shape, classes, hidden[:-3:-1]))

    def on_train_start(self) -> None:
        """Set the output bias of a new maxout generator to the logits of the training set's mean
        image.
        """
        generator: Any = self.generator
        if (
            self.hparams.network == "maxout"
            and self.trainer.global_step == 0
            and not generator.output.bias.any()
        ):
            bias = torch.logit(self.trainer.datamodule.mean_image(), eps=BIAS_CLIP).flatten()  # type: ignore[attr-defined]
            averages: Any = [self.ema.networks["generator"]] if self.ema is not None else []
            for network in (generator, *averages):
                network.output.bias.data.copy_(bias)
