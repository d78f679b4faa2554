"""Which codes of a picture look at which (Eq. 4 of `dalle.py`): Ramesh et al. 2021, appendix B.1
and Figure 11.
"""

from itertools import product
from typing import Literal

import torch
from torch import Tensor

Pattern = Literal["dense", "row", "column", "conv"]


def picture_mask(pattern: Pattern, height: int, width: int, kernel: int) -> Tensor:
    """bool (M, M) by Eq. 4: which codes (columns) each code (row) looks at, itself among them, in
    raster order.

    Args:
        pattern: which of Eq. 4.
        height: of the grid, M = height * width.
        width: of the grid.
        kernel: side of the convolution, odd; it goes on at the other side of the grid
            ("wraparound").
    """
    place = torch.arange(height * width)
    distance = place[:, None] - place
    if pattern == "row":
        return (distance >= 0) & (distance <= width)
    if pattern == "column":
        return (distance >= 0) & (distance % width == 0)
    if pattern == "conv":
        reach = kernel // 2
        inside = [
            down * width + right
            for down, right in product(range(reach + 1), range(-reach, reach + 1))
        ]
        return torch.isin(distance, torch.tensor([offset for offset in inside if offset >= 0]))
    return distance >= 0


def pattern_of(layer: int, layers: int) -> Pattern:
    """The sparse pattern of a layer, counted from 1 (appendix B.1)."""
    return "conv" if layer == layers else "column" if (layer - 2) % 4 == 0 else "row"


def behind_text(mask: Tensor, length: int) -> Tensor:
    """bool (T + M, T + M) of what begins a text, its T tokens and all codes but the last: those
    look at all text, and by a mask (M, M) at each other.
    """
    whole = torch.ones(length + len(mask), length + len(mask), dtype=torch.bool).tril()
    whole[length + 1 :, length + 1 :] = mask[:-1, :-1]
    return whole
