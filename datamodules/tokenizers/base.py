"""Base class of all tokenizers.

Checkpoints and encoded corpora store a tokenizer as a JSON string (`to_json`,
`tokenizer_from_json`). Ids are dense and start at 0. Special tokens come first, except in a
published `tokenizer.json`.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

RECORD = ("<pad>", "<bos>", "<eos>")  # special tokens of corpora with one example per line


class Tokenizer:
    """Base class of all tokenizers.

    Args:
        specials: Special tokens; their positions in the list are their ids.

    Attributes:
        kind: Name of the tokenizer on the command line.
        vocab_size: Number of ids.
        lossless: Whether decoding restores the encoded text exactly.
    """

    kind: str
    vocab_size: int
    lossless = True

    def __init__(self, specials: Iterable[str] = ()) -> None:
        self.specials = list(specials)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, specials: Iterable[str] = ()
    ) -> "Tokenizer":
        """Learn a vocabulary in one pass over a corpus.

        Args:
            texts: Corpus in shards.
            vocab_size: Maximum number of ids; has no effect on characters and bytes.
            specials: Special tokens.
        """
        raise NotImplementedError

    def special(self, token: str) -> int:
        """Id of a special token."""
        return self.specials.index(token)

    def encode(self, text: str, before: str = "") -> np.ndarray:
        """Encode a text as int64 ids (T,).

        Args:
            text: Text to encode.
            before: Preceding text, on which the first ids may depend.

        Raises:
            UserError: If a character of the text is not in the vocabulary.
        """
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids to a text without the special tokens."""
        raise NotImplementedError

    def token(self, number: int) -> str:
        """Text of one id, or the name of a special token."""
        return self.decode([number]) or next(
            (name for name in self.specials if self.special(name) == number), ""
        )

    def stable_prefix(self, text: str) -> int:
        """Length of the prefix whose ids do not depend on the text that follows `text`.

        A corpus is encoded shard by shard.
        """
        return len(text)

    def state(self) -> dict[str, Any]:
        """Plain values from which the tokenizer can be rebuilt."""
        return {}

    def to_json(self) -> str:
        """Serialise the tokenizer to a JSON string."""
        return json.dumps(
            {"kind": self.kind, "specials": self.specials, **self.state()}, ensure_ascii=False
        )
