"""CycleGAN: two translators between two piles of pictures that nobody has paired, held together by
the way back.

Zhu, Park, Isola and Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
Networks", ICCV 2017. Domains A and B, generators G: A -> B and F: B -> A, discriminators D_B and
D_A. The least-squares form of section 4:

    validity        L_GAN(G, D_B) = E_b[(D_B(b) - 1)^2] + E_a[D_B(G(a))^2]                       (1)
    reconstruction  L_cyc = E_a[|F(G(a)) - a|_1] + E_b[|G(F(b)) - b|_1]                          (2)
    everything      L_GAN(G, D_B) + L_GAN(F, D_A) + lambda_cycle L_cyc                           (3)
    identity        L_idt = E_b[|G(b) - b|_1] + E_a[|F(a) - a|_1], weighed by lambda_identity    (section 5.2)

In Eq. 1 a discriminator minimises half of what stands there, and a generator E_a[(D_B(G(a)) -
1)^2]. Validity alone lets G send any painting to any photograph: that each picture comes back is
what ties G(a) to its a. Identity says that what is a photograph already needs no change, without
which the colours of paintings wander. Absolute differences are means over pixels, channels and the
batch.

| paper | here |
|---|---|
| G, F | generator.a2b, generator.b2a |
| D_B, D_A | discriminator.b, discriminator.a |
| lambda | lambda_cycle |
| forward cycle a -> G(a) -> F(G(a)); backward cycle b -> F(b) -> G(F(b)) | `cycle` |

Discriminators are shown a pool of the last 50 fakes (section 4, after Shrivastava et al. 2017), so
that the game cannot run in circles. The generators and their Adam are one player, the
discriminators and theirs the other.

Where the paper, its two releases (Lua, then PyTorch) and this file differ:

| | paper | released code | here |
|---|---|---|---|
| lambda_identity | paintings: lambda_cycle / 2 (section 5.2) | Lua: 0; PyTorch: lambda_cycle / 2 | 0; its archives' configs: 5.0 |
| step size | 100 epochs constant, 100 to 0 (section 4) | changed after each epoch | its archives' configs: as PyTorch |
| order of a step | | Lua: G, D_B, F, D_A; PyTorch: generators, then discriminators | discriminators, then generators |
| target for real images | 1 (section 4) | Lua: 0.9 | 1 |
| gradient of the discriminators | halved | Lua: not halved; PyTorch: halved | halved |
| residual blocks | 6 at 128 pixels, 9 from 256 on (section 7.2) | PyTorch: 9 | 6 below 256 pixels, 9 from there on |
| biases before instance norm, which removes them | | Lua: set to 0 at each step; PyTorch: yes | no |
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.adversarial import AdversarialModule
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
    """The last fakes. Asked with new ones, it answers with each new one or, every other time, with
    an old one that it replaces.

    Args:
        size: pictures that are kept; 0 answers with what it was given.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: Tensor | None = None  # (size, C, H, W), of which the first `count` are filled
        self.count = 0

    def query(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to the same; which ones is drawn from the CPU's generator, so that nothing
        waits for a device.
        """
        return (
            torch.cat([self._exchange(part) for part in images.split(self.size)])
            if self.size
            else images
        )

    def _exchange(self, images: Tensor) -> Tensor:
        """For at most `size` pictures, whose slots are distinct."""
        if self.images is None:
            self.images = images.new_empty(self.size, *images.shape[1:])
        self.images = self.images.to(
            images
        )  # a resumed run restores it before it moves to its device
        filling = min(self.size - self.count, len(images))
        self.images[self.count : self.count + filling] = images[:filling]
        self.count += filling
        later = len(images) - filling
        if not later:
            return images
        slots = torch.randperm(self.size)[:later]
        swapped = (torch.rand(later) < 0.5).nonzero()[:, 0]
        answer, slots, swapped = (
            images.clone(),
            slots[swapped].to(images.device),
            swapped.to(images.device) + filling,
        )
        answer[swapped] = self.images[slots]
        self.images[slots] = images[swapped]
        return answer

    def state(self) -> dict[str, Any]:
        """Plain values and a tensor on the CPU."""
        filled = None if self.images is None else self.images[: self.count].cpu()
        return {"images": filled, "count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue with a `state`."""
        self.count = state["count"]
        if state["images"] is not None:
            self.images = state["images"].new_empty(self.size, *state["images"].shape[1:])
            self.images[: self.count] = state["images"]


class CycleGAN(AdversarialModule):
    """Unpaired translation in both directions.

    Args:
        image_shape: (C, H, W), a fact of the data; sides multiples of 4.
        width: channels of the largest grids in all four networks; the paper's 64.
        blocks: residual blocks; the paper's 6 below 256 pixels and 9 from there on unless given.
        patch: side in pixels of what a discriminator judges.
        lambda_cycle: weight of Eq. 2.
        lambda_identity: Weight of the identity loss; half of lambda_cycle in the PyTorch release, 0
            leaves it out.
        lambda_gan: weight of Eq. 1 for the generators; 0 leaves the cycle alone, as in the paper's
            Tables 4 and 5.
        cycle: both ways, or only a -> b -> a (forward) or b -> a -> b (backward), as in these
            tables.
        pool_size: fakes of the past that a discriminator may be shown.
        **kwargs: see `AdversarialModule`.

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
        width: int = 64,
        blocks: int | None = None,
        patch: Patch = 70,
        lambda_cycle: float = 10.0,
        lambda_identity: float = 0.0,
        lambda_gan: float = 1.0,
        cycle: Literal["both", "forward", "backward"] = "both",
        pool_size: int = 50,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.weights = {
            **{"gan_a2b": lambda_gan, "gan_b2a": lambda_gan},
            **{
                "cycle_a": lambda_cycle * (cycle != "backward"),
                "cycle_b": lambda_cycle * (cycle != "forward"),
            },
            **{"identity_a": lambda_identity, "identity_b": lambda_identity},
        }
        if not any(self.weights.values()):
            raise UserError(
                "model.lambda_gan, model.lambda_cycle and model.lambda_identity are all 0: nothing is left to learn"
            )
        channels, height, side = image_shape
        self.check_sides(height, side)
        blocks = blocks or (6 if min(height, side) < 256 else 9)
        generators = {name: ResnetGenerator(channels, width, blocks) for name in ("a2b", "b2a")}
        judges = {
            name: PatchDiscriminator(channels, width, patch, "instance", min(height, side))
            for name in ("a", "b")
        }
        self.set_networks(
            init_normal(nn.ModuleDict(generators)), init_normal(nn.ModuleDict(judges))
        )
        self.pools = {name: ImagePool(pool_size) for name in ("a", "b")}
        self.fidelity = fidelity_metrics(("a2b", "b2a"), min(height, side))

    @staticmethod
    def check_sides(height: int, width: int) -> None:
        """Refuse pictures that two halvings and two doublings would not give back in their size."""
        if height % 4 or width % 4 or min(height, width) < 8:
            fit = [
                f"{max(8, side - side % 4)} or {max(8, side - side % 4) + 4}"
                for side in (height, width)
            ]
            raise UserError(
                f"pictures of {height}x{width}: sides must be multiples of 4 (here {fit[0]} high, {fit[1]} wide)"
            )

    def generate(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"a": self.generator["b2a"](batch["b"]), "b": self.generator["a2b"](batch["a"])}

    def domain_loss(self, domain: str, real: Tensor, fake: Tensor) -> Tensor:
        """Half of Eq. 1. Instance norm keeps pictures apart, so that one pass serves both."""
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
        """Each part of Eq. 3 and of identity by its name, unweighed; only those that weigh
        something, or all of them.
        """
        g, d, a, b = self.generator, self.discriminator, batch["a"], batch["b"]
        parts = {
            "gan_a2b": lambda: (d["b"](generated["b"]) - 1).square().mean(),  # Eq. 1
            "gan_b2a": lambda: (d["a"](generated["a"]) - 1).square().mean(),
            "cycle_a": lambda: F.l1_loss(g["b2a"](generated["b"]), a),  # Eq. 2
            "cycle_b": lambda: F.l1_loss(g["a2b"](generated["a"]), b),
            "identity_a": lambda: F.l1_loss(g["b2a"](a), a),
            "identity_b": lambda: F.l1_loss(g["a2b"](b), b),
        }
        return {name: part() for name, part in parts.items() if every or self.weights[name]}

    def weigh(self, losses: dict[str, Tensor]) -> Tensor:
        """Eq. 3, with identity."""
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def generator_loss(
        self, batch: dict[str, Any], generated: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        losses = self.generator_losses(batch, generated)
        return {"loss": self.weigh(losses), **losses}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        generated = self.generate(batch)
        losses = self.generator_losses(batch, generated, every=True)
        judged = {f"loss_d_{x}": self.domain_loss(x, batch[x], generated[x]) for x in ("a", "b")}
        every = {
            **losses,
            **judged,
            "loss_g": self.weigh(losses),
            "loss_d": judged["loss_d_a"] + judged["loss_d_b"],
        }
        values = {f"val/{name}": value for name, value in every.items()}
        self.log_dict(values, batch_size=len(batch["a"]), sync_dist=True)
        self._compare(batch, generated, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._compare(batch, self.generate(batch), "test")

    def _compare(self, batch: dict[str, Any], generated: dict[str, Tensor], stage: str) -> None:
        """Against the truth, which embedded data has although training never sees it."""
        if batch["paired"]:
            log_fidelity(self, generated["b"], batch["b"], stage, "a2b")
            log_fidelity(self, generated["a"], batch["a"], stage, "b2a")

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Each rank has pools of its own, and all of them are kept."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["pools"] = self.of_all_ranks(
            {name: pool.state() for name, pool in self.pools.items()}
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A rank that was not there before begins with empty pools."""
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
        """Translate pictures; nothing in it is random.

        Args:
            seeds: one per picture, without effect.
            batch: pictures (N, C, H, W) in [-1, 1] under `a` or `b`, whichever the direction begins
                with; any size whose sides are multiples of 4.
            direction: from which domain to which.

        Returns:
            (N, C, H, W) in [-1, 1].

        Raises:
            UserError: if there are no pictures, or none of a size that the networks take.
        """
        if batch is None:
            raise UserError(
                "a translation needs pictures: give --input FOLDER_OR_IMAGE, or --data CONFIG"
            )
        pictures = batch[direction[0]].to(self.device)
        self.check_sides(*pictures.shape[2:])
        return self.generator[direction](pictures)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Rows of a picture, its translation, the way back, and what identity asks of it."""
        g = self.generator
        a, b = batch["a"], batch["b"]
        fake_a, fake_b = g["b2a"](b), g["a2b"](a)
        return {
            "a_to_b": torch.stack([a, fake_b, g["b2a"](fake_b), g["b2a"](a)]),
            "b_to_a": torch.stack([b, fake_a, g["a2b"](fake_a), g["a2b"](b)]),
        }
