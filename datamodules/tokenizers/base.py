"""Base class of all tokenizers.

Checkpoints and encoded corpora store a tokenizer as a JSON string, which `to_json` writes and
`tokenizer_from_json` reads. Ids are consecutive integers from 0. Special tokens have the first ids,
except in a published `tokenizer.json`.
"""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

RECORD = ("<pad>", "<bos>", "<eos>")  # special tokens of corpora with one example per line


class Tokenizer:
    """Base class of all tokenizers.

    Args:
        specials: Special tokens. The position of a special token in the list is its id.

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
            texts: Text of the corpus, in parts of any length.
            vocab_size: Maximum number of ids; ignored by tokenizers of characters and of bytes.
            specials: Special tokens.
        """
        raise NotImplementedError

    def special(self, token: str) -> int:
        """Return the id of a special token."""
        return self.specials.index(token)

    def encode(self, text: str, before: str = "") -> np.ndarray:
        """Encode a text as int64 ids (T,).

        Args:
            text: Text to encode.
            before: Text that precedes `text`. It is not encoded, but the first ids may depend on
                the preceding text.

        Raises:
            UserError: If a character of the text is not in the vocabulary.
        """
        raise NotImplementedError

    def encode_many(self, parts: list[tuple[str, str]]) -> list[np.ndarray]:
        """Encode several texts, on all CPU cores if the tokenizer can.

        Args:
            parts: Each text with the text that precedes it, as for `encode`.

        Returns:
            Int64 ids (T,) of each text.
        """
        return [self.encode(text, before) for text, before in parts]

    def unseen(self, text: str) -> Counter[str]:
        """Count the characters of a text that cannot be encoded."""
        return Counter()

    def replace_unseen(self, text: str) -> str:
        """Replace each character that cannot be encoded by `replacement`."""
        strange = dict.fromkeys(map(ord, self.unseen(text)), self.replacement)
        return text.translate(strange) if strange else text

    @property
    def replacement(self) -> str:
        """Character that replaces characters that cannot be encoded."""
        return " "

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids to a text without the special tokens."""
        raise NotImplementedError

    def token(self, number: int) -> str:
        """Return the text of one id, or the name of a special token."""
        return self.decode([number]) or next(
            (name for name in self.specials if self.special(name) == number), ""
        )

    def stable_prefix(self, text: str) -> int:
        """Return the length of the prefix whose ids do not depend on what follows `text`.

        The prefix can be encoded before the next shard of a corpus is read.
        """
        return len(text)

    def state(self) -> dict[str, Any]:
        """Return the arguments of `__init__`, except `specials`, to rebuild the tokenizer."""
        return {}

    def to_json(self) -> str:
        """Serialise the tokenizer to a JSON string."""
        return json.dumps(
            {"kind": self.kind, "specials": self.specials, **self.state()}, ensure_ascii=False
        )


MAX_LISTED = 40  # characters that a message lists


def describe_unseen(counts: Counter[str], place: str = "the vocabulary") -> str:
    """Return the number of characters that are not in `place`, and each with its count."""
    listed = ", ".join(f"{name!r} ({count:,})" for name, count in counts.most_common(MAX_LISTED))
    more = f" and {len(counts) - MAX_LISTED:,} others" if len(counts) > MAX_LISTED else ""
    noun = "character that is" if counts.total() == 1 else "characters that are"
    return f"{counts.total():,} {noun} not in {place}: {listed}{more}"
