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
        return losses["loss"]
    except (KeyError, TypeError, IndexError) as error:  # a tensor raises one of the last two
        is_dict = isinstance(losses, dict)
        what = ", ".join(map(str, losses)) if is_dict else type(losses).__name__
        raise UserError(
            f"{method.__qualname__} returned no 'loss'; it returned {what or 'nothing'}. "
            "Return a dictionary with the scalar 'loss'"
        ) from error


def rename_loss(losses: dict[str, Any], name: str) -> dict[str, Any]:
    """Return `losses` with the key "loss" replaced by `name`."""
    return {name if key == "loss" else key: value for key, value in losses.items()}
