"""Checks of the class labels of conditional systems, in construction and in sampling."""

from common.errors import UserError


def classes_used(num_classes: int | None, conditional: bool) -> int:
    """Return the number of classes a system is conditioned on, 0 for an unconditional system.

    Raises:
        UserError: If `conditional` is set and the data has no labels.
    """
    if conditional and not num_classes:
        raise UserError("model.conditional needs labels, and this data has none: set it to false")
    return num_classes if conditional and num_classes else 0


def check_label(label: int | None, classes: int) -> None:
    """Check that `label` is None or a valid class.

    Args:
        label: Class to sample, or None.
        classes: Number of classes, 0 for an unconditional system.

    Raises:
        UserError: If `label` is neither None nor in 0 .. classes - 1.
    """
    if label is not None and not 0 <= label < classes:
        if not classes:
            raise UserError(
                f"--label {label} needs a conditional model, which this is not; omit it"
            )
        raise UserError(f"--label must be between 0 and {classes - 1} (got {label})")
