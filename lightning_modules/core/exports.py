"""Exports: a system as a folder without pickle, and repositories of such folders on a hub.

A folder holds `model.safetensors` (all weights, averaged ones included), `config.json` (class,
hyper-parameters and tokenizer), and, if the checkpoint was in a run, `config.yaml` with the data of
the run. `load` and `read_checkpoint` accept the folder instead of a checkpoint, and
`hf://USER/NAME` for a repository of the Hugging Face Hub.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from common.errors import UserError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FILES = [WEIGHTS, CONFIG, "config.yaml", "tokenizer.json", "README.md"]
HUB = "hf://"
# What a system needs of its checkpoint, besides the weights.
VERSION = "pytorch-lightning_version"
KEYS = ("class_path", "hyper_parameters", "tokenizer", "global_step", "epoch", VERSION)


def local_path(source: str | Path) -> Path:
    """Return the local path of a checkpoint or export; an `hf://` repository is downloaded first.

    Args:
        source: Path, or `hf://USER/NAME` with an optional `@REVISION`.

    Raises:
        UserError: If the repository cannot be downloaded.
    """
    name = re.sub("^hf:/+", "", str(source))  # a `Path` has only one slash
    if name == str(source):
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source}: cannot be downloaded ({reason}); check the name, the connection, and "
            "`hf auth login` for private repositories"
        ) from error


def is_export(path: Path) -> bool:
    """Return whether a path is the folder of an export."""
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


class PublishedWeights:
    """Base class, beside `GenerativeModule`, of systems that read published weights."""

    def published_weights(
        self, config: dict[str, Any], weights: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return weights for this system's `state_dict`.

        Args:
            config: Content of `config.json` in the layout of Hugging Face `transformers`.
            weights: Weights in this layout.

        Raises:
            UserError: If the weights do not fit this system.
        """
        raise NotImplementedError


def published_layout(path: Path) -> dict[str, Any] | None:
    """Return `config.json` of a folder in the layout of Hugging Face `transformers`; else None.

    Raises:
        UserError: If the weights of such a folder are not in one file of safetensors.
    """
    file = path / CONFIG
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(config, dict) or "model_type" not in config:
        return None
    if not (path / WEIGHTS).is_file():
        raise UserError(
            f"{path}: has no {WEIGHTS}; only weights in one file of safetensors are read, no pickle"
        )
    return config


def write_export(checkpoint: dict[str, Any], folder: Path) -> None:
    """Write the weights and the configuration of a checkpoint to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory or have other strides.
    weights = {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in checkpoint["state_dict"].items()
    }
    (folder / WEIGHTS).write_bytes(save(weights))  # `save_file` lets only the owner read
    config = {name: checkpoint[name] for name in KEYS if name in checkpoint}
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")


def read_export(folder: Path) -> dict[str, Any]:
    """Read the folder of an export as a checkpoint without the state of a training.

    Raises:
        UserError: If a file is damaged, or `config.json` names no class.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder}: not a readable export ({error}); write or download it again"
        ) from error
    needed = {"class_path", "hyper_parameters", VERSION}
    if not isinstance(config, dict) or not needed <= config.keys():
        raise UserError(f"{folder}: {CONFIG} names no class of this template; give an export")
    return {**config, "state_dict": weights}
