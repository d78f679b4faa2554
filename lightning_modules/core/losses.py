"""The dictionaries that the losses of a system return."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from common.errors import UserError


def total_loss(losses: dict[str, Any], method: Callable[..., Any]) -> Tensor:
    """Return the scalar "loss" of a dictionary of losses.

    Args:
        losses: Value that `method` returned.
        method: Method of a system, named in the error message.

    Raises:
        UserError: If there is no "loss".
    """
    try:
        return dict.__getitem__(losses, "loss")  # TypeError for others; `tensor["loss"]` warns too
    except (KeyError, TypeError) as error:
        names = ", ".join(map(str, losses)) if isinstance(losses, dict) else None
        what = f"a {type(losses).__name__}" if names is None else names or "an empty dictionary"
        raise UserError(
            f"{method.__qualname__} returned no 'loss'; it returned {what}. "
            "Return a dictionary with the scalar 'loss'"
        ) from error


def rename_loss(losses: dict[str, Any], name: str) -> dict[str, Any]:
    """Return `losses` with the key "loss" replaced by `name`."""
    return {name if key == "loss" else key: value for key, value in losses.items()}
