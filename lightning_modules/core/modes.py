"""Temporary changes of a network: evaluation mode, the sampling decorator, frozen parameters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import torch

if TYPE_CHECKING:
    from lightning_modules.core.module import GenerativeModule

P = ParamSpec("P")


R = TypeVar("R")


@contextmanager
def evaluating(module: torch.nn.Module, mode: bool = False) -> Iterator[None]:
    """Put every submodule into eval mode (or train mode), and each back into the one it had."""
    modes = {part: part.training for part in module.modules()}
    module.train(mode)
    try:
        yield
    finally:
        for part, was in modes.items():
            part.training = was


def sampling(method: Callable[P, R]) -> Callable[P, R]:
    """Decorator of `sample` and `preview`: no gradients, every submodule in eval mode, and all as
    it was afterwards.

    Averaged weights are used where there are any. The one policy for batch norm and dropout, unless
    a system's paper wants another and its method says so.
    """

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        module = cast("GenerativeModule", args[0])
        with torch.no_grad(), module.averaged_weights(), evaluating(module):
            return method(*args, **kwargs)

    wrapped.__dict__["is_sampling"] = True  # `GenerativeModule` asks for it
    return wrapped


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """No gradients for the parameters of `module`; those of its inputs pass through it."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
