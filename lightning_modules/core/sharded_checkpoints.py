"""Checkpoints whose weights and optimizer states are written by all processes, each its shards.

`last.ckpt` then holds everything else and, under "shards", the name of a folder beside it. The
folder is complete before the file names it. So the file is always a usable checkpoint, even if the
run is killed.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from common.errors import UserError

SHARDS = "shards"  # key in the file of a checkpoint


def shards_of(path: Path) -> Path:
    """Return the folder that contains the shards of a checkpoint, in a sub-folder per save."""
    return path.with_suffix(".shards")


def checkpoint_files(path: Path) -> list[Path]:
    """Return the file of a checkpoint and the files of its shards; none if there is no file."""
    shards = sorted(shards_of(path).rglob("*"))
    return [path, *(one for one in shards if one.is_file())] if path.is_file() else []


def new_name(path: Path) -> str:
    """Return a new name for the shards of a checkpoint, relative to the folder of its file."""
    return f"{shards_of(path).name}/{time.time_ns()}"


def write_shards(checkpoint: dict[str, Any], path: Path, name: str) -> None:
    """Write the weights and optimizer states of a checkpoint, and replace them by `name`.

    All processes must call it. `name` must be equal on all of them.
    """
    states = {"state_dict": checkpoint.pop("state_dict")}
    for number, state in enumerate(checkpoint.pop("optimizer_states", [])):
        states[f"optimizer_{number}"] = state
    folder = path.parent / name
    folder.mkdir(parents=True, exist_ok=True)
    dcp.save(states, storage_writer=dcp.FileSystemWriter(folder))
    checkpoint[SHARDS] = name


def remove_old_shards(path: Path, name: str) -> None:
    """Remove all shards of a checkpoint file except those in `name`."""
    for folder in shards_of(path).iterdir():
        if folder != path.parent / name:
            shutil.rmtree(folder)


def load_shards(folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Load weights and optimizer states into a sharded system; all processes must call it.

    Their number may differ from that of the run that wrote the shards.
    """
    weights = {"state_dict": get_model_state_dict(model)}
    dcp.load(weights, storage_reader=dcp.FileSystemReader(folder))
    set_model_state_dict(model, weights["state_dict"])
    options = StateDictOptions(cpu_offload=True)
    for number, optimizer in enumerate(optimizers):
        name = f"optimizer_{number}"
        state: dict[str, Any] = {name: get_optimizer_state_dict(model, optimizer)}
        dcp.load(state, storage_reader=dcp.FileSystemReader(folder))
        set_optimizer_state_dict(model, optimizer, state[name], options=options)


def consolidate(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint with whole weights and optimizer states, as of an unsharded run.

    Args:
        path: File of the checkpoint.
        checkpoint: Content of the file. Without shards, it is returned unchanged.

    Raises:
        UserError: If the folder of the shards is missing.
    """
    if SHARDS not in checkpoint:
        return checkpoint
    folder = path.parent / checkpoint[SHARDS]
    if not (folder / ".metadata").is_file():
        raise UserError(f"{path}: its shards {folder} are missing; copy them with the checkpoint")
    whole: dict[str, Any] = {}
    reader, planner = dcp.FileSystemReader(folder), _EmptyStateDictLoadPlanner()
    _load_state_dict(whole, storage_reader=reader, planner=planner, no_dist=True)
    rest = {name: value for name, value in checkpoint.items() if name != SHARDS}
    states = [with_numbers(whole[name]) for name in sorted(whole.keys() - {"state_dict"})]
    return {**rest, "state_dict": whole["state_dict"], "optimizer_states": states}


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
