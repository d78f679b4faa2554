"""Loading of checkpoints that contain tensors, plain values and the class name of a system."""

import importlib
import io
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from lightning_modules.core.exports import is_export, local_path, read_export
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.sharded_checkpoints import SHARDS, consolidate


def read_checkpoint(path: str | Path, *, weights: bool = True) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values, without running code stored in the file.

    Args:
        path: File of the checkpoint, folder of an export, or `hf://USER/NAME`.
        weights: Whether to read weights that are in shards beside the file. Optimizer states in
            shards are never read.

    Raises:
        UserError: If the file is missing or truncated, or if reading it would run code.
    """
    path = local_path(path)
    if is_export(path):
        return read_export(path)
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such checkpoint; give a file in the checkpoints/ folder of a run"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many types of exceptions here
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UserError(
                f"{path}: refused, since reading it would run code stored in it (pickle); "
                "give a checkpoint written by train.py"
            ) from error
        raise UserError(
            f"{path}: not a readable checkpoint (truncated, or not a PyTorch file); "
            "give a checkpoint written by train.py"
        ) from error
    if not isinstance(checkpoint, dict) or "class_path" not in checkpoint:
        raise UserError(
            f"{path}: not a checkpoint of this template (it names no class); "
            "give a checkpoint written by train.py"
        )
    return consolidate(path, checkpoint, optimizers=False) if weights else checkpoint


def system_class(class_path: str, source: str | Path) -> type[GenerativeModule]:
    """Import the class of a system by the dotted path that is stored in its checkpoint.

    Args:
        class_path: Dotted path of the class.
        source: Path of the checkpoint, printed in error messages.

    Raises:
        UserError: If the class cannot be imported or is not a `GenerativeModule`.
    """
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{source}: its class {class_path} cannot be imported ({error}); "
            "run the code that wrote the checkpoint"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, GenerativeModule)):
        raise UserError(
            f"{source}: {class_path} is not a GenerativeModule; give a checkpoint of train.py"
        )
    return cls


def source(path: Path, checkpoint: dict[str, Any]) -> Any:
    """Return what Lightning can load: the file, or a file in memory for shards and exports.

    Args:
        path: Local file of the checkpoint, or folder of an export.
        checkpoint: Content of the file, without the weights in shards.
    """
    if SHARDS not in checkpoint and path.is_file():
        return path
    buffer = io.BytesIO()
    torch.save(consolidate(path, checkpoint, optimizers=False), buffer)
    buffer.seek(0)
    return buffer


def load(path: str | Path) -> Any:
    """Load the system of a checkpoint, on the CPU and in eval mode.

    Args:
        path: File of the checkpoint, folder of an export, or `hf://USER/NAME`.

    Raises:
        UserError: If the file cannot be read, or if its class cannot be imported, or if its weights
            or hyper-parameters do not match the class.
    """
    path = local_path(path)
    checkpoint = read_checkpoint(path, weights=False)
    cls = system_class(checkpoint["class_path"], path)
    try:
        module = cls.load_from_checkpoint(source(path, checkpoint), "cpu", weights_only=True)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: does not fit the current code of {cls.__name__} ({reason}); "
            "use the code that wrote it"
        ) from error
    return module.eval()
