"""Class labels of conditional systems: checks for networks and for sampling."""

from common.errors import UserError


def classes_used(num_classes: int | None, conditional: bool) -> int:
    """Number of classes that a system's networks see: 0 where it is not conditional.

    Raises:
        UserError: if labels are wanted and there are none.
    """
    if conditional and not num_classes:
        raise UserError("model.conditional needs labels, and this data has none: set it to false")
    return num_classes if conditional and num_classes else 0


def check_label(label: int | None, classes: int) -> None:
    """Check that a model with `classes` classes (0: not conditional) knows the class `label`.

    Raises:
        UserError: if it does not, with the labels it knows.
    """
    if label is not None and not 0 <= label < classes:
        known = (
            f"give 0 to {classes - 1}" if classes else "leave it out, this model is not conditional"
        )
        raise UserError(f"--label {label}: {known}")
