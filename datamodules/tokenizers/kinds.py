"""Table of tokenizer classes, keyed by name, and functions that read a stored tokenizer."""

import json
from pathlib import Path
from typing import Literal

import torch

from common.errors import UserError
from datamodules.tokenizers.base import Tokenizer
from datamodules.tokenizers.bpe import BPETokenizer
from datamodules.tokenizers.pair import PairTokenizer
from datamodules.tokenizers.simple import ByteTokenizer, CharTokenizer, WordTokenizer

Kind = Literal["char", "byte", "word", "bpe"]
KINDS: dict[str, type[Tokenizer]] = {
    cls.kind: cls for cls in (CharTokenizer, ByteTokenizer, WordTokenizer, BPETokenizer)
}


def tokenizer_from_json(text: str) -> Tokenizer:
    """Rebuild a tokenizer from a string that `Tokenizer.to_json` returned.

    Raises:
        UserError: If `text` was not returned by `Tokenizer.to_json`.
    """
    try:
        state = json.loads(text)
        kind = state.pop("kind")
        if kind == PairTokenizer.kind:
            parts = [tokenizer_from_json(part) for part in state["parts"]]
            return PairTokenizer(parts[0], parts[-1], state["lower"])
        return KINDS[kind](**state)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"not a tokenizer of this template ({error}): give a tokenizer that a run has saved"
        ) from error


def tokenizer_source(path: Path) -> Path:
    """Return the file with the tokenizer: the path itself, or `config.json` of an export."""
    return path / "config.json" if path.is_dir() else path


def read_tokenizer(path: Path, specials: tuple[str, ...]) -> Tokenizer:
    """Read a tokenizer from a checkpoint, or from a `tokenizer.json` of the `tokenizers` library.

    Args:
        path: Checkpoint (.ckpt), folder of an export, or JSON file.
        specials: Special tokens that the tokenizer must have.

    Raises:
        UserError: If the file is missing or does not contain exactly one tokenizer, or if the
            tokenizer lacks a special token.
    """
    file = tokenizer_source(path)
    if not file.is_file():
        raise UserError(
            f"data.tokenizer_file {path}: there is no such file; give a checkpoint of a text "
            "system, or a tokenizer.json"
        )
    try:
        if path.suffix == ".ckpt":
            text = torch.load(path, weights_only=True, mmap=True)["tokenizer"]
        else:
            text = file.read_text(encoding="utf-8")
        if file != path:
            text = json.loads(text)["tokenizer"]
    except Exception as error:  # torch raises many types
        raise UserError(
            f"data.tokenizer_file {path}: holds no tokenizer; give a checkpoint of a text "
            "system, or a tokenizer.json"
        ) from error
    tokenizer = tokenizer_from_json(text) if '"kind"' in text[:20] else BPETokenizer(text, specials)
    if isinstance(tokenizer, PairTokenizer):
        raise UserError(
            f"data.tokenizer_file {path}: has two tokenizers, of a translation system; give the "
            "checkpoint of a language model"
        )
    if set(specials) - set(tokenizer.specials):
        raise UserError(
            f"data.tokenizer_file {path}: lacks {', '.join(specials)}, which data.batching records "
            "needs; leave the file out, or set data.batching windows"
        )
    return tokenizer
