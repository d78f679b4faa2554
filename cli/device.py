"""`--device`: move a system to the chosen device."""

import torch

from common.errors import UserError


def move_to(model: torch.nn.Module, device: str) -> None:
    """Move a system to a device.

    Raises:
        UserError: If this machine has no such device.
    """
    try:
        model.to(device)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:  # torch has no such device
        raise UserError(
            f"--device {device}: this machine has no such device; give cpu, or leave it out"
        ) from error
