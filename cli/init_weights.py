"""`--init_from`: start a new run from the weights of another one."""

from typing import Any

import torch
from pytorch_lightning import LightningDataModule

from common.errors import UserError
from lightning_modules.core.checkpoints import read_checkpoint
from lightning_modules.core.module import GenerativeModule


def init_from(path: str, model: GenerativeModule, data: LightningDataModule) -> str:
    """Copy the weights of a checkpoint that fit; return what was and was not loaded.

    Raises:
        UserError: if no weight fits, or the checkpoint's tokens have another meaning.
    """
    checkpoint = read_checkpoint(path)
    check_tokenizer(path, checkpoint, data)
    return copy_weights(model, checkpoint["state_dict"])


def check_tokenizer(path: str, checkpoint: dict[str, Any], data: LightningDataModule) -> None:
    """Refuse weights whose tokens mean something else than those of the data."""
    theirs, ours = checkpoint.get("tokenizer"), getattr(data, "tokenizer", None)
    if theirs is not None and (ours is None or ours.to_json() != theirs):
        mend = (
            f"give --data.tokenizer_file {path}"
            if hasattr(data, "tokenizer_file")
            else "give its own data"
        )
        raise UserError(f"--init_from {path} counts in other tokens than this data: {mend}")


def copy_weights(model: GenerativeModule, theirs: dict[str, torch.Tensor]) -> str:
    """Copy all weights that fit by name and shape; list those loaded, missing and mismatched."""
    ours = model.state_dict()
    loaded = {
        name: value
        for name, value in theirs.items()
        if name in ours and ours[name].shape == value.shape
    }
    if not any(value.dim() > 1 for value in loaded.values()):  # a bias or a counter fits by chance
        raise UserError(
            "--init_from: not one of its weights fits this model by name and shape; "
            "is it of another system?"
        )
    model.load_state_dict(loaded, strict=False)
    if model.ema is not None and not any(name.startswith("ema.") for name in loaded):
        model.init_ema()  # of the loaded weights, instead of the initial ones
    lists = {
        "loaded": list(loaded),
        "missing": [name for name in ours if name not in theirs],
        "mismatched": [name for name in theirs if name in ours and name not in loaded],
        "unused": [name for name in theirs if name not in ours],
    }
    return "\n".join(f"{kind} {len(names)}: {', '.join(names)}" for kind, names in lists.items())
