"""`--init_from`: initialise a new run with the weights of a checkpoint."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from safetensors import SafetensorError
from safetensors.torch import load_file

from common.errors import UserError
from lightning_modules.core.checkpoints import read_checkpoint
from lightning_modules.core.exports import WEIGHTS, PublishedWeights, local_path, published_layout
from lightning_modules.core.module import GenerativeModule


def init_from(path: str, model: GenerativeModule, data: LightningDataModule) -> str:
    """Copy the weights that have the same name and shape in a checkpoint and a system.

    Args:
        path: Checkpoint, export, or folder with published weights in the layout of Hugging Face
            `transformers`, also as `hf://USER/NAME`.
        model: System to initialise. Its class may differ from the class in the checkpoint.
        data: Data module of the new run.

    Returns:
        Report with the names of the loaded, missing, mismatched and unused weights.

    Raises:
        UserError: If no weight matches, or the checkpoint has another tokenizer than the data.
    """
    local = local_path(path)
    if (published := published_layout(local)) is not None:
        if not isinstance(model, PublishedWeights):
            raise UserError(
                f"--init_from {path} has published weights, which {type(model).__name__} does not "
                "read; GPT reads those of GPT-2"
            )
        check_published_tokenizer(local, data)
        try:
            weights = load_file(local / WEIGHTS)
        except SafetensorError as error:
            raise UserError(
                f"--init_from {path}: {WEIGHTS} is damaged ({error}); download it again"
            ) from error
        return copy_weights(model, model.published_weights(published, weights))
    checkpoint = read_checkpoint(local)
    check_tokenizer(path, checkpoint, data)
    return copy_weights(model, checkpoint["state_dict"])


def check_published_tokenizer(folder: Path, data: LightningDataModule) -> None:
    """Check that the data have the tokenizer of published weights.

    Raises:
        UserError: If `data.tokenizer_file` is not given, or differs from the folder's file.
    """
    given, theirs = getattr(data, "tokenizer_file", None), folder / "tokenizer.json"
    same = given and (
        not theirs.is_file()
        or Path(given).suffix != ".json"
        or Path(given).read_bytes() == theirs.read_bytes()
    )
    if not same:
        raise UserError(
            "--init_from has its own tokenizer; give its tokenizer.json as --data.tokenizer_file"
        )


def check_tokenizer(path: str, checkpoint: dict[str, Any], data: LightningDataModule) -> None:
    """Check that the tokenizers of the checkpoint and of the data are equal."""
    theirs, ours = checkpoint.get("tokenizer"), getattr(data, "tokenizer", None)
    if theirs is not None and (ours is None or ours.to_json() != theirs):
        mend = (
            f"give --data.tokenizer_file {path}"
            if hasattr(data, "tokenizer_file")
            else "give the data of its run"
        )
        raise UserError(f"--init_from {path} has another tokenizer than this data; {mend}")


def copy_weights(model: GenerativeModule, theirs: dict[str, torch.Tensor]) -> str:
    """Copy all weights of equal name and shape; return a report that lists all weights."""
    ours = model.state_dict()
    loaded = {
        name: value
        for name, value in theirs.items()
        if name in ours and ours[name].shape == value.shape
    }
    parameters = {name for name, value in model.named_parameters() if value.dim() > 1}
    if not parameters & loaded.keys():  # biases and buffers may match by chance
        raise UserError(
            "--init_from: no weight of the checkpoint matches this model by name and shape; "
            "give a checkpoint of the same system"
        )
    model.load_state_dict(loaded, strict=False)
    if model.ema is not None and not any(name.startswith("ema.") for name in loaded):
        model.init_ema()  # start the average at the loaded weights
    lists = {
        "loaded": list(loaded),
        "missing": [name for name in ours if name not in theirs],
        "mismatched": [name for name in theirs if name in ours and name not in loaded],
        "unused": [name for name in theirs if name not in ours],
    }
    return "\n".join(f"{kind} {len(names)}: {', '.join(names)}" for kind, names in lists.items())
