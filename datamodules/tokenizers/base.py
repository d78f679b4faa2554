"""What every tokenizer promises.

A tokenizer is a small object that travels as a string (`to_json`, `tokenizer_from_json`) inside of
a checkpoint and beside the encoded corpus. Ids are dense, from 0; special tokens come first, except
in a published `tokenizer.json`.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

RECORD = ("<pad>", "<bos>", "<eos>")  # special tokens of corpora whose examples are lines


class Tokenizer:
    """Base of all kinds.

    Args:
        specials: special tokens, whose ids are their places.

    Attributes:
        kind: how it is called on the command line.
        vocab_size: number of ids.
    """

    kind: str
    vocab_size: int
    lossless = True  # whether decoding gives the text back

    def __init__(self, specials: Iterable[str] = ()) -> None:
        self.specials = list(specials)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, specials: Iterable[str] = ()
    ) -> "Tokenizer":
        """Learn a vocabulary from pieces of text in one pass.

        Args:
            texts: the corpus, a piece at a time.
            vocab_size: largest number of ids, where the kind has a choice.
            specials: special tokens.
        """
        raise NotImplementedError

    def special(self, token: str) -> int:
        """Id of a special token."""
        return self.specials.index(token)

    def encode(self, text: str, before: str = "") -> np.ndarray:
        """int64 ids (T,).

        Args:
            text: what is encoded.
            before: what stands before it, where its ids depend on that.

        Raises:
            UserError: if the vocabulary lacks something in the text.
        """
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens have none."""
        raise NotImplementedError

    def token(self, number: int) -> str:
        """How one id is shown: its text, or the name of a special token."""
        return self.decode([number]) or next(
            (name for name in self.specials if self.special(name) == number), ""
        )

    def stable_prefix(self, text: str) -> int:
        """How much of a text can be encoded before more of it is known: a corpus is encoded a piece
        at a time.
        """
        return len(text)

    def state(self) -> dict[str, Any]:
        """Plain values that the kind is made of."""
        return {}

    def to_json(self) -> str:
        """All of it as a string."""
        return json.dumps(
            {"kind": self.kind, "specials": self.specials, **self.state()}, ensure_ascii=False
        )
