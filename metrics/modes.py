"""How much of what there is a generator covers."""

import torch
from torch import Tensor


def modes_covered(points: Tensor, centres: Tensor, deviation: float) -> tuple[int, float]:
    """Modes with at least a tenth of their share of the samples within 3 deviations, and the share
    of samples that are.

    After Srivastava et al. 2017 ("VEEGAN"), section 5.1, who count a sample as of high quality
    within 3 deviations.

    Args:
        points: (N, 2).
        centres: (M, 2).
        deviation: of every mode.
    """
    distance, nearest = torch.cdist(points, centres).min(1)
    near = distance < 3 * deviation
    counts = torch.bincount(nearest[near], minlength=len(centres))
    return int((counts >= len(points) / len(centres) / 10).sum()), near.float().mean().item()


def classes_covered(generated: Tensor, real: Tensor, num_classes: int) -> tuple[int, float]:
    """Classes with at least a tenth of the share that they have among real images, and the ratio
    of both entropies.

    Args:
        generated: (N,) classes of generated images.
        real: (M,) classes of real images, by the same classifier.
        num_classes: number of classes.

    Returns:
        The number, and the entropy of the classes of generated images over that of real ones (0
        for a single class).
    """
    shares = [
        torch.bincount(one, minlength=num_classes).double() / len(one) for one in (generated, real)
    ]
    entropies = [torch.special.entr(share).sum() for share in shares]
    covered = (shares[0] >= shares[1] / 10) & (shares[1] > 0)
    return int(covered.sum()), float(entropies[0] / entropies[1]) if entropies[1] > 0 else 0.0
