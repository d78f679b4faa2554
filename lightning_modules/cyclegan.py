"""CycleGAN: image-to-image translation between two unpaired image collections.

Zhu, Park, Isola and Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
Networks", ICCV 2017. Generators G: A -> B and F: B -> A translate between the domains A and B.
Discriminators D_A and D_B distinguish real images of A and B from translated images. The losses, in
the least-squares form of section 4:

    adversarial     L_GAN(G, D_B) = E_b[(D_B(b) - 1)^2] + E_a[D_B(G(a))^2]                       (1)
    cycle           L_cyc = E_a[|F(G(a)) - a|_1] + E_b[|G(F(b)) - b|_1]                          (2)
    full objective  L_GAN(G, D_B) + L_GAN(F, D_A) + lambda_cycle L_cyc + lambda_identity L_idt   (3)
    identity        L_idt = E_b[|G(b) - b|_1] + E_a[|F(a) - a|_1]   (section 5.2)

D_B minimises half of Eq. 1, and G minimises E_a[(D_B(G(a)) - 1)^2]. With the adversarial loss
alone, G could map any a to any b. The cycle loss makes G(a) depend on a, because F must recover a
from G(a). The identity loss penalises changes of images of B by G, and of A by F, which preserves
the colours of paintings. Absolute differences are means over pixels, channels and the batch.

Symbols: G, F `generator.a2b`, `generator.b2a` · D_B, D_A `discriminator.b`, `discriminator.a` ·
lambda `lambda_cycle`. The option `cycle` selects the forward cycle a -> G(a) -> F(G(a)), the
backward cycle b -> F(b) -> G(F(b)), or both.

Each discriminator is trained on current translations, mixed with translations from a pool of 50
earlier translations. This reduces oscillation (section 4, after Shrivastava et al. 2017). One
optimizer updates both generators, and a second one updates both discriminators.

Departures from the paper and its two releases (Lua, then PyTorch):

- lambda_identity: 0 by default and 5.0 in the recipes of the paper's data sets. The paper uses
  lambda_cycle / 2 for paintings (section 5.2). The PyTorch release uses lambda_cycle / 2, the Lua
  release uses 0.
- Learning rate: constant for 100 epochs, then falling to 0 over 100 epochs (section 4). The
  releases change the learning rate after each epoch. The recipes of the paper's data sets follow
  the PyTorch release.
- Order of an update: discriminators, then generators. The Lua release updates G, D_B, F, D_A; the
  PyTorch release updates the generators, then the discriminators.
- Target for real images: 1 (section 4). The Lua release uses 0.9.
- Loss of the discriminators: halved, as in the paper and the PyTorch release. The Lua release does
  not halve it.
- Residual blocks: 6 for images below 256 pixels, otherwise 9. The paper has 6 at 128 pixels and 9
  from 256 pixels on (appendix 7.2); the PyTorch release has 9.
- Biases before instance norm: none, because the norm cancels them. The Lua release sets these
  biases to 0 at each step; the PyTorch release keeps them.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.adversarial import OPTIMIZER_ARGUMENTS, AdversarialModule
from lightning_modules.core.modes import sampling
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.nn.convolution import init_normal
from lightning_modules.nn.patch_discriminator import Patch, PatchDiscriminator
from metrics.fidelity import fidelity_metrics, log_fidelity

Direction = Literal["a2b", "b2a"]


class Residual(nn.Module):
    """Residual block: adds to x the output of two successive 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            convolution = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", bias=False)
            layers += [convolution, nn.InstanceNorm2d(width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResnetGenerator(nn.Sequential):
    """Generator with residual blocks, which maps images (N, C, H, W) to images of the same shape.

    H and W must be multiples of 4. The layers, where w is `width`, are a 7x7 convolution to w
    channels, convolutions of stride 2 to 2w and 4w channels, the residual blocks, transposed
    convolutions of stride 2 to 2w and w channels, and a 7x7 convolution to C channels.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 7, padding=3, padding_mode="reflect", bias=False)
        ]
        layers += [nn.InstanceNorm2d(width), nn.ReLU(inplace=True)]
        for before in (width, 2 * width):
            layers += [
                nn.Conv2d(before, 2 * before, 3, 2, 1, bias=False),
                nn.InstanceNorm2d(2 * before),
                nn.ReLU(inplace=True),
            ]
        layers += [Residual(4 * width) for _ in range(blocks)]
        for after in (2 * width, width):
            layers += [nn.ConvTranspose2d(2 * after, after, 3, 2, 1, output_padding=1, bias=False)]
            layers += [nn.InstanceNorm2d(after), nn.ReLU(inplace=True)]
        super().__init__(
            *layers, nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect"), nn.Tanh()
        )


class ImagePool:
    """Pool of previously generated images on which a discriminator is trained (section 4).

    `query` stores and returns new images until the pool is full. Then, with probability 0.5, it
    replaces a stored image by a new image and returns the stored image instead.

    Args:
        size: Maximum number of stored images; 0 disables the pool.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: Tensor | None = None  # (size, C, H, W), of which the first `count` are filled
        self.count = 0

    def query(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W), some of them exchanged for images of the pool.

        Random numbers are sampled on the CPU, and copied without waiting for a GPU.
        """
        if not self.size:
            return images
        return torch.cat([self._exchange(part) for part in images.split(self.size)])

    def _exchange(self, images: Tensor) -> Tensor:
        """Exchange at most `size` images, each with a different slot of the pool."""
        if self.images is None:
            self.images = images.new_empty(self.size, *images.shape[1:])
        self.images = self.images.to(images)  # a loaded pool may be on another device
        added = min(self.size - self.count, len(images))
        self.images[self.count : self.count + added] = images[:added]
        self.count += added
        if added == len(images):
            return images
        slots = torch.randperm(self.size)[: len(images) - added]
        swapped = (torch.rand(len(slots)) < 0.5).nonzero()[:, 0]
        slots, rows = slots[swapped], swapped + added
        if images.is_cuda:
            slots, rows = (
                one.pin_memory().to(images.device, non_blocking=True) for one in (slots, rows)
            )
        result = images.clone()
        result[rows] = self.images[slots]
        self.images[slots] = images[rows]
        return result

    def state(self) -> dict[str, Any]:
        """Return a dictionary of the stored images, on the CPU, and their number."""
        filled = None if self.images is None else self.images[: self.count].cpu()
        return {"images": filled, "count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the pool from a dictionary returned by `state()`."""
        self.count = state["count"]
        if state["images"] is not None:
            self.images = state["images"].new_empty(self.size, *state["images"].shape[1:])
            self.images[: self.count] = state["images"]


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build Adam with the paper's learning rate (section 4) and the beta1 of the releases."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


class CycleGAN(AdversarialModule):
    """CycleGAN: unpaired image-to-image translation in both directions.

    One update (`AdversarialModule.training_step`):

    1. Translate the images of a batch in both directions (`generate`).
    2. Update both discriminators to reduce `discriminator_loss`. No gradient flows through the
       translated images to the generators in this step.
    3. Update both generators to reduce `generator_loss`, computed on the same translated images
       with the updated discriminators. The discriminators' parameters are frozen in this step.

    Args:
        Data:
        image_shape: Shape (C, H, W) of an image, with H and W multiples of 4; supplied by the data
            module.
        Network:
        width: Number of channels after the first convolution of each network. The paper uses 64.
        blocks: Number of residual blocks per generator. None means 6 blocks for images with a side
            below 256 pixels and 9 blocks for larger images.
        patch: Side, in pixels, of the square image patch that determines one output of a
            discriminator.
        Objective:
        lambda_cycle: Weight of the cycle loss (Eq. 2).
        lambda_identity: Weight of the identity loss; 0 disables this loss. The PyTorch release of
            CycleGAN uses half of `lambda_cycle`.
        lambda_gan: Weight of the generators' adversarial loss (Eq. 1). 0 disables this loss, as in
            the experiment "Cycle alone" of the paper (Tables 4 and 5).
        cycle: Cycles in the cycle loss: a -> b -> a ("forward"), b -> a -> b ("backward") or
            "both". The paper's Tables 4 and 5 compare the three choices.
        pool_size: Number of previously generated images on which each discriminator is also
            trained; 0 means that only current images are used.
        Optimizer:
        generator_optimizer: Function that builds one optimizer from the parameters of both
            generators.
        discriminator_optimizer: Function that builds one optimizer from the parameters of both
            discriminators.
        **kwargs: Arguments of `AdversarialModule`: learning rate schedules, number of updates per
            network, gradient clipping, gradient accumulation and averaged weights.

    Raises:
        UserError: If a side of the images is not a multiple of 4 or is too small for `patch`, or
            if all weights of the generators' loss are 0.
    """

    modality = "image-to-image"
    generator: nn.ModuleDict
    discriminator: nn.ModuleDict

    def __init__(
        self,
        image_shape: list[int],
        width: PositiveInt = 64,
        blocks: PositiveInt | None = None,
        patch: Patch = 70,
        lambda_cycle: NonNegativeFloat = 10.0,
        lambda_identity: NonNegativeFloat = 0.0,
        lambda_gan: NonNegativeFloat = 1.0,
        cycle: Literal["both", "forward", "backward"] = "both",
        pool_size: NonNegativeInt = 50,
        generator_optimizer: OptimizerCallable = adam,
        discriminator_optimizer: OptimizerCallable = adam,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator_optimizer, discriminator_optimizer, **kwargs)
        self.save_hyperparameters(ignore=OPTIMIZER_ARGUMENTS)
        self.weights = {
            "gan_a2b": lambda_gan,
            "gan_b2a": lambda_gan,
            "cycle_a": lambda_cycle * (cycle != "backward"),
            "cycle_b": lambda_cycle * (cycle != "forward"),
            "identity_a": lambda_identity,
            "identity_b": lambda_identity,
        }
        if not any(self.weights.values()):
            raise UserError(
                "model.lambda_gan, model.lambda_cycle and model.lambda_identity are all 0: "
                "give at least one of them a positive value"
            )
        channels, height, side = image_shape
        self.check_sides(height, side)
        blocks = blocks or (6 if min(height, side) < 256 else 9)
        generators = {name: ResnetGenerator(channels, width, blocks) for name in ("a2b", "b2a")}
        discriminators = {
            name: PatchDiscriminator(channels, width, patch, "instance", min(height, side))
            for name in ("a", "b")
        }
        self.set_networks(
            init_normal(nn.ModuleDict(generators)), init_normal(nn.ModuleDict(discriminators))
        )
        self.pools = {name: ImagePool(pool_size) for name in ("a", "b")}
        self.fidelity = fidelity_metrics(("a2b", "b2a"), min(height, side))

    @staticmethod
    def check_sides(height: int, width: int) -> None:
        """Raise a `UserError` if a side is not a multiple of 4 or is below 8."""
        if height % 4 or width % 4 or min(height, width) < 8:
            fit = [
                f"{max(8, side - side % 4)} or {max(8, side - side % 4) + 4}"
                for side in (height, width)
            ]
            raise UserError(
                f"images of {height}x{width}: sides must be multiples of 4 and at least 8 "
                f"(resize the images to a height of {fit[0]} and a width of {fit[1]})"
            )

    def generate(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"a": self.generator["b2a"](batch["b"]), "b": self.generator["a2b"](batch["a"])}

    def domain_loss(self, domain: str, real: Tensor, fake: Tensor) -> Tensor:
        """Return the loss of the discriminator of domain "a" or "b", half of Eq. 1."""
        # Real and fake images share a pass, because instance norm normalises each image separately.
        on_real, on_fake = self.discriminator[domain](torch.cat([real, fake])).chunk(2)
        return ((on_real - 1).square().mean() + on_fake.square().mean()) / 2  # Eq. 1

    def discriminator_loss(
        self, batch: dict[str, Any], generated: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        losses = {
            f"loss_d_{x}": self.domain_loss(x, batch[x], self.pools[x].query(generated[x]))
            for x in ("a", "b")
        }
        return {"loss": losses["loss_d_a"] + losses["loss_d_b"], **losses}

    def generator_losses(
        self, batch: dict[str, Any], generated: dict[str, Tensor], every: bool = False
    ) -> dict[str, Tensor]:
        """Return the unweighted terms of the generators' loss (Eq. 3), keyed by name.

        Terms of weight 0 are returned only if `every` is true.
        """
        g, d, a, b = self.generator, self.discriminator, batch["a"], batch["b"]
        terms = {
            "gan_a2b": lambda: (d["b"](generated["b"]) - 1).square().mean(),  # Eq. 1
            "gan_b2a": lambda: (d["a"](generated["a"]) - 1).square().mean(),
            "cycle_a": lambda: F.l1_loss(g["b2a"](generated["b"]), a),  # Eq. 2
            "cycle_b": lambda: F.l1_loss(g["a2b"](generated["a"]), b),
            "identity_a": lambda: F.l1_loss(g["b2a"](a), a),
            "identity_b": lambda: F.l1_loss(g["a2b"](b), b),
        }
        return {name: term() for name, term in terms.items() if every or self.weights[name]}

    def weigh(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the given terms of the generators' loss (Eq. 3)."""
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def generator_loss(
        self, batch: dict[str, Any], generated: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        losses = self.generator_losses(batch, generated)
        return {"loss": self.weigh(losses), **losses}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build one optimizer for both generators and one for both discriminators.

        By default, both optimizers are built by `adam` and have a constant learning rate.
        """
        return self.build_optimizers()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        generated = self.generate(batch)
        losses = self.generator_losses(batch, generated, every=True)
        losses["loss_g"] = self.weigh(losses)
        for domain in ("a", "b"):
            fake = generated[domain]
            losses[f"loss_d_{domain}"] = self.domain_loss(domain, batch[domain], fake)
        losses["loss_d"] = losses["loss_d_a"] + losses["loss_d_b"]
        values = {f"val/{name}": value for name, value in losses.items()}
        self.log_dict(values, batch_size=len(batch["a"]), sync_dist=True)
        self._log_fidelity(batch, generated, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._log_fidelity(batch, self.generate(batch), "test")

    def _log_fidelity(
        self, batch: dict[str, Any], generated: dict[str, Tensor], stage: str
    ) -> None:
        """Log the error between translations and true images, if the evaluation data is paired."""
        if batch["paired"]:
            generated = self.averaged_output(batch, generated)
            log_fidelity(self, generated["b"], batch["b"], stage, "a2b")
            log_fidelity(self, generated["a"], batch["a"], stage, "b2a")

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the image pools of all ranks (processes); each rank has separate pools."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["pools"] = self.of_all_ranks(
            {name: pool.state() for name, pool in self.pools.items()}
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the image pools of this rank; they stay empty if none were saved for it."""
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and self.trainer.global_rank < len(checkpoint["pools"]):
            for name, pool in self.pools.items():
                pool.load_state(checkpoint["pools"][self.trainer.global_rank][name])

    # Sampling

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        direction: Direction = "a2b",
    ) -> Tensor:
        """Translate images from one domain to the other, without randomness.

        Args:
            seeds: Seeds, which are ignored because the translation is deterministic.
            batch: Dictionary with the input images (N, C, H, W) in [-1, 1], under the key `a` for
                "a2b" or `b` for "b2a". H and W must be multiples of 4.
            direction: Translation from domain A to B ("a2b") or from B to A ("b2a").

        Returns:
            Translated images (N, C, H, W) in [-1, 1].

        Raises:
            UserError: If `batch` is None, or a side of the images is not a multiple of 4 or is
                below 8.
        """
        if batch is None:
            raise UserError(
                "a translation needs images: give --input FOLDER_OR_IMAGE, or --data CONFIG"
            )
        images = batch[direction[0]].to(self.device)
        self.check_sides(*images.shape[2:])
        return self.generator[direction](images)

    def networks(self) -> dict[str, ExportedNetwork]:
        image = torch.zeros(2, self.hparams.image_shape[0], 64, 64)
        sizes = {"image": {0: "batch", 2: "height", 3: "width"}}
        return {
            name: ExportedNetwork(
                Method(generator, generator), {"image": image}, ("translation",), sizes
            )
            for name, generator in self.generator.items()
        }

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Return two grids of translations.

        "a_to_b" has the rows a, G(a), F(G(a)) and F(a); "b_to_a" has the rows b, F(b), G(F(b)) and
        G(b).
        """
        g = self.generator
        a, b = batch["a"], batch["b"]
        fake_a, fake_b = g["b2a"](b), g["a2b"](a)
        return {
            "a_to_b": torch.stack([a, fake_b, g["b2a"](fake_b), g["b2a"](a)]),
            "a_to_b/rows": ["real a", "G(a)", "cycle F(G(a))", "identity F(a)"],
            "b_to_a": torch.stack([b, fake_a, g["a2b"](fake_a), g["a2b"](b)]),
            "b_to_a/rows": ["real b", "F(b)", "cycle G(F(b))", "identity G(b)"],
        }
