"""Captions and prompts as rows of token ids of a fixed length."""

import random

import torch
from torch import Tensor

from common.errors import UserError
from datamodules.tokenizers.bpe import BPETokenizer


def tidy(caption: str) -> str:
    """Lower-cased, with single blanks between words: how captions and prompts are read."""
    return " ".join(caption.lower().split())


def encode_caption(
    tokenizer: BPETokenizer,
    caption: str,
    max_tokens: int,
    rate: float = 0.0,
    numbers: random.Random | None = None,
) -> list[int]:
    """Ids of a tidy caption.

    Args:
        tokenizer: by which.
        caption: the text.
        max_tokens: tokens that there is room for.
        rate: of `encode_dropout`, which then needs `numbers`; where its pieces are too many they
            are merged as usual.
        numbers: what it draws from.

    Raises:
        UserError: if it is empty, too long, or has characters that no training caption had.
    """
    if not caption:
        raise UserError("the caption is empty: write one")
    ids: list[int] = tokenizer.encode(caption).tolist()
    if tokenizer.decode(ids) != caption:
        known = set(tokenizer.decode(range(tokenizer.vocab_size)))
        strange = next((character for character in caption if character not in known), caption[0])
        raise UserError(
            f"the caption {caption!r} has {strange!r}, which is in no training caption: write it "
            "without"
        )
    if len(ids) > max_tokens:
        raise UserError(
            f"the caption {caption[:60]!r} has {len(ids)} tokens, more than the {max_tokens} of "
            "data.text_length: shorten it"
        )
    if rate and numbers is not None:
        cut = tokenizer.encode_dropout(caption, rate, numbers)
        return cut if len(cut) <= max_tokens else ids
    return ids


def caption_tokens(tokenizer: BPETokenizer, captions: list[str], max_tokens: int) -> Tensor:
    """int64 (N, max_tokens) of captions as they come, padded with 0.

    Raises:
        UserError: as `encode_caption`.
    """
    tokens = torch.zeros(len(captions), max_tokens, dtype=torch.int64)
    for row, caption in zip(tokens, captions):
        ids = encode_caption(tokenizer, tidy(caption), max_tokens)
        row[: len(ids)] = torch.tensor(ids)
    return tokens
