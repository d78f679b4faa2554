"""Source and target tokenizer of a translation as one."""

import json
from collections.abc import Iterable

import numpy as np

from datamodules.tokenizers.base import Tokenizer


class PairTokenizer(Tokenizer):
    """Two tokenizers for sequence-to-sequence systems: sources are encoded by one, targets are
    decoded by the other.

    Args:
        source: of what a system reads.
        target: of what it writes; the same object where the vocabulary is shared.
        lower: whether what is read is lower-cased.
    """

    kind = "pair"

    def __init__(self, source: Tokenizer, target: Tokenizer, lower: bool = False) -> None:
        super().__init__(target.specials)
        self.source, self.target, self.lower = source, target, lower
        self.vocab_size, self.lossless = target.vocab_size, target.lossless

    def encode(self, text: str, before: str = "") -> np.ndarray:
        return self.source.encode(text.lower() if self.lower else text, before)

    def decode(self, ids: Iterable[int]) -> str:
        return self.target.decode(ids)

    def to_json(self) -> str:
        parts = dict.fromkeys([self.source, self.target])  # one, where it is shared
        state = {
            "kind": self.kind,
            "lower": self.lower,
            "parts": [part.to_json() for part in parts],
        }
        return json.dumps(state, ensure_ascii=False)
