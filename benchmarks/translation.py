"""Training speed of CycleGAN at 128 pixels, compared with hand-written variants.

Run by `make bench-details`.

    python benchmarks/translation.py [--width 32] [--steps 6] [--rounds 3]

Each contender runs in its own process, in turns. Whole updates:

- ours: `train.py fit` on emoji with all callbacks;
- plain: a loop with the same networks that freezes the discriminators in the generators' step;
- thawed: plain without freezing;
- channels_last: plain in the memory format channels_last.

Forward and backward of the generators alone, with the identity loss:

- g-single: one image at a time;
- g-joined: the translation and the identity of a generator in one batch;
- g-stacked: both generators as one, with stacked weights (`torch.func.vmap`).

Forward and backward of the discriminators alone:

- d-joined: real and generated images in one batch;
- d-apart: real and generated images one after the other.
"""

import argparse
import copy
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.in_turns import throughput
from lightning_modules.core.modes import frozen
from lightning_modules.core.seeding import seed_generators
from lightning_modules.cyclegan import CycleGAN, adam

DATA = {"class_path": "datamodules.pairs.openmoji.OpenMojiPairs", "init_args": {"batch_size": 1}}


def ours(size: int, width: int, steps: int) -> float:
    """Seconds per step of `train.py fit`, started as by a user."""
    model = {"class_path": "lightning_modules.cyclegan.CycleGAN", "init_args": {"width": width}}
    options = ["--trainer.log_every_n_steps", str(steps), "--data.size", str(size)]
    rows = throughput({"model": model, "data": DATA}, steps, steps, options)
    return sum(row["seconds"] for row in rows) / steps


def plain_step(
    model: CycleGAN,
    optimizers: list[torch.optim.Optimizer],
    batch: dict[str, Any],
    frozen_discriminators: bool = True,
) -> dict[str, Tensor]:
    """Update the discriminators, then the generators, and return the losses.

    Images are generated once: the discriminators get them detached, and the generators' step
    continues with their graph.
    """
    g, d, pools, weights = model.generator, model.discriminator, model.pools, model.hparams
    a, b = batch["a"], batch["b"]
    fake_b, fake_a = g["a2b"](a), g["b2a"](b)
    losses = {}
    for name, real, fake in (("a", a, fake_a), ("b", b, fake_b)):
        on_real, on_fake = d[name](torch.cat([real, pools[name].query(fake.detach())])).chunk(2)
        losses[f"loss_d_{name}"] = ((on_real - 1) ** 2).mean() / 2 + (on_fake**2).mean() / 2
    (losses["loss_d_a"] + losses["loss_d_b"]).backward()
    optimizers[1].step()
    optimizers[1].zero_grad()
    with frozen(d) if frozen_discriminators else frozen(nn.Identity()):
        losses |= {
            "gan_a2b": ((d["b"](fake_b) - 1) ** 2).mean(),
            "gan_b2a": ((d["a"](fake_a) - 1) ** 2).mean(),
        }
        losses |= {
            "cycle_a": (g["b2a"](fake_b) - a).abs().mean(),
            "cycle_b": (g["a2b"](fake_a) - b).abs().mean(),
        }
        loss = (
            losses["gan_a2b"]
            + losses["gan_b2a"]
            + weights.lambda_cycle * (losses["cycle_a"] + losses["cycle_b"])
        )
        if weights.lambda_identity:
            losses |= {
                "identity_a": (g["b2a"](a) - a).abs().mean(),
                "identity_b": (g["a2b"](b) - b).abs().mean(),
            }
            loss = loss + weights.lambda_identity * (losses["identity_a"] + losses["identity_b"])
        losses["loss_g"] = loss
        loss.backward()
    optimizers[0].step()
    for optimizer in optimizers:
        optimizer.zero_grad()
    return losses


def generators_step(model: CycleGAN, batch: dict[str, Any], way: str) -> None:
    """Forward and backward of the generators with identity loss, without discriminators."""
    g, a, b = model.generator, batch["a"], batch["b"]
    if way == "joined":
        (fake_b, same_b), (fake_a, same_a) = (
            g["a2b"](torch.cat([a, b])).chunk(2),
            g["b2a"](torch.cat([b, a])).chunk(2),
        )
        back_a, back_b = g["b2a"](fake_b), g["a2b"](fake_a)
    elif way == "stacked":
        stacked, _ = torch.func.stack_module_state([g["a2b"], g["b2a"]])
        skeleton = copy.deepcopy(g["a2b"]).to("meta")

        def both(x: Tensor) -> Tensor:
            return torch.vmap(
                lambda weights, one: torch.func.functional_call(skeleton, weights, one)
            )(stacked, x)

        fake_b, fake_a = both(torch.stack([a, b])).unbind()
        back_b, back_a = both(torch.stack([fake_a, fake_b])).unbind()
        same_b, same_a = both(torch.stack([b, a])).unbind()
    else:
        fake_b, fake_a, same_a, same_b = g["a2b"](a), g["b2a"](b), g["b2a"](a), g["a2b"](b)
        back_a, back_b = g["b2a"](fake_b), g["a2b"](fake_a)
    errors = [F.l1_loss(*pair) for pair in ((back_a, a), (back_b, b), (same_a, a), (same_b, b))]
    torch.stack(errors).sum().backward()
    model.zero_grad()


