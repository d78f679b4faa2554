"""Temporary eval mode, frozen parameters, and the decorator of sampling methods."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import torch

from lightning_modules.core.seeding import seed_list

if TYPE_CHECKING:
    from lightning_modules.core.module import GenerativeModule

P = ParamSpec("P")


R = TypeVar("R")


@contextmanager
def evaluating(module: torch.nn.Module, mode: bool = False) -> Iterator[None]:
    """Set every submodule to eval mode, and restore the previous modes afterwards.

    With `mode=True`, every submodule is set to train mode instead.
    """
    modes = {part: part.training for part in module.modules()}
    module.train(mode)
    try:
        yield
    finally:
        for part, was in modes.items():
            part.training = was


def sampling(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method to run without gradients, in eval mode, with averaged weights if available.

    Use it for `sample` and `preview`. Modes and weights are restored afterwards. If a paper samples
    with batch norm or dropout in train mode, `sample` of that system sets this mode itself.

    The argument `seeds` may be any sequence of integers, such as a range, an array or a tensor; the
    method receives a list.
    """
    signature = inspect.signature(method)

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        module = cast("GenerativeModule", args[0])
        if "seeds" in signature.parameters:
            bound = signature.bind(*args, **kwargs)
            bound.arguments["seeds"] = seed_list(bound.arguments["seeds"])
            args, kwargs = bound.args, bound.kwargs  # type: ignore[assignment]
        with torch.no_grad(), module.averaged_weights(), evaluating(module):
            return method(*args, **kwargs)

    wrapped.__dict__["is_sampling"] = True  # checked by `GenerativeModule`
    return wrapped


def sampling_note(model: "GenerativeModule") -> str:
    """Return the `sampling_settings` that are not 0, as part of a signature: "|truncation=0.5"."""
    settings = {name: model.hparams.get(name) for name in model.sampling_settings}
    return "".join(f"|{name}={value:g}" for name, value in settings.items() if value)


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """Disable gradients of the parameters of `module`, but not of its inputs, in a `with` block."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
