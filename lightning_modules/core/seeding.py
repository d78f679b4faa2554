"""Seeding of all random generators, and noise with one seed per sample."""

import random

import numpy as np
import torch
from torch import Tensor


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the random generators of Python, NumPy and PyTorch, on the CPU and on `device`.

    Does not call `torch.manual_seed`, because it takes 200 us.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def seeded_normal(
    seeds: list[int], shape: list[int] | tuple[int, ...], device: torch.device | str = "cpu"
) -> Tensor:
    """Sample standard normal noise (N, *shape), one row per seed.

    Row i does not depend on the seeds of other rows. The noise is sampled on the CPU, so it is the
    same for every device.
    """
    rows = [torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(device)
