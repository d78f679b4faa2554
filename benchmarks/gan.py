"""Training speed of GANs at batch 64, compared with two hand-written loops: `make bench-details`.

"gan" and "dcgan" are this template's networks. "pytorch-gan" and "pytorch-dcgan" are those of
gan.py and dcgan.py in the repository PyTorch-GAN, a common starting point. For each of them, all
contenders train the same networks:

- ours: `train.py fit` with default callbacks and CSV logger;
- plain: a loop with fused Adam, uint8 images in memory, one gather per batch, one generator pass
  for both networks, and D frozen while G is updated;
- textbook: a loop as in PyTorch-GAN, with PIL and ToTensor per image, unfused Adam, cross-entropy
  on two D passes, nothing frozen, and the losses read at every step.

Each contender runs several times in its own process, in turns; ratios are ratios of medians. No
contender validates. The data is MNIST if it is in DATA_ROOT, otherwise emoji; the textbook loop
needs MNIST.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.in_turns import data_of, throughput
from datamodules.base import corpus_root
from lightning_modules.core.adversarial import batch_norms
from lightning_modules.core.modes import frozen
from lightning_modules.dcgan import DCGAN
from lightning_modules.gan import GAN

BATCH, WARMUP = 64, 10


class Unlabelled(nn.Module):
    """Layers that accept and ignore the label, which a GAN passes to its networks."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs: Tensor, label: None) -> Tensor:
        return self.layers(inputs)


class PytorchGAN(GAN):
    """The fully connected networks of PyTorch-GAN for 28x28 images."""

    def __init__(self, image_shape: list[int], **kwargs: Any) -> None:
        super().__init__(image_shape, hidden=[1, 1], **kwargs)
        norm = [nn.BatchNorm1d(width, 0.8) for width in (256, 512, 1024)]
        generator = nn.Sequential(
            *(nn.Linear(100, 128), nn.LeakyReLU(0.2)),
            *(nn.Linear(128, 256), norm[0], nn.LeakyReLU(0.2)),
            *(nn.Linear(256, 512), norm[1], nn.LeakyReLU(0.2)),
            *(nn.Linear(512, 1024), norm[2], nn.LeakyReLU(0.2)),
            *(nn.Linear(1024, 784), nn.Tanh(), nn.Unflatten(1, image_shape)),
        )
        layers = [
            nn.Linear(784, 512),
            nn.LeakyReLU(0.2),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2),
            nn.Linear(256, 1),
        ]
        self.set_networks(
            Unlabelled(generator), Unlabelled(nn.Sequential(nn.Flatten(), *layers, nn.Flatten(0)))
        )


class PytorchDCGAN(DCGAN):
    """The convolutional networks of PyTorch-GAN for 32x32 images."""

    def __init__(self, image_shape: list[int], **kwargs: Any) -> None:
        super().__init__(image_shape, width=1, **kwargs)
        generator = nn.Sequential(
            *(
                nn.Linear(100, 128 * 64),
                nn.Unflatten(1, (128, 8, 8)),
                nn.BatchNorm2d(128),
                nn.Upsample(scale_factor=2),
            ),
            *(
                nn.Conv2d(128, 128, 3, padding=1),
                nn.BatchNorm2d(128, 0.8),
                nn.LeakyReLU(0.2),
                nn.Upsample(scale_factor=2),
            ),
            *(nn.Conv2d(128, 64, 3, padding=1), nn.BatchNorm2d(64, 0.8), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(64, image_shape[0], 3, padding=1), nn.Tanh()),
        )
        layers: list[nn.Module] = []
        for before, after in ((image_shape[0], 16), (16, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout2d(0.25)]
            layers += [nn.BatchNorm2d(after, 0.8)] if after > 16 else []
        layers += [nn.Flatten(), nn.Linear(512, 1), nn.Flatten(0)]
        self.set_networks(Unlabelled(generator), Unlabelled(nn.Sequential(*layers)))


SYSTEMS: dict[str, tuple[str, int, dict[str, int]]] = {  # class, image side, arguments
    "gan": ("lightning_modules.gan.GAN", 28, {}),
    "dcgan": (
        "lightning_modules.dcgan.DCGAN",
        32,
        {"width": 64, "kernel": 4},
    ),  # half the released width, for a CPU
    "pytorch-gan": ("benchmarks.gan.PytorchGAN", 28, {}),
    "pytorch-dcgan": ("benchmarks.gan.PytorchDCGAN", 32, {}),
}


def recipe(system: str) -> dict[str, Any]:
    """Configuration of one of `SYSTEMS`, on MNIST if it is available, otherwise on emoji.

    MNIST is padded with black to the image side of the system.
    """
    path, side, init = SYSTEMS[system]
    model = {"class_path": path, "init_args": init}
    if not (corpus_root(None) / "MNIST/raw/train-images-idx3-ubyte").is_file():
        emoji = {"size": side, "batch_size": BATCH}
        return {
            "model": model,
            "data": {"class_path": "datamodules.images.openmoji.OpenMoji", "init_args": emoji},
        }
    arguments = {"dataset": "MNIST", "val_size": 0, "pad": (side - 28) // 2, "batch_size": BATCH}
    data = {
        "class_path": "datamodules.images.torchvision.TorchvisionImages",
        "init_args": arguments,
    }
    return {"model": model, "data": data}


def ours(system: str, steps: int, options: Sequence[str] = ()) -> float:
    """Steps per second of `train.py fit`, started as by a user, with additional options."""
    log = ["--trainer.log_every_n_steps", "10", *options]
    rows = throughput(recipe(system), WARMUP, steps, log)
    return steps / sum(row["seconds"] for row in rows)


def networks(system: str, image_shape: list[int]) -> tuple[nn.Module, nn.Module]:
    """Create an untrained generator and discriminator for images (C, H, W)."""
    import importlib

    path, _, init = SYSTEMS[system]
    module, _, name = path.rpartition(".")
    model = getattr(importlib.import_module(module), name)(image_shape=image_shape, **init)
    return model.generator, model.discriminator


def wait_for(device: str) -> None:
    """Wait until the device has finished all queued work."""
    if device != "cpu":
        torch.cuda.synchronize()


def timed(step: Callable[[], None], steps: int, device: str = "cpu") -> float:
    """Run a training step repeatedly and return steps per second after a warm-up."""
    begin = 0.0
    for number in range(WARMUP + steps):
        if number == WARMUP:
            wait_for(device)
            begin = time.perf_counter()
        step()
    wait_for(device)
    return steps / (time.perf_counter() - begin)


def plain(system: str, steps: int, device: str = "cpu") -> float:
    """Steps per second of an optimised hand-written loop."""
    images = data_of(recipe(system)).split("train").images.to(device)
    generator, discriminator = (
        network.to(device) for network in networks(system, list(images.shape[1:]))
    )
    adams = [
        torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999), fused=True)
        for net in (generator, discriminator)
    ]
    apart = bool(batch_norms(discriminator))
    order: list[Tensor] = []

    def step() -> None:
        if not order:
            order.extend(torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH))
        real = images[order.pop()].float() / 127.5 - 1
        fake = generator(torch.randn(BATCH, 100, device=device), None)
        if apart:
            right, wrong = discriminator(real, None), discriminator(fake.detach(), None)
        else:
            right, wrong = discriminator(torch.cat([real, fake.detach()]), None).chunk(2)
        loss = F.softplus(-right).mean() + F.softplus(wrong).mean()
        adams[1].zero_grad()
        loss.backward()
        adams[1].step()
        with frozen(discriminator):
            adams[0].zero_grad()
            F.softplus(-discriminator(fake, None)).mean().backward()
        adams[0].step()

    return timed(step, steps, device)


