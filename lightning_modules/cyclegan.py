"""CycleGAN: two translators between two piles of pictures that nobody has paired, held together by
the way back.

Zhu, Park, Isola and Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
Networks", ICCV 2017. Domains A and B, generators G: A -> B and F: B -> A, discriminators D_B and
D_A. The least-squares form of section 4:

    validity        L_GAN(G, D_B) = E_b[(D_B(b) - 1)^2] + E_a[D_B(G(a))^2]                       (1)
    reconstruction  L_cyc = E_a[|F(G(a)) - a|_1] + E_b[|G(F(b)) - b|_1]                          (2)
    full objective  L_GAN(G, D_B) + L_GAN(F, D_A) + lambda_cycle L_cyc + lambda_identity L_idt   (3)
    identity        L_idt = E_b[|G(b) - b|_1] + E_a[|F(a) - a|_1]   (section 5.2)

In Eq. 1 a discriminator minimises half of what stands there, and a generator E_a[(D_B(G(a)) -
1)^2]. Validity alone lets G send any painting to any photograph: that each picture comes back is
what ties G(a) to its a. Identity says that what is a photograph already needs no change, without
which the colours of paintings wander. Absolute differences are means over pixels, channels and the
batch.

Names: G and F are generator.a2b and generator.b2a, D_B and D_A are discriminator.b and
discriminator.a, lambda is `lambda_cycle`; `cycle` chooses the forward cycle a -> G(a) -> F(G(a)),
the backward cycle b -> F(b) -> G(F(b)), or both.

Discriminators are trained on a pool of the last 50 fakes (section 4, after Shrivastava et al.
2017), against oscillation. One optimizer updates both generators, another both discriminators.
Departures from the paper and its two releases (Lua, then PyTorch):

- lambda_identity: lambda_cycle / 2 for paintings (section 5.2) and in the PyTorch release, 0 in the
  Lua release; here 0 by default and 5.0 in the recipes of the paper's archives.
- Learning rate: 100 epochs constant, 100 to 0 (section 4), changed after each epoch in the
  releases; the recipes of the archives do as the PyTorch release.
- Order of an update: the Lua release updates G, D_B, F, D_A, the PyTorch release the generators,
  then the discriminators; here the discriminators, then the generators.
- Target for real images: 1 (section 4); 0.9 in the Lua release.
- Gradient of the discriminators: halved, as in the paper and the PyTorch release, not in the Lua
  release.
- Residual blocks: 6 at 128 pixels, 9 from 256 on (section 7.2), 9 in the PyTorch release; here 6
  below 256 pixels, 9 from there on.
- Biases before instance norm, which removes them: none; the Lua release sets them to 0 at each
  step, the PyTorch release has them.
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
from lightning_modules.nn.convolution import init_normal
from lightning_modules.nn.patch_discriminator import Patch, PatchDiscriminator
from metrics.fidelity import fidelity_metrics, log_fidelity

Direction = Literal["a2b", "b2a"]


class Residual(nn.Module):
    """x plus two 3x3 convolutions of it."""

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
    """c7s1-w, d2w, d4w, residual blocks, u2w, uw, c7s1-C (appendix 7.2): (N, C, H, W) to the same;
    sides multiples of 4.
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
    """Pool of past generated images that a discriminator is trained on (section 4).

    With probability 0.5, `query` returns a stored image and stores the new one in its place;
    otherwise it returns the new image.

    Args:
        size: Number of images that are stored; 0 returns what is given.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: Tensor | None = None  # (size, C, H, W), of which the first `count` are filled
        self.count = 0

    def query(self, images: Tensor) -> Tensor:
        """Exchange images (N, C, H, W); the choice is drawn from the CPU's generator, so that
        nothing waits for a device.
        """
        if not self.size:
            return images
        return torch.cat([self._exchange(part) for part in images.split(self.size)])

    def _exchange(self, images: Tensor) -> Tensor:
        """Exchange at most `size` images, whose slots are distinct."""
        if self.images is None:
            self.images = images.new_empty(self.size, *images.shape[1:])
        self.images = self.images.to(images)  # after resuming, it may be on another device
        added = min(self.size - self.count, len(images))
        self.images[self.count : self.count + added] = images[:added]
        self.count += added
        if added == len(images):
            return images
        slots = torch.randperm(self.size)[: len(images) - added]
        swapped = (torch.rand(len(slots)) < 0.5).nonzero()[:, 0]
        slots = slots[swapped].to(images.device)
        rows = swapped.to(images.device) + added
        result = images.clone()
        result[rows] = self.images[slots]
        self.images[slots] = images[rows]
        return result

    def state(self) -> dict[str, Any]:
        """Contents for a checkpoint: plain values and a tensor on the CPU."""
        filled = None if self.images is None else self.images[: self.count].cpu()
        return {"images": filled, "count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the contents that `state` returned."""
        self.count = state["count"]
        if state["images"] is not None:
            self.images = state["images"].new_empty(self.size, *state["images"].shape[1:])
            self.images[: self.count] = state["images"]


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with the paper's learning rate (section 4) and the releases' beta1."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


