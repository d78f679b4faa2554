"""DCGAN: a GAN of two convolutional networks, with an architecture that trains stably on images.

Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks", ICLR 2016. The contribution is an architecture (section 3):

    no pooling: strided convolutions in D, transposed convolutions in G                          (1)
    batch norm in both, except at G's output and D's input                                       (2)
    no hidden fully connected layers: noise -> 4x4 grid, last grid -> one logit                  (3)
    ReLU in G with tanh at the end; LeakyReLU 0.2 in D                                           (4)
    weights from N(0, 0.02); Adam 2e-4 with beta1 = 0.5; batches of 128; z from U(-1, 1)^100     (5)

The loss is the non-saturating loss (Goodfellow et al. 2014, section 3) or the hinge loss (Miyato et
al. 2018, Eq. 16 and 17). With D(x) = sigmoid(logit(x)):

    non_saturating  D: -E_x[log D(x)] - E_z[log(1 - D(G(z)))]       G: -E_z[log D(G(z))]         (6)
    hinge           D: E_x[relu(1 - logit(x))] + E_z[relu(1 + logit(G(z)))]
                    G: -E_z[logit(G(z))]                                                         (7)

Symbols: z `noise` (N, L), L `latent_dim` · D `discriminator` · G(z) `generator` · y `label`,
one-hot, for conditional models. Expectations are means over the batch.

Sizes, for kernel k, stride s and padding p (`nn/convolution.py`, tested against PyTorch):

    convolution             (in + 2 p - k) // s + 1
    transposed convolution  (in - 1) s - 2 p + k + output_padding

A transposed convolution computes the gradient of a convolution with the same k, s and p. Therefore
it maps the output size of that convolution back to its input size. More padding makes the output
*smaller*. With k = 4, s = 2, p = 1, a convolution exactly halves the size and a transposed
convolution doubles it. With k = 5, as in the released code, p must be 2, and output_padding must be
1 in transposed convolutions.

Network "radford" is from Figure 1 and the released code for faces (github.com/Newmu/dcgan_code,
faces/). For images of 64 pixels it has 1024 channels at 4x4. Network "mnist" is from the released
code for conditional digits (mnist/). It has two 5x5 convolutions and 1024 units, and every layer
gets the label as an input. Its batch norm has no learned scale and shift, and its networks use
pixels in [0, 1]. Lines (3) and (4) above apply to "radford" only. Linear layers and convolutions
have no bias, except in D with norm "none". As in the released code, batch norm has epsilon 1e-8.
After the first layer of G, batch norm normalises each of the 4x4xC units separately. Departures:

- Channels at half the image's resolution (`width`): 128 in Figure 1 and in the released code for
  faces, 64 in the code for digits; smaller in some recipes.
- Weight decay: none in the paper. The released code has L2 regularisation of all parameters,
  1e-5 for faces and 2.5e-5 for digits. The recipes for faces and digits have the same values.
- Noise: U(-1, 1) in the paper; normal by default here, U(-1, 1) in recipes with `noise: uniform`.
- Batch norm when sampling: statistics of the sampled batch in the released code; running statistics
  here, so that sample i depends on its seed alone.
- Updates: the released code updates G and D on alternate batches. Here both networks are updated on
  each batch, and training on digits has half as many epochs.
- Size of faces: the released code crops the centre of each image to 64 pixels; here images are
  resized, then cropped.
- Optimizer: `configs/dcgan/openmoji.yaml` has Muon (`optim/muon.py`). The paper has Adam.
- Learning rate: constant for faces. For digits it is constant for 19,500 updates of each
  network, then decays linearly to 0 in as many, as in the released code.
"""

import itertools
from collections.abc import Iterable, Iterator
from math import log2
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
from lightning_modules.nn.augmentation import diff_augment
from lightning_modules.nn.convolution import init_normal, same_padding
from lightning_modules.nn.spectral_norm import apply_spectral_norm

EPSILON = 1e-8  # epsilon of batch norm, as in the released code


