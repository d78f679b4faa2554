"""Class labels of conditional systems, in construction and in sampling."""

import torch
from torch import Tensor

from common.errors import UserError


def classes_used(num_classes: int | None, conditional: bool) -> int:
    """Return the number of classes a system is conditioned on, 0 for an unconditional system.

    Raises:
        UserError: If `conditional` is set and the data has no labels.
    """
    if conditional and not num_classes:
        raise UserError("model.conditional needs labels, and this data has none: set it to false")
    return num_classes if conditional and num_classes else 0


def labels_of(
    seeds: list[int], label: int | None, classes: int, device: torch.device
) -> Tensor | None:
    """Return the class (N,) of each sample; None for an unconditional system.

    Args:
        seeds: One seed per sample.
        label: Class of all samples. With None, the class of sample i is `seeds[i] % classes`.
        classes: Number of classes, 0 for an unconditional system.
        device: Device of the result.

    Raises:
        UserError: If `label` is neither None nor in 0 .. classes - 1.
    """
    if label is not None and not 0 <= label < classes:
        if not classes:
            raise UserError(
                f"--label {label} needs a conditional model, which this is not; omit it"
            )
        raise UserError(f"--label must be between 0 and {classes - 1} (got {label})")
    if not classes:
        return None
    chosen = [seed % classes if label is None else label for seed in seeds]
    return torch.tensor(chosen, device=device)
