"""`torch.compile` of the networks of a system."""

from collections.abc import Callable
from typing import Any

import torch

from common.errors import UserError


def compile_networks(model: torch.nn.Module, backend: str) -> None:
    """Compile every network of a system in place, so that names in checkpoints stay.

    Raises:
        UserError: if PyTorch has no such backend.
    """
    known = torch.compiler.list_backends()
    if backend not in [*known, "eager"]:
        raise UserError(
            f"--compile {backend}: there is no such backend here; give one of {', '.join(known)}"
        )
    compile_called(model, backend)


def compile_called(module: torch.nn.Module, backend: str | Callable[..., Any]) -> None:
    """Compile the submodules that have a `forward`.

    Containers (`ModuleList`, `ModuleDict`, and modules used by other methods only) have none: their
    children are compiled instead.
    """
    for part in module.children():
        if type(part).forward is torch.nn.Module.forward:
            compile_called(part, backend)
        elif any(parameter.requires_grad for parameter in part.parameters()):
            part.compile(backend=backend)
