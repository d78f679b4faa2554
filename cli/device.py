"""The device that a program computes on."""

import torch

from common.errors import UserError


def move_to(model: torch.nn.Module, device: str) -> None:
    """Move a system to `--device`.

    Raises:
        UserError: if there is no such device.
    """
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch: an unknown or a missing device
        raise UserError(
            f"--device {device}: there is no such device here; give cpu, or leave it out"
        ) from error