def channel_plan(image_shape: list[int], width: int) -> list[int]:
    """Return the numbers of channels at 4x4, 8x8, ... up to half the image's resolution.

    The last number is `width`; each number is twice the number after it.

    Raises:
        UserError: If the image is not square with a side of 32, 64 or 128.
    """
    _, height, side = image_shape
    if height != side or side not in (32, 64, 128):
        raise UserError(
            f"DCGAN needs square images of 32, 64 or 128 pixels (got {height}x{side}): "
            "set data.size or data.pad"
        )
    return [width * 2**level for level in reversed(range(int(log2(side)) - 2))]


class Generator(nn.Module):
    """Generator "radford": maps noise (N, L) and one-hot labels (N, classes) to images.

    A linear layer produces a 4x4 feature map, and batch norm normalises each of its units
    separately. Each transposed convolution doubles height and width.
    """

    def __init__(self, image_shape: list[int], inputs: int, width: int, kernel: int) -> None:
        super().__init__()
        channels = channel_plan(image_shape, width)
        padding, extra = (kernel - 1) // 2, kernel % 2
        units = 16 * channels[0]
        layers: list[nn.Module] = [
            nn.Linear(inputs, units, bias=False),
            nn.BatchNorm1d(units, EPSILON),
            nn.ReLU(inplace=True),
        ]
        layers.append(nn.Unflatten(1, (channels[0], 4, 4)))
        for before, after in itertools.pairwise(channels):
            layers.append(nn.ConvTranspose2d(before, after, kernel, 2, padding, extra, bias=False))
            layers += [nn.BatchNorm2d(after, EPSILON), nn.ReLU(inplace=True)]
        layers.append(
            nn.ConvTranspose2d(channels[-1], image_shape[0], kernel, 2, padding, extra, bias=False)
        )
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        return self.layers(with_label(noise, label)).tanh()


class Discriminator(nn.Module):
    """Discriminator "radford": maps images (N, C, H, W) to logits (N,).

    Each convolution halves height and width, down to 4x4. Layers have biases only if `norm` is
    "none".
    """

    def __init__(
        self, image_shape: list[int], classes: int, width: int, kernel: int, norm: str
    ) -> None:
        super().__init__()
        channels = channel_plan(image_shape, width)[::-1]
        padding, bias = (kernel - 1) // 2, norm == "none"
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([image_shape[0] + classes, *channels]):
            normed = norm == "batch" and bool(layers)  # not at the input
            layers.append(nn.Conv2d(before, after, kernel, 2, padding, bias=bias))
            layers += [
                *([nn.BatchNorm2d(after, EPSILON)] if normed else []),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 4, bias=bias))

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        return self.layers(with_label(image, label)).flatten()


def with_label(hidden: Tensor, label: Tensor | None) -> Tensor:
    """Append one-hot labels to vectors (N, L), or as constant channels to maps (N, C, H, W)."""
    if label is None:
        return hidden
    if hidden.dim() == 4:
        label = label[:, :, None, None].expand(-1, -1, *hidden.shape[2:])
    return torch.cat([hidden, label], 1)


class MnistGenerator(nn.Module):
    """Generator "mnist", from the released code for conditional digits.

    It has a layer of 1024 units, then 128 channels at 7x7 and 64 channels at 14x14.
    """

    def __init__(self, image_shape: list[int], latent_dim: int, classes: int) -> None:
        super().__init__()
        self.units = nn.Linear(latent_dim + classes, 1024, bias=False)
        self.grid = nn.Linear(1024 + classes, 128 * 7 * 7, bias=False)
        self.up1 = nn.ConvTranspose2d(128 + classes, 64, 5, 2, 2, 1, bias=False)
        self.up2 = nn.ConvTranspose2d(64 + classes, image_shape[0], 5, 2, 2, 1, bias=False)
        plain: dict[str, Any] = {"eps": EPSILON, "affine": False}
        self.norms = nn.ModuleList(
            [
                nn.BatchNorm1d(1024, **plain),
                nn.BatchNorm1d(128 * 7 * 7, **plain),
                nn.BatchNorm2d(64, **plain),
            ]
        )

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        hidden = self.norms[0](self.units(with_label(noise, label))).relu()
        hidden = (
            self.norms[1](self.grid(with_label(hidden, label))).relu().unflatten(1, (128, 7, 7))
        )
        hidden = self.norms[2](self.up1(with_label(hidden, label))).relu()
        return self.up2(with_label(hidden, label)).sigmoid() * 2 - 1