class CycleGAN(AdversarialModule):
    """Unpaired translation in both directions.

    One update (`AdversarialModule.training_step`): `generate` translations of a batch; step both
    discriminators on `discriminator_loss` of these images, detached; then step both generators on
    `generator_loss` of the same images through the updated discriminators, whose parameters are
    frozen meanwhile.

    Args:
        image_shape: (C, H, W), a fact of the data; sides multiples of 4.
        width: Channels of the largest grids in all four networks; the paper's 64.
        blocks: Residual blocks; the paper's 6 below 256 pixels and 9 from there on unless given.
        patch: Side in pixels of the patch that a logit of a discriminator depends on.
        lambda_cycle: Weight of Eq. 2.
        lambda_identity: Weight of the identity loss; half of lambda_cycle in the PyTorch release, 0
            leaves it out.
        lambda_gan: Weight of Eq. 1 for the generators; 0 leaves the cycle alone, as in the paper's
            Tables 4 and 5.
        cycle: Both cycles, or only a -> b -> a (forward) or b -> a -> b (backward), as in these
            tables.
        pool_size: Number of past fakes that a discriminator may be trained on.
        generator_optimizer: Factory of the generators' optimizer.
        discriminator_optimizer: Factory of the discriminators' optimizer.
        **kwargs: See `AdversarialModule`: schedules, clipping, accumulation, averaged weights.

    Raises:
        UserError: if the sides are no multiples of 4, too small for the patch, or all weights are
            0.
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
                "nothing is left to learn"
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
        """Check that two halvings and two doublings return images of this size in the same size."""
        if height % 4 or width % 4 or min(height, width) < 8:
            fit = [
                f"{max(8, side - side % 4)} or {max(8, side - side % 4) + 4}"
                for side in (height, width)
            ]
            raise UserError(
                f"images of {height}x{width}: sides must be multiples of 4 "
                f"(here {fit[0]} high, {fit[1]} wide)"
            )

    def generate(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"a": self.generator["b2a"](batch["b"]), "b": self.generator["a2b"](batch["a"])}

    def domain_loss(self, domain: str, real: Tensor, fake: Tensor) -> Tensor:
        """Half of Eq. 1. One pass for both: instance norm keeps the images of a batch apart."""
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
        """Terms of Eq. 3 by their names, without weights: those of weight > 0, or all."""
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
        """Eq. 3."""
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def generator_loss(
        self, batch: dict[str, Any], generated: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        losses = self.generator_losses(batch, generated)
        return {"loss": self.weigh(losses), **losses}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer and schedule for both generators, one for both discriminators: `adam` at a
        constant rate unless given.
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
        """Compare with the true images, where the data has them; training never sees them."""
        if batch["paired"]:
            log_fidelity(self, generated["b"], batch["b"], stage, "a2b")
            log_fidelity(self, generated["a"], batch["a"], stage, "b2a")

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the pools of all ranks; each rank has its own."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["pools"] = self.of_all_ranks(
            {name: pool.state() for name, pool in self.pools.items()}
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A rank without saved pools begins with empty ones."""
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and self.trainer.global_rank < len(checkpoint["pools"]):
            for name, pool in self.pools.items():
                pool.load_state(checkpoint["pools"][self.trainer.global_rank][name])

    # What a user calls

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        direction: Direction = "a2b",
    ) -> Tensor:
        """Translate images; nothing in it is random.

        Args:
            seeds: One per image, without effect.
            batch: Images (N, C, H, W) in [-1, 1] under `a` or `b`, whichever the direction begins
                with; any size whose sides are multiples of 4.
            direction: From which domain to which.

        Returns:
            (N, C, H, W) in [-1, 1].

        Raises:
            UserError: if there are no images, or the networks do not take their size.
        """
        if batch is None:
            raise UserError(
                "a translation needs images: give --input FOLDER_OR_IMAGE, or --data CONFIG"
            )
        images = batch[direction[0]].to(self.device)
        self.check_sides(*images.shape[2:])
        return self.generator[direction](images)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Rows of images, translations, reconstructions, and identity translations."""
        g = self.generator
        a, b = batch["a"], batch["b"]
        fake_a, fake_b = g["b2a"](b), g["a2b"](a)
        return {
            "a_to_b": torch.stack([a, fake_b, g["b2a"](fake_b), g["b2a"](a)]),
            "b_to_a": torch.stack([b, fake_a, g["a2b"](fake_a), g["a2b"](b)]),
        }
