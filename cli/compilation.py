"""`--compile`: compile the networks of a system with `torch.compile`."""

from collections.abc import Callable
from typing import Any

import torch

from common.errors import UserError


def compile_networks(model: torch.nn.Module, backend: str) -> None:
    """Compile every network of a system in place.

    The names of the weights in checkpoints do not change.

    Args:
        model: System whose networks are compiled.
        backend: Backend of `torch.compile`, such as "inductor".

    Raises:
        UserError: If PyTorch has no such backend, or if the system differentiates gradients, which
            compiled networks cannot.
    """
    known = torch.compiler.list_backends()
    if backend not in [*known, "eager"]:
        raise UserError(
            f"--compile {backend}: PyTorch has no such backend; give one of {', '.join(known)}"
        )
    if backend != "eager" and getattr(model, "differentiates_gradients", False):
        raise UserError(
            f"--compile {backend}: torch.compile cannot differentiate gradients, which the "
            "gradient penalties of this system need; leave out --compile"
        )
    compile_called(model, backend)


def compile_called(module: torch.nn.Module, backend: str | Callable[..., Any]) -> None:
    """Compile the submodules that have a `forward` and trainable parameters.

    If a module has no `forward`, such as `ModuleList`, its children are compiled instead.
    """
    for part in module.children():
        if type(part).forward is torch.nn.Module.forward:
            compile_called(part, backend)
        elif any(parameter.requires_grad for parameter in part.parameters()):
            part.compile(backend=backend)
