"""Checkpoints whose weights and optimizer states are written by all processes, each its part.

The file of the checkpoint, such as `last.ckpt`, holds everything else and, under "shards", the name
of a folder in `last.shards/` with one file per process. These files are complete before the
checkpoint names them, so a killed run leaves a usable checkpoint. They contain tensors and plain
values only, and are read without pickle.
"""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from common.errors import UserError

SHARDS = "shards"  # key in the file of a checkpoint
PART = "part of a sharded tensor"  # key of the part of a process


def shards_of(path: Path) -> Path:
    """Return the folder that contains the shards of a checkpoint, in a sub-folder per save."""
    return path.with_suffix(".shards")


def new_name() -> str:
    """Return a name for the shards of one save."""
    return str(time.time_ns())


def shards_folder(path: Path, checkpoint: dict[str, Any]) -> Path:
    """Return the folder with the shards of a checkpoint.

    Raises:
        UserError: If a file is missing, or if the checkpoint names another place.
    """
    name, processes = checkpoint[SHARDS]
    folder = shards_of(path) / str(name)
    whole = re.fullmatch(r"\d+", str(name)) and all(
        (folder / f"rank{rank}.pt").is_file() for rank in range(processes)
    )
    if not whole:
        raise UserError(f"{path}: its shards {folder} are missing; copy them with the checkpoint")
    return folder


def checkpoint_files(path: Path) -> list[Path]:
    """Return the file of a checkpoint and the files of its shards; none if there is no file."""
    if not path.is_file():
        return []
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    shards = shards_folder(path, content).iterdir() if SHARDS in content else ()
    return [path, *sorted(shards)]


def parts_of(value: Any) -> Any:
    """Return a nested state with the part of this process in place of each sharded tensor."""
    if isinstance(value, DTensor):
        return {PART: value.to_local().detach().cpu()}
    if isinstance(value, dict):
        return {name: parts_of(one) for name, one in value.items()}
    return [parts_of(one) for one in value] if isinstance(value, list) else value


def joined(parts: list[Any]) -> Any:
    """Join the nested states of all processes, in order of rank, to one with whole tensors."""
    first = parts[0]
    if isinstance(first, dict) and first.keys() == {PART}:
        return torch.cat([part[PART] for part in parts])
    if isinstance(first, dict):
        return {name: joined([part[name] for part in parts]) for name in first}
    return [joined(list(row)) for row in zip(*parts)] if isinstance(first, list) else first


def sharded_as(template: Any, parts: list[Any]) -> Any:
    """Return a nested state with tensors that are sharded as those of a template.

    Args:
        template: State of the same structure, whose tensors are sharded over the processes.
        parts: States of all processes that have written the checkpoint.
    """
    if isinstance(template, DTensor):
        whole: Tensor = joined(parts)
        mesh = template.device_mesh
        rows = whole.chunk(mesh.size())  # FSDP2 divides the first dimension in the same way
        rank = mesh.get_local_rank()
        own = (rows[rank] if rank < len(rows) else whole[:0]).to(template.device)
        return DTensor.from_local(
            own,
            mesh,
            template.placements,
            run_check=False,
            shape=template.shape,
            stride=template.stride(),
        )
    if isinstance(template, dict):
        return {
            name: sharded_as(one, [part[name] for part in parts]) for name, one in template.items()
        }
    if isinstance(template, list):
        return [sharded_as(one, list(row)) for one, *row in zip(template, *parts)]
    return parts[0]


def write_shards(checkpoint: dict[str, Any], path: Path, name: str, rank: int, world: int) -> None:
    """Write this process's part of a checkpoint, and replace it by the name of the folder.

    Args:
        checkpoint: Checkpoint, whose weights and optimizer states are removed.
        path: File of the checkpoint.
        name: Name of the shards, equal on all processes.
        rank: Rank of this process.
        world: Number of processes.
    """
    states = parts_of({key: checkpoint.pop(key) for key in ("state_dict", "optimizer_states")})
    folder = shards_of(path) / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"rank{rank}.pt", "wb") as file:
        torch.save(states, file)
        file.flush()
        os.fsync(file.fileno())
    checkpoint[SHARDS] = [name, world]


def remove_shards(path: Path, keep: str | None = None) -> None:
    """Remove the shards of a checkpoint file, except those with the name `keep`."""
    folder = shards_of(path)
    for one in folder.iterdir() if folder.is_dir() else ():
        if one.name != keep:
            shutil.rmtree(one)
    if keep is None:
        shutil.rmtree(folder, ignore_errors=True)


def read_parts(path: Path, checkpoint: dict[str, Any]) -> list[Any]:
    """Return the memory-mapped states of all processes that have written a checkpoint.

    Raises:
        UserError: If a file is missing or damaged, or if reading it would run code.
    """
    folder, (_, processes) = shards_folder(path, checkpoint), checkpoint[SHARDS]
    parts = []
    for rank in range(processes):
        file = folder / f"rank{rank}.pt"
        try:
            parts.append(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
        except Exception as error:  # torch raises many types of exceptions here
            raise UserError(
                f"{file}: not a readable part of a checkpoint, or reading it would run code; give "
                "a checkpoint written by train.py"
            ) from error
    return parts


def load_shards(
    path: Path,
    checkpoint: dict[str, Any],
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
) -> None:
    """Load the weights and optimizer states of a checkpoint into a sharded system.

    All processes must call it. Their number may differ from that of the run that wrote the shards.
    """
    parts = read_parts(path, checkpoint)
    weights = [part["state_dict"] for part in parts]
    set_model_state_dict(model, sharded_as(get_model_state_dict(model), weights))
    for number, optimizer in enumerate(optimizers):
        states = [part["optimizer_states"][number] for part in parts]
        template = get_optimizer_state_dict(model, optimizer)
        set_optimizer_state_dict(model, optimizer, sharded_as(template, states))


def consolidate(path: Path, checkpoint: dict[str, Any], optimizers: bool = True) -> dict[str, Any]:
    """Return a checkpoint with whole weights and optimizer states, as of an unsharded run.

    Args:
        path: File of the checkpoint.
        checkpoint: Content of the file. Without shards, it is returned unchanged.
        optimizers: Whether to include the optimizer states.

    Raises:
        UserError: If the folder of the shards is missing.
    """
    if SHARDS not in checkpoint:
        return checkpoint
    parts = read_parts(path, checkpoint)
    whole = {name: value for name, value in checkpoint.items() if name != SHARDS}
    whole["state_dict"] = joined([part["state_dict"] for part in parts])
    if optimizers:
        states = joined([part["optimizer_states"] for part in parts])
        whole["optimizer_states"] = [with_numbers(state) for state in states]
    return whole


def with_numbers(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an optimizer with numbers instead of names of parameters."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    groups = [
        {**group, "params": [numbers[name] for name in group["params"]]}
        for group in state["param_groups"]
    ]
    values = {numbers[name]: value for name, value in state["state"].items()}
    return {"state": values, "param_groups": groups}