def discriminators_step(model: CycleGAN, batch: dict[str, Any], way: str) -> None:
    """Forward and backward of the discriminators on real and generated images."""
    d = model.discriminator
    for name in ("a", "b"):
        real = batch[name]
        if way == "apart":
            on_real, on_fake = d[name](real), d[name](-real)
        else:
            on_real, on_fake = d[name](torch.cat([real, -real])).chunk(2)
        ((on_real - 1).square().mean() + on_fake.square().mean()).backward()
    model.zero_grad()


def batches(size: int) -> Any:
    """Yield transformed training batches without end."""
    from datamodules.pairs.openmoji import OpenMojiPairs

    data = OpenMojiPairs(size=size, batch_size=1)
    data.prepare_data()
    while True:
        for batch in data.train_dataloader():
            yield data.transform(batch, training=True)


def by_hand(contender: str, size: int, width: int, steps: int) -> float:
    """Seconds per step of a hand-written contender."""
    import train  # noqa: F401  # the same libraries count in peak memory

    torch.manual_seed(0)
    model = CycleGAN([3, size, size], width=width)
    optimizers = [adam(net.parameters()) for net in (model.generator, model.discriminator)]
    if contender == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stream = batches(size)
    kinds: dict[str, Callable[[dict[str, Any]], object]] = {
        "plain": lambda batch: plain_step(model, optimizers, batch),
        "channels_last": lambda batch: plain_step(model, optimizers, batch),
        "thawed": lambda batch: plain_step(model, optimizers, batch, frozen_discriminators=False),
        **{
            f"g-{way}": lambda batch, way=way: generators_step(model, batch, way)
            for way in ("single", "joined", "stacked")
        },  # type: ignore[misc]
        **{
            f"d-{way}": lambda batch, way=way: discriminators_step(model, batch, way)
            for way in ("joined", "apart")
        },  # type: ignore[misc]
    }
    begin = 0.0
    for number in range(2 * steps):
        if number == steps:  # the first half warms up
            begin = time.perf_counter()
        batch = next(stream)
        if contender == "channels_last":
            batch |= {
                name: batch[name].contiguous(memory_format=torch.channels_last) for name in "ab"
            }
        seed_generators(batch["seed"], torch.device("cpu"))
        kinds[contender](batch)
    return (time.perf_counter() - begin) / steps


CONTENDERS = (
    "ours",
    "plain",
    "thawed",
    "channels_last",
    "g-single",
    "g-joined",
    "g-stacked",
    "d-joined",
    "d-apart",
)
BASES = {
    "ours": "plain",
    "thawed": "plain",
    "channels_last": "plain",
    "g-joined": "g-single",
    "g-stacked": "g-single",
    "d-apart": "d-joined",
}


def measure(contender: str, options: argparse.Namespace) -> tuple[float, float]:
    """Run a contender in its own process; return seconds per step and peak memory in MB."""
    arguments = [f"--{name}={getattr(options, name)}" for name in ("size", "width", "steps")]
    command = [sys.executable, __file__, "--contender", contender, *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"error: {contender} failed: {done.stderr.strip().splitlines()[-1:]}")
    seconds, memory = done.stdout.strip().splitlines()[-1].split()
    return float(seconds), float(memory)


def main() -> None:
    """Run all contenders in turns and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--only", nargs="+", default=CONTENDERS, choices=CONTENDERS, help="contenders to run"
    )
    parser.add_argument("--size", type=int, default=128, help="image side in pixels")
    parser.add_argument("--width", type=int, default=32, help="width of the networks")
    parser.add_argument("--steps", type=int, default=6, help="timed steps")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each contender")
    options = parser.parse_args()
    if options.contender:
        given = (options.size, options.width, options.steps)
        seconds = (
            ours(*given) if options.contender == "ours" else by_hand(options.contender, *given)
        )
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only}
    for _ in range(options.rounds):
        for name, measured in found.items():
            measured.append(measure(name, options))
    print(
        f"CycleGAN, {options.size} px, width {options.width}, batch 1\n"
        f"{'':16}{'s/step':>8}{'peak MB':>10}   relative speed"
    )
    seconds = {
        name: statistics.median(one for one, _ in measured) for name, measured in found.items()
    }
    for name, measured in found.items():
        base = BASES.get(name)
        beside = f"   {seconds[base] / seconds[name]:.2f}x {base}" if base in seconds else ""
        peak = statistics.median(memory for _, memory in measured)
        print(f"{name:16}{seconds[name]:8.3f}{peak:10.0f}{beside}")


if __name__ == "__main__":
    main()
