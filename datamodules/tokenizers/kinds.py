"""Tokenizers by the name of their kind, and from their JSON."""

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
    """What `to_json` wrote.

    Raises:
        UserError: if it is anything else.
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
            f"this is not a tokenizer of this template ({error}): give one that a run has made"
        ) from error


def read_tokenizer(path: Path, specials: tuple[str, ...]) -> Tokenizer:
    """A checkpoint's tokenizer, or the library's `tokenizer.json`.

    Raises:
        UserError: if the file is missing or is neither, or lacks what records need.
    """
    if not path.is_file():
        raise UserError(f"data.tokenizer_file {path}: there is no such file")
    try:
        text = (
            torch.load(path, weights_only=True, mmap=True)["tokenizer"]
            if path.suffix == ".ckpt"
            else path.read_text()
        )
    except Exception as error:  # torch raises half a dozen kinds here
        raise UserError(
            f"data.tokenizer_file {path}: holds no tokenizer; give a checkpoint of a text, or a "
            "tokenizer.json"
        ) from error
    tokenizer = tokenizer_from_json(text) if '"kind"' in text[:20] else BPETokenizer(text, specials)
    if isinstance(tokenizer, PairTokenizer):
        raise UserError(
            f"data.tokenizer_file {path}: is of a translation, which has two tokenizers: give "
            "that of a language model"
        )
    if set(specials) - set(tokenizer.specials):
        raise UserError(
            f"data.tokenizer_file {path}: lacks {', '.join(specials)}, which records need: learn "
            "one, or use windows"
        )
    return tokenizer
