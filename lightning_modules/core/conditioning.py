"""Checks of class labels that networks and samplers are given."""

from common.errors import UserError


def classes_used(num_classes: int | None, conditional: bool) -> int:
    """Number of classes that a system's networks see: 0 where it is not conditional.

    Raises:
        UserError: if labels are wanted and there are none.
    """
    if conditional and not num_classes:
        raise UserError("model.conditional needs labels, and this data has none: set it to false")
    return num_classes if conditional and num_classes else 0


def check_sampling(label: int | None, classes: int, steps: int) -> None:
    """Refuse a class that a model with `classes` classes (0: not conditional) does not know, and a
    line of no steps.

    Raises:
        UserError: naming the option and the mend.
    """
    if label is not None and not 0 <= label < classes:
        known = (
            f"give 0 to {classes - 1}" if classes else "leave it out, this model is not conditional"
        )
        raise UserError(f"--label {label}: {known}")
    if steps < 1:
        raise UserError(f"--steps {steps}: give at least 1")