class MnistDiscriminator(nn.Module):
    """Discriminator "mnist", from the released code for conditional digits.

    It has two 5x5 convolutions with 64 and 128 channels, then a layer of 1024 units.
    """

    def __init__(self, image_shape: list[int], classes: int) -> None:
        super().__init__()
        padding = same_padding(5)
        self.down1 = nn.Conv2d(image_shape[0] + classes, 64, 5, 2, padding, bias=False)
        self.down2 = nn.Conv2d(64 + classes, 128, 5, 2, padding, bias=False)
        self.units = nn.Linear(128 * 7 * 7 + classes, 1024, bias=False)
        self.logit = nn.Linear(1024 + classes, 1, bias=False)
        plain: dict[str, Any] = {"eps": EPSILON, "affine": False}
        self.norms = nn.ModuleList([nn.BatchNorm2d(128, **plain), nn.BatchNorm1d(1024, **plain)])
        self.leak = nn.LeakyReLU(0.2)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        hidden = self.leak(self.down1(with_label((image + 1) / 2, label)))
        hidden = self.leak(self.norms[0](self.down2(with_label(hidden, label))))
        hidden = self.leak(self.norms[1](self.units(with_label(hidden.flatten(1), label))))
        return self.logit(with_label(hidden, label))[:, 0]


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build Adam with the learning rate and beta1 of Radford et al. 2016, section 4."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


