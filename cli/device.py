"""`--device`: the device of a computation."""

import torch

from common.errors import UserError


def move_to(model: torch.nn.Module, device: str) -> None:
    """Move a system to a device.

    Raises:
        UserError: If there is no such device.
    """
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch: an unknown or a missing device
        raise UserError(
            f"--device {device}: this machine has no such device; give cpu, or leave it out"
        ) from error
