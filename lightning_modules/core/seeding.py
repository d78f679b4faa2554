"""Seeds: of all generators before an update, and of every sampled row alone."""

import random

import numpy as np
import torch
from torch import Tensor


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed Python, NumPy and the generator of the device, without the 200 us that
    `torch.manual_seed` takes.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def seeded_normal(
    seeds: list[int], shape: list[int] | tuple[int, ...], device: torch.device | str = "cpu"
) -> Tensor:
    """(N, *shape) standard normal numbers; row i depends on `seeds[i]` alone and is the same on
    every device.
    """
    rows = [torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(device)