def textbook(system: str, steps: int) -> float:
    """Steps per second of a textbook loop."""
    from torchvision import datasets, transforms

    side = SYSTEMS[system][1]
    change = transforms.Compose(
        [transforms.Resize(side), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    )
    digits = datasets.MNIST(corpus_root(None), transform=change)
    loader = torch.utils.data.DataLoader(digits, BATCH, shuffle=True, drop_last=True)
    batches = chain.from_iterable(repeat(loader))
    generator, discriminator = networks(system, [1, side, side])
    adams = [
        torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (generator, discriminator)
    ]
    entropy, yes, no = nn.BCELoss(), torch.ones(BATCH), torch.zeros(BATCH)

    def step() -> None:
        real, _ = next(batches)
        adams[0].zero_grad()
        fake = generator(torch.randn(BATCH, 100), None)
        loss_g = entropy(discriminator(fake, None).sigmoid(), yes)
        loss_g.backward()
        adams[0].step()
        adams[1].zero_grad()
        loss_real = entropy(discriminator(real, None).sigmoid(), yes)
        loss_d = (loss_real + entropy(discriminator(fake.detach(), None).sigmoid(), no)) / 2
        loss_d.backward()
        adams[1].step()
        print(f"{loss_d.item():.3f} {loss_g.item():.3f}", file=sys.stderr)

    return timed(step, steps)


CONTENDERS = {"ours": ours, "plain": plain, "textbook": textbook}


def measure(system: str, contender: str, steps: int) -> float:
    """Run a contender in its own process and return its steps per second."""
    command = [
        sys.executable,
        __file__,
        "--systems",
        system,
        "--contender",
        contender,
        "--steps",
        str(steps),
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"error: {contender} failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Run all contenders in turns and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument(
        "--systems",
        nargs="+",
        default=list(SYSTEMS),
        choices=list(SYSTEMS),
        help="networks to train",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="timed steps (default: 200 for fully connected, 40 for convolutional networks)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each contender")
    options = parser.parse_args()
    if options.contender:
        print(CONTENDERS[options.contender](options.systems[0], options.steps))
        return
    contenders = list(CONTENDERS)
    if not (corpus_root(None) / "MNIST").is_dir():
        contenders.remove("textbook")
        print("MNIST is not in DATA_ROOT: without the textbook loop, which needs it")
    print(
        f"{'':16}"
        + "".join(f"{name:>12}" for name in contenders)
        + f"   steps/s; ratios ours / {', ours / '.join(contenders[1:])}"
    )
    for system in options.systems:
        steps = options.steps or (40 if SYSTEMS[system][1] == 32 else 200)
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            for name, speeds in found.items():
                speeds.append(measure(system, name, steps))
        speed = {name: statistics.median(speeds) for name, speeds in found.items()}
        ratios = " ".join(f"{speed['ours'] / speed[name]:.2f}x" for name in contenders[1:])
        print(
            f"{system:16}"
            + "".join(f"{value:12.2f}" for value in speed.values())
            + f"    {ratios}",
            flush=True,
        )


if __name__ == "__main__":
    main()
