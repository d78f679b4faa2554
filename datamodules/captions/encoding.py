"""Encoding of captions and prompts as token ids of a fixed length."""

import random

import torch
from torch import Tensor

from common.errors import UserError
from datamodules.tokenizers.bpe import BPETokenizer


def tidy(caption: str) -> str:
    """Lower-case a caption or prompt, and put single spaces between its words."""
    return " ".join(caption.lower().split())


def encode_caption(
    tokenizer: BPETokenizer,
    caption: str,
    max_tokens: int,
    rate: float = 0.0,
    numbers: random.Random | None = None,
) -> list[int]:
    """Encode a caption as token ids.

    Args:
        tokenizer: Tokenizer of the captions.
        caption: Caption, as returned by `tidy`.
        max_tokens: Maximum number of tokens.
        rate: Probability of BPE dropout, in [0, 1]; requires `numbers`. If dropout gives more than
            `max_tokens` tokens, the ids without dropout are returned.
        numbers: Random number generator for BPE dropout.

    Raises:
        UserError: If the caption is empty or too long, or contains a character that is in no
            training caption.
    """
    if not caption:
        raise UserError("the caption is empty: write one")
    ids: list[int] = tokenizer.encode(caption).tolist()
    if tokenizer.decode(ids) != caption:
        known = set(tokenizer.decode(range(tokenizer.vocab_size)))
        strange = [character for character in dict.fromkeys(caption) if character not in known]
        listed = ", ".join(map(repr, strange or caption[:1]))
        raise UserError(
            f"the caption {caption!r} has {listed}, which is in no training caption: write the "
            "caption without it"
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
    """Encode captions as token ids int64 (N, max_tokens), padded with 0.

    Raises:
        UserError: If a caption is empty or too long, or contains a character that is in no training
            caption.
    """
    tokens = torch.zeros(len(captions), max_tokens, dtype=torch.int64)
    for row, caption in zip(tokens, captions):
        ids = encode_caption(tokenizer, tidy(caption), max_tokens)
        row[: len(ids)] = torch.tensor(ids)
    return tokens
