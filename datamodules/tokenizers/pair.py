"""Tokenizer that combines the source and target tokenizers of a translation system."""

import json
from collections import Counter
from collections.abc import Iterable

import numpy as np

from datamodules.tokenizers.base import Tokenizer


class PairTokenizer(Tokenizer):
    """Tokenizer of a sequence-to-sequence system: encodes sources and decodes targets.

    Args:
        source: Tokenizer of the source side.
        target: Tokenizer of the target side; the same object if the vocabulary is shared.
        lower: Whether to lower-case a source before it is encoded.
    """

    kind = "pair"

    def __init__(self, source: Tokenizer, target: Tokenizer, lower: bool = False) -> None:
        super().__init__(target.specials)
        self.source, self.target, self.lower = source, target, lower
        self.vocab_size, self.lossless = target.vocab_size, target.lossless

    def encode(self, text: str, before: str = "") -> np.ndarray:
        return self.source.encode(text.lower() if self.lower else text, before)

    def unseen(self, text: str) -> Counter[str]:
        return self.source.unseen(text.lower() if self.lower else text)

    def replace_unseen(self, text: str) -> str:
        return self.source.replace_unseen(text.lower() if self.lower else text)

    @property
    def replacement(self) -> str:
        """Character that replaces characters of a source that cannot be encoded."""
        return self.source.replacement

    def decode(self, ids: Iterable[int]) -> str:
        return self.target.decode(ids)

    def to_json(self) -> str:
        parts = dict.fromkeys([self.source, self.target])  # a shared tokenizer is stored once
        state = {
            "kind": self.kind,
            "lower": self.lower,
            "parts": [part.to_json() for part in parts],
        }
        return json.dumps(state, ensure_ascii=False)
