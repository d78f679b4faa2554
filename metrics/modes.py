"""Number of modes or classes that a generator covers."""

import torch
from torch import Tensor


def modes_covered(points: Tensor, centres: Tensor, deviation: float) -> tuple[int, float]:
    """Count the modes that samples of a mixture of Gaussians cover.

    A sample is of high quality if it lies within 3 standard deviations of a mode (Srivastava et
    al. 2017, "VEEGAN", section 5.1). A mode is covered if at least N / (10 M) samples of high
    quality are nearest to the mode.

    Args:
        points: Samples (N, 2).
        centres: Centres (M, 2) of the modes.
        deviation: Standard deviation of every mode.

    Returns:
        Number of covered modes, and share of high-quality samples.
    """
    distance, nearest = torch.cdist(points, centres).min(1)
    near = distance < 3 * deviation
    counts = torch.bincount(nearest[near], minlength=len(centres))
    return int((counts >= len(points) / len(centres) / 10).sum()), near.float().mean().item()


def classes_covered(generated: Tensor, real: Tensor, num_classes: int) -> tuple[int, float]:
    """Count the classes that generated images cover, and compute a ratio of class entropies.

    A class is covered if its share of generated images is at least a tenth of its share of real
    images.

    Args:
        generated: Classes (N,) that a classifier assigns to generated images.
        real: Classes (M,) that the same classifier assigns to real images.
        num_classes: Number of classes.

    Returns:
        Number of covered classes, and the entropy of the generated classes divided by the entropy
        of the real classes (0 if all real images have the same class).
    """
    shares = [
        torch.bincount(one, minlength=num_classes).double() / len(one) for one in (generated, real)
    ]
    entropies = [torch.special.entr(share).sum() for share in shares]
    covered = (shares[0] >= shares[1] / 10) & (shares[1] > 0)
    return int(covered.sum()), float(entropies[0] / entropies[1]) if entropies[1] > 0 else 0.0
