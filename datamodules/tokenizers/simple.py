"""Tokenizers of characters, bytes and words."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from common.errors import UserError
from datamodules.tokenizers.base import Tokenizer, describe_unseen

UNKNOWN = "<unk>"


class CharTokenizer(Tokenizer):
    """Tokenizer with one id per character, in the order of the Unicode code points.

    Args:
        characters: All characters that can be encoded.
        specials: Special tokens.
    """

    kind = "char"

    def __init__(self, characters: str, specials: Iterable[str] = ()) -> None:
        super().__init__(specials)
        self.characters = characters
        self.vocab_size = len(self.specials) + len(characters)
        points = np.array([ord(character) for character in characters], dtype=np.int64)
        self._ids = np.full(points.max(initial=0) + 1, -1, dtype=np.int64)
        self._ids[points] = np.arange(len(points)) + len(self.specials)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 0, specials: Iterable[str] = ()
    ) -> "CharTokenizer":
        found: set[str] = set()
        for text in texts:
            found.update(text)
        return cls("".join(sorted(found)), specials)

    def encode(self, text: str, before: str = "") -> np.ndarray:
        ids = self._lookup(text)
        if (ids < 0).any():
            raise UserError(
                f"the text has {describe_unseen(self.unseen(text))}; leave them out, or replace "
                "them"
            )
        return ids

    def _lookup(self, text: str) -> np.ndarray:
        """Return the id of each character (T,), or -1 if the character has none."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(
            np.int64
        )
        return np.where(
            points < len(self._ids), self._ids[np.minimum(points, len(self._ids) - 1)], -1
        )

    def unseen(self, text: str) -> Counter[str]:
        return Counter(text[place] for place in np.flatnonzero(self._lookup(text) < 0))

    @property
    def replacement(self) -> str:
        """Space, or the first of `?`, `.` and line break in the vocabulary, or its first character.

        Raises:
            UserError: If the vocabulary has no characters.
        """
        for character in (" ", "?", ".", "\n", *self.characters[:1]):
            if character in self.characters:
                return character
        raise UserError("the vocabulary has no characters: train the tokenizer on a text")

    def decode(self, ids: Iterable[int]) -> str:
        first = len(self.specials)
        return "".join(self.characters[i - first] for i in ids if i >= first)

    def state(self) -> dict[str, Any]:
        return {"characters": self.characters}


class ByteTokenizer(Tokenizer):
    """Tokenizer with one id per byte of UTF-8; it has no unknown tokens and needs no training."""

    kind = "byte"

    def __init__(self, specials: Iterable[str] = ()) -> None:
        super().__init__(specials)
        self.vocab_size = len(self.specials) + 256

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 0, specials: Iterable[str] = ()
    ) -> "ByteTokenizer":
        return cls(specials)

    def encode(self, text: str, before: str = "") -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + len(self.specials)

    def decode(self, ids: Iterable[int]) -> str:
        first = len(self.specials)
        return bytes(i - first for i in ids if i >= first).decode("utf-8", "replace")


class WordTokenizer(Tokenizer):
    """Tokenizer of words that are separated by white space.

    The end of a line is a token, and rare words are replaced by `<unk>`. This is the convention of
    the Penn Treebank and of WikiText, whose texts are pre-tokenized. Decoding puts one space
    between words.

    Args:
        words: Words of the vocabulary, most frequent word first. `<unk>` and the token for
            the end of a line are added.
        specials: Special tokens.
    """

    kind = "word"
    lossless = False
    END_OF_LINE = "<eol>"

    def __init__(self, words: list[str], specials: Iterable[str] = ()) -> None:
        super().__init__(specials)
        self.words = words
        everything = [*self.specials, *dict.fromkeys([UNKNOWN, self.END_OF_LINE, *words])]
        self._ids = {word: number for number, word in enumerate(everything)}
        self._words = everything
        self.vocab_size = len(everything)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, specials: Iterable[str] = ()
    ) -> "WordTokenizer":
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text.split())
        counts.pop(UNKNOWN, None)
        specials = list(specials)
        if vocab_size < len(specials) + 3:
            raise UserError(
                f"data.vocab_size must be at least {len(specials) + 3} (got {vocab_size})"
            )
        kept = sorted(counts, key=lambda word: (-counts[word], word))[
            : vocab_size - len(specials) - 2
        ]
        return cls(kept, specials)

    def encode(self, text: str, before: str = "") -> np.ndarray:
        unknown = self._ids[UNKNOWN]
        words = re.findall(r"[^\s]+|\n", text)
        return np.array(
            [self._ids.get(self.END_OF_LINE if word == "\n" else word, unknown) for word in words],
            dtype=np.int64,
        )

    def decode(self, ids: Iterable[int]) -> str:
        words = [self._words[i] for i in ids if i >= len(self.specials)]
        return re.sub(f" ?{self.END_OF_LINE} ?", "\n", " ".join(words))

    def stable_prefix(self, text: str) -> int:
        """Return the position after the last white space: the last word may be incomplete."""
        return max((match.end() for match in re.finditer(r"\s", text)), default=0)

    def state(self) -> dict[str, Any]:
        return {"words": self.words}
