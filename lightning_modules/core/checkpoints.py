"""Checkpoints as they are read: tensors and plain values, and the class that they name."""

import importlib
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from lightning_modules.core.module import GenerativeModule


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that holds nothing but tensors and plain values.

    Raises:
        UserError: if the file is missing, cut short, or would have to run code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint; a run keeps its own in checkpoints/")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises half a dozen kinds here
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UserError(
                f"{path}: refused, since reading it would run code from it (pickle); "
                "give one of train.py's"
            ) from error
        raise UserError(
            f"{path}: not a readable checkpoint (cut short, or another kind of file); give another"
        ) from error
    if not isinstance(checkpoint, dict) or "class_path" not in checkpoint:
        raise UserError(
            f"{path}: not a checkpoint of this template (it names no class); give one of train.py's"
        )
    return checkpoint


def system_class(class_path: str, source: str | Path) -> type[GenerativeModule]:
    """The class that a checkpoint names.

    Raises:
        UserError: if it cannot be imported or is no `GenerativeModule`.
    """
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{source}: its system {class_path} is not here ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, GenerativeModule)):
        raise UserError(f"{source}: {class_path} is not a GenerativeModule")
    return cls


def load(path: str | Path) -> Any:
    """The system of a checkpoint, on the CPU and in eval mode, ready for `sample`, `embed` or
    `reconstruct`.

    Raises:
        UserError: as `read_checkpoint`, or if the weights do not fit the class.
    """
    checkpoint = read_checkpoint(path)
    cls = system_class(checkpoint["class_path"], path)
    try:
        module = cls.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: does not fit {cls.__name__} as it is here ({reason})") from error
    return module.eval()
