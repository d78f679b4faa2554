"""Training speed of the VAE 784-512-16 at batch 128, compared with a plain loop.

Run by `make bench-details`.

- ours: `train.py fit` with default callbacks and CSV logger;
- plain: a hand-written loop with fused Adam, the same uint8 images in memory and one gather per
  batch, without logging and checks.

Each contender runs several times in its own process, in turns, because timings are noisy; ratios
are ratios of medians. No contender validates.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.in_turns import data_of, throughput

BATCH, HIDDEN, LATENT, WARMUP = 128, 512, 16, 100


def recipe() -> dict[str, Any]:
    """Configuration on MNIST if it is available, otherwise on emoji of 16x16 pixels.

    Such an emoji has 768 values, nearly as many as the 784 of MNIST.
    """
    from datamodules.base import corpus_root

    if (corpus_root(None) / "MNIST/raw/train-images-idx3-ubyte").is_file():
        data = {
            "class_path": "datamodules.images.torchvision.TorchvisionImages",
            "init_args": {"dataset": "MNIST", "val_size": 0},
        }
    else:
        data = {"class_path": "datamodules.images.openmoji.OpenMoji", "init_args": {"size": 16}}
    data["init_args"]["batch_size"] = BATCH  # type: ignore[index]
    model = {"hidden": [HIDDEN], "latent_dim": LATENT, "activation": "relu"}
    return {"model": {"class_path": "lightning_modules.vae.VAE", "init_args": model}, "data": data}


def ours(steps: int, options: Sequence[str] = ()) -> dict[str, float]:
    """Speed and loading time of `train.py fit`, started as by a user, with additional options."""
    rows = throughput(recipe(), WARMUP, steps, options)
    seconds = sum(row["seconds"] for row in rows)
    loader = data_of(recipe()).loader("train", shuffle=True)
    begin, batches = time.perf_counter(), 0
    for _ in loader:
        batches += 1
    return {
        "steps_per_second": steps / seconds,
        "loading": (time.perf_counter() - begin) / batches * steps / seconds,
    }


def training_images() -> Any:
    """Training images of the configuration, uint8 (N, C, H, W)."""
    return data_of(recipe()).split("train").images


def plain(steps: int, device: str = "cpu") -> dict[str, float]:
    """Steps per second of a hand-written loop."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    images = training_images().to(device)
    pixels = images[0].numel()
    encoder = nn.Sequential(nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT)).to(
        device
    )
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, pixels)).to(
        device
    )
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3, fused=True)
    done, begin = 0, 0.0
    while True:
        for index in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
            if done in (WARMUP, WARMUP + steps) and device != "cpu":
                torch.cuda.synchronize()
            if done == WARMUP:
                begin = time.perf_counter()
            if done == WARMUP + steps:
                return {"steps_per_second": steps / (time.perf_counter() - begin)}
            x = images[index].flatten(1).float() / 255
            mean, log_var = encoder(x).chunk(2, 1)
            z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
            kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
            loss = (F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") + kl) / BATCH
            adam.zero_grad()
            loss.backward()
            adam.step()
            done += 1


def measure(command: list[str]) -> dict[str, float]:
    """Run a contender in its own process and return the values that it prints last."""
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"error: {command[:3]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Run all contenders in turns and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contender", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=1000, help="timed steps")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each contender")
    options = parser.parse_args()
    if options.contender:
        contenders: dict[str, Callable[[int], dict[str, float]]] = {"ours": ours, "plain": plain}
        figures = contenders[options.contender](options.steps)
        figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
        return
    commands = {
        name: [sys.executable, __file__, "--contender", name, "--steps", str(options.steps)]
        for name in ("ours", "plain")
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            runs[name].append(measure(command))
    speed = {
        name: statistics.median(one["steps_per_second"] for one in results)
        for name, results in runs.items()
    }
    print(f"{'':8}{'steps/s':>10}{'ours is':>10}{'peak MB':>10}")
    for name, results in runs.items():
        peak = statistics.median(one["peak_mb"] for one in results)
        print(f"{name:8}{speed[name]:10.1f}{speed['ours'] / speed[name]:9.2f}x{peak:10.0f}")
    loading = statistics.median(one["loading"] for one in runs["ours"])
    print(f"data loading takes {100 * loading:.1f} % of a step of ours")


if __name__ == "__main__":
    main()
