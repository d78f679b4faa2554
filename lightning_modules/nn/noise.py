"""Noise that generators start from: while training from the batch's seed, while sampling from one
seed per row.
"""

import math

import torch
from torch import Tensor

from lightning_modules.core.seeding import seeded_normal

UNIFORMS = {
    "uniform": (-1.0, 1.0),
    "unit_uniform": (-math.sqrt(3), math.sqrt(3)),
}  # the second has variance 1


def draw_noise(kind: str, count: int, dims: int, device: torch.device) -> Tensor:
    """z (count, dims) from this rank's generator: "normal", or one of `UNIFORMS`."""
    if kind == "normal":
        return torch.randn(count, dims, device=device)
    low, high = UNIFORMS[kind]
    return low + (high - low) * torch.rand(count, dims, device=device)


def seeded_noise(
    kind: str,
    seeds: list[int],
    shape: tuple[int, ...],
    device: torch.device,
    truncation: float | None = None,
) -> Tensor:
    """z (N, *shape), row i by `seeds[i]` alone; the same on every device.

    Args:
        kind: as in `draw_noise`.
        seeds: one per row.
        shape: of a row.
        device: where it is wanted.
        truncation: largest absolute value of normal numbers, or the share of the interval of
            uniform ones that is used: less variety, more typical pictures. It keeps the order of
            all numbers, so that a seed's picture changes little.
    """
    normal = seeded_normal(seeds, shape, device)
    if kind == "normal":
        if truncation is None:
            return normal
        edge = torch.special.ndtr(torch.tensor(truncation, device=device))
        return torch.special.ndtri(1 - edge + torch.special.ndtr(normal) * (2 * edge - 1))
    low, high = UNIFORMS[kind]
    share = 0.5 + (torch.special.ndtr(normal) - 0.5) * (1.0 if truncation is None else truncation)
    return low + (high - low) * share
