"""Exponential moving average of weights."""

import torch
from torch import Tensor


@torch.no_grad()
def move_average(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Move parameters and floating-point buffers of `average` towards those of `network`; copy the
    other buffers.

    Nothing is synchronised with the host.

    Args:
        average: Copy of `network` that holds the average.
        network: Network that is trained.
        decay: Weight of the past; the new state has the weight `1 - decay`.
    """
    pairs = zip(
        [*average.parameters(), *average.buffers()],
        [*network.parameters(), *network.buffers()],
        strict=True,
    )
    floating: list[tuple[Tensor, Tensor]] = []
    for mine, theirs in pairs:
        if mine.is_floating_point():
            floating.append((mine, theirs))
        else:
            mine.copy_(theirs)
    torch._foreach_lerp_(
        [mine for mine, _ in floating], [theirs for _, theirs in floating], 1 - decay
    )
