"""Texts that are given in shards: cutting, joining to lines, and encoding."""

from collections.abc import Iterable, Iterator

import numpy as np

from datamodules.text_files import split_lines
from datamodules.tokenizers.base import Tokenizer


def text_slice(texts: Iterator[str], first: int, last: int | None) -> Iterator[str]:
    """Yield the characters `[first:last]` of a text that is given in shards."""
    place = 0
    for text in texts:
        part = text[max(0, first - place) : None if last is None else max(0, last - place)]
        place += len(text)
        if part:
            yield part
        if last is not None and place >= last:
            return


def join_texts(texts: Iterable[str], size: int = 2**20) -> Iterator[str]:
    """Yield texts joined to shards of at least `size` characters; the last one may be shorter."""
    parts: list[str] = []
    length = 0
    for text in texts:
        parts.append(text)
        length += len(text)
        if length >= size:
            yield "".join(parts)
            parts, length = [], 0
    if parts:
        yield "".join(parts)


def nonempty(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts that are not empty, without empty lines before and white space after them.

    The indentation of the first line stays.
    """
    yield from (text.rstrip().lstrip("\r\n") for text in texts if text.strip())


def raw_lines(texts: Iterable[str]) -> Iterator[str]:
    r"""Yield the lines of a text that is given in shards, each with a "\n"."""
    return (f"{line}\n" for line in split_lines(texts))


# Number of characters before a piece that are encoded with the piece; their ids are then dropped.
# Without preceding characters, published tokenizers would treat the piece as the start of a text.
BEFORE = 64
PIECE = 2**16  # number of characters that are encoded in one call, or more if they have no cut


def encode_shards(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield the token ids of a text given in shards, equal to the ids of the undivided text.

    The pieces of a shard are encoded on all CPU cores if the tokenizer can.
    """
    before = rest = ""
    for text in texts:
        rest, start, end = rest + text, 0, 0
        parts: list[tuple[str, str]] = []
        while end < len(rest):  # `end` is the end of the text in which a cut is searched
            end = min(max(start, end) + PIECE, len(rest))
            if size := tokenizer.stable_prefix(rest[start:end]):
                cut = start + size
                parts.append((rest[start:cut], before))
                before, start = rest[max(0, cut - BEFORE) : cut], cut
        yield from tokenizer.encode_many(parts)
        rest = rest[start:]
    if rest:
        yield tokenizer.encode(rest, before)
