"""How much of a mixture of Gaussians a generator covers."""

import torch
from torch import Tensor


def modes_covered(points: Tensor, centres: Tensor, deviation: float) -> tuple[int, float]:
    """Modes with at least a tenth of their share of the samples within 3 deviations, and the share of samples that are.

    After Srivastava et al. 2017 ("VEEGAN"), section 5.1, who count a sample as of high quality within 3 deviations.

    Args:
        points: (N, 2).
        centres: (M, 2).
        deviation: of every mode.
    """
    distance, nearest = torch.cdist(points, centres).min(1)
    near = distance < 3 * deviation
    counts = torch.bincount(nearest[near], minlength=len(centres))
    return int((counts >= len(points) / len(centres) / 10).sum()), near.float().mean().item()
