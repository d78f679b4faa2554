"""Seeding of all random generators, and noise with one seed per sample."""

import operator
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError


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


def truncated(noise: Tensor, limit: float) -> Tensor:
    """Map standard normal noise to normal noise truncated to [-limit, limit].

    This is the truncation trick of BigGAN (Brock et al. 2019, section 3.1). Instead of sampling
    values outside of the range again, the cumulative distribution function is inverted, so the
    noise of a seed changes continuously with the limit.

    Args:
        noise: Standard normal noise.
        limit: Maximum absolute value; 0 returns the noise unchanged.
    """
    if not limit:
        return noise
    low = torch.special.ndtr(torch.tensor(-limit, dtype=torch.float64))
    quantiles = low + torch.special.ndtr(noise.double()) * (1 - 2 * low)
    return torch.special.ndtri(quantiles).to(noise.dtype)


def seed_list(seeds: Any) -> list[int]:
    """Convert a sequence of integers, such as a range, an array or a tensor, to a list.

    Raises:
        UserError: If `seeds` is no sequence, is empty, or has an element that is no integer of 64
            bits.
    """
    values = seeds.tolist() if isinstance(seeds, np.ndarray | Tensor) else seeds
    try:
        found = [None if isinstance(value, bool) else operator.index(value) for value in values]
    except TypeError:
        found = []
    if not found or not all(value is not None and -(2**63) <= value < 2**63 for value in found):
        raise UserError(
            f"seeds must be a list of one or more integers, such as [0, 1] (got {seeds!r:.60})"
        )
    return found  # type: ignore[return-value]