class DCGAN(AdversarialModule):
    """Deep convolutional GAN, optionally conditional.

    One update (`AdversarialModule.training_step`):

    1. Generate as many images as the batch has (`generate`).
    2. Update the discriminator D to reduce `discriminator_loss`. No gradient flows through the
       generated images to the generator G in this step.
    3. Update G to reduce `generator_loss`, computed on the same generated images with the updated
       D. The parameters of D are frozen in this step.

    Args:
        Data:
        image_shape: Shape (C, H, W) of an image, supplied by the data module. Images must be
            square with a side of 32, 64 or 128 pixels for "radford", or 28 pixels for "mnist".
        num_classes: Number of classes, supplied by the data module; used only if `conditional`.
        Network:
        conditional: Whether to condition the model on the class labels y of the data: p(x|y)
            instead of p(x).
        network: Architecture: "radford" is from the paper and its released code for faces; "mnist"
            is from the released code for conditional MNIST.
        width: Number of channels of the feature maps at half the image's resolution, for "radford"
            only. It doubles each time the resolution is halved. The released code for faces uses
            128.
        kernel: Kernel size of the convolutions, for "radford" only. The released code uses 5.
        norm: Normalisation in the discriminator of "radford": "batch" (batch norm) or "none".
        latent_dim: Size of the noise vector z.
        noise: Distribution of the noise: "normal" is N(0, 1); "uniform" is U(-1, 1), as in the
            paper.
        truncation: Maximum absolute value of the noise in `sample`, as normal noise before it is
            made uniform (truncation trick, Brock et al. 2019, section 3.1); 0 disables truncation.
            Training uses all noise.
        Objective:
        loss: Loss of the discriminator and the generator: "non_saturating" (Goodfellow et al. 2014)
            or "hinge" (Miyato et al. 2018).
        spectral: Whether to divide each weight matrix of the discriminator by its largest singular
            value (Miyato et al. 2018).
        augment: Probability of each operation of DiffAugment (Zhao et al. 2020), which augments the
            real and generated images before the discriminator; 0 disables augmentation. With 1,
            generated images may be shifted or have changed colours, too. With values below 0.8,
            this is unlikely (Karras et al. 2020, section 2.2).
        Optimizer:
        generator_optimizer: Function that builds an optimizer from the generator's parameters.
        discriminator_optimizer: Function that builds an optimizer from the discriminator's
            parameters.
        **kwargs: Arguments of `AdversarialModule`: learning rate schedules, number of updates per
            network, gradient clipping, gradient accumulation and averaged weights.

    Raises:
        UserError: If the architecture does not support the size of the images.
    """

    sampling_settings = ("truncation",)

    def __init__(
        self,
        image_shape: list[int],
        num_classes: int | None = None,
        conditional: bool = False,
        network: Literal["radford", "mnist"] = "radford",
        width: PositiveInt = 128,
        kernel: Literal[4, 5] = 5,
        norm: Literal["batch", "none"] = "batch",
        latent_dim: PositiveInt = 100,
        noise: Literal["normal", "uniform"] = "normal",
        truncation: NonNegativeFloat = 0.0,
        loss: Literal["non_saturating", "hinge"] = "non_saturating",
        spectral: bool = False,
        augment: ClosedUnitInterval = 0.0,
        generator_optimizer: OptimizerCallable = adam,
        discriminator_optimizer: OptimizerCallable = adam,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator_optimizer, discriminator_optimizer, **kwargs)
        self.save_hyperparameters(ignore=OPTIMIZER_ARGUMENTS)
        self.latent_dim = latent_dim
        self.classes = classes = classes_used(num_classes, conditional)
        generator: nn.Module
        discriminator: nn.Module
        if network == "mnist":
            if image_shape[1:] != [28, 28]:
                raise UserError(
                    "model.network mnist needs images of 28x28 pixels (got "
                    f"{image_shape[1]}x{image_shape[2]}): set model.network to radford"
                )
            generator = MnistGenerator(image_shape, latent_dim, classes)
            discriminator = MnistDiscriminator(image_shape, classes)
        else:
            generator = Generator(image_shape, latent_dim + classes, width, kernel)
            discriminator = Discriminator(image_shape, classes, width, kernel, norm)
        init_normal(generator)
        init_normal(discriminator)
        if spectral:
            apply_spectral_norm(discriminator)
        self.discriminator_batch_norm = network == "mnist" or norm == "batch"
        self.set_networks(generator, discriminator)

    def one_hot(self, batch: dict[str, Any]) -> Tensor | None:
        """Return one-hot labels (N, classes), or None if the model is not conditional."""
        return F.one_hot(batch["label"], self.classes).float() if self.classes else None

    def draw_noise(self, count: int) -> Tensor:
        """Sample z (count, L) with PyTorch's global random state, which the base class seeds."""
        if self.hparams.noise == "normal":
            return torch.randn(count, self.latent_dim, device=self.device)
        return 2 * torch.rand(count, self.latent_dim, device=self.device) - 1

    def networks(self) -> dict[str, ExportedNetwork]:
        return generator_network(self.generator, self.latent_dim, self.classes)

    def generate(self, batch: dict[str, Any]) -> Tensor:
        return self.generator(self.draw_noise(len(batch["image"])), self.one_hot(batch))

    def discriminate(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Return D's logits (N,) in float32 for images; half precision is too coarse for losses."""
        if self.hparams.augment:
            image = diff_augment(image, self.hparams.augment)
        return self.discriminator(image, label).float()

    def discriminator_objective(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the discriminator loss from the logits (N,) of real and generated images."""
        if self.hparams.loss == "hinge":
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()  # Eq. 7
        return F.softplus(-real).mean() + F.softplus(fake).mean()  # Eq. 6

    def generator_objective(self, fake: Tensor) -> Tensor:
        """Return the generator loss from the discriminator's logits (N,) of generated images."""
        return -fake.mean() if self.hparams.loss == "hinge" else F.softplus(-fake).mean()

    def discriminator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        image, label = batch["image"], self.one_hot(batch)
        if self.discriminator_batch_norm:  # normalise real and generated images separately
            real, fake = self.discriminate(image, label), self.discriminate(generated, label)
        else:
            twice = None if label is None else torch.cat([label, label])
            real, fake = self.discriminate(torch.cat([image, generated]), twice).chunk(2)
        return {
            "loss": self.discriminator_objective(real, fake),
            "d_real": real.mean(),
            "d_fake": fake.mean(),
            "wasserstein": real.mean() - fake.mean(),
            "accuracy_d": ((real > 0).float().mean() + (fake < 0).float().mean()) / 2,
        }

    def generator_loss(self, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        fake = self.discriminate(generated, self.one_hot(batch))
        return {"loss": self.generator_objective(fake)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizers and learning rate schedules of the generator and discriminator.

        By default, each network has its own Adam optimizer with a constant learning rate.
        """
        return self.build_optimizers()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the losses of D and G, and the mean logits of validation and generated images.

        D may overfit if the mean logit of validation images (`val/d_real`) is far below the mean
        logit of training images (`train/d_real`). With batch norm in D, these two logits also
        differ because validation uses the running statistics.
        """
        label = self.one_hot(batch)
        fake = self.generate(batch)
        real, fake = self.discriminate(batch["image"], label), self.discriminate(fake, label)
        values = {
            "val/loss_d": self.discriminator_objective(real, fake),
            "val/loss_g": self.generator_objective(fake),
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
        """Return two noise vectors per seed, (N, 2, L), identical on every device.

        Uniform noise is computed from normal noise, which is truncated to [-truncation, truncation]
        unless this is 0.
        """
        normal = truncated(seeded_normal(seeds, (2, self.latent_dim)), truncation).to(self.device)
        return normal if self.hparams.noise == "normal" else 2 * torch.special.ndtr(normal) - 1

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        mode: Literal["prior", "interpolate", "arithmetic"] = "prior",
        label: int | None = None,
        steps: PositiveInt = 9,
        truncation: NonNegativeFloat | None = None,
        base: list[int] = [],  # noqa: B006  # read only
        minus: list[int] = [],  # noqa: B006
        plus: list[int] = [],  # noqa: B006
    ) -> Tensor:
        """Generate images from the prior, by interpolation or by arithmetic on noise vectors.

        Args:
            seeds: One seed per image or strip. Given the other options, image or strip i depends on
                `seeds[i]` alone.
            mode: Sampling mode: "prior" generates one image per seed. "interpolate" generates a
                strip between two noise vectors of each seed. "arithmetic" averages the noise
                vectors of the seeds in `base`, `minus` and `plus`. It generates images from the
                means base - minus + plus, with a small random change per seed (Radford et al.
                2016, section 6.3.2).
            label: Class of all images, for conditional models. With None, the class of image i is
                `seeds[i] % classes`.
            steps: Number of images in a strip of mode "interpolate".
            truncation: Maximum absolute value of the normal noise; 0 disables truncation, None uses
                the model's `truncation`. Smaller values give more typical and less diverse images.
            base: Seeds of the images to change in mode "arithmetic", such as images of smiling
                women.
            minus: Seeds of images with the property to remove in mode "arithmetic", such as images
                of women who do not smile.
            plus: Seeds of images with the property to add in mode "arithmetic", such as images of
                men who do not smile.

        Returns:
            Images (N, C, H, W), or strips (N, steps, C, H, W), in [-1, 1].

        Raises:
            UserError: If the model has no class `label`, or if mode "arithmetic" lacks `base`,
                `minus` or `plus`.
        """
        labels = labels_of(seeds, label, self.classes, self.device)
        given = None if labels is None else F.one_hot(labels, self.classes).float()
        limit = self.hparams.truncation if truncation is None else truncation
        noise = self.seeded_noise(seeds, limit)  # (N, 2, L)
        if mode == "prior":
            return self.generator(noise[:, 0], given)
        if mode == "arithmetic":
            if not (base and minus and plus):
                raise UserError(
                    f"--mode arithmetic needs --base, --minus and --plus (got {base}, {minus} and "
                    f"{plus}): give each at least once, such as --base 1 --base 4"
                )
            mean = [self.seeded_noise(group, limit)[:, 0].mean(0) for group in (base, minus, plus)]
            own = 0.25 * noise[:, 0].clamp(-1, 1)
            return self.generator(mean[0] - mean[1] + mean[2] + own, given)
        weight = torch.linspace(0, 1, steps, device=self.device)[None, :, None]
        line = torch.lerp(noise[:, :1], noise[:, 1:], weight)  # (N, steps, L)
        repeated = None if given is None else given.repeat_interleave(steps, 0)
        return self.generator(line.flatten(0, 1), repeated).unflatten(0, line.shape[:2])

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        return {"samples": self.sample(list(range(len(batch["image"]))))}
