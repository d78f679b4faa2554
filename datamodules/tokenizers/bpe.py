"""Byte-pair encoding with the `tokenizers` library."""

import itertools
import json
import os
import random
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from common.errors import UserError
from datamodules.tokenizers.base import Tokenizer


class BPETokenizer(Tokenizer):
    """Tokenizer with byte-pair encoding (Sennrich et al. 2016) of bytes (Radford et al. 2019).

    Args:
        model: JSON of the `tokenizers` library, such as the `tokenizer.json` of a published model.
        specials: Special tokens, all of which must be in the vocabulary of `model`.

    Raises:
        UserError: If the library is missing, if `model` is not a tokenizer of the library, or if
            `model` lacks a special token.
    """

    kind = "bpe"

    def __init__(self, model: str, specials: Iterable[str] = ()) -> None:
        super().__init__(specials)
        library = tokenizers_library()
        try:
            self.model = library.Tokenizer.from_str(model)
        except Exception as error:  # the library raises a bare Exception
            raise UserError(
                f"not a tokenizer of the `tokenizers` library ({error}): give a tokenizer.json"
            ) from error
        self.model.encode_special_tokens = True  # "<eos>" in a text is encoded as text
        self.vocab_size = self.model.get_vocab_size()
        missing = [token for token in self.specials if self.model.token_to_id(token) is None]
        if missing:
            raise UserError(
                f"the tokenizer lacks the special token {missing[0]}, which this data "
                "needs: leave out data.tokenizer_file to train a tokenizer"
            )

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        specials: Iterable[str] = (),
        whole_alphabet: bool = True,
    ) -> "BPETokenizer":
        """Learn merges in one pass over a corpus.

        Args:
            texts: Text of the corpus, in parts of any length.
            vocab_size: Maximum number of ids, special tokens and bytes included.
            specials: Special tokens.
            whole_alphabet: Whether every byte gets an id. If False, `encode` drops bytes that do
                not occur in the corpus.

        Raises:
            UserError: If `vocab_size` is too small for the special tokens and bytes.
        """
        library = tokenizers_library()
        model = library.Tokenizer(library.models.BPE())
        model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = library.decoders.ByteLevel()
        alphabet = library.pre_tokenizers.ByteLevel.alphabet() if whole_alphabet else []
        if vocab_size < len(alphabet) + len(list(specials)):
            raise UserError(
                f"data.vocab_size must be at least {len(alphabet) + len(list(specials))}, because "
                f"every byte has an id (got {vocab_size})"
            )
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(specials),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        model.train_from_iterator(texts, trainer)
        return cls(model.to_str(), specials)

    def special(self, token: str) -> int:
        return int(self.model.token_to_id(token))

    def encode(self, text: str, before: str = "") -> np.ndarray:
        ids = self.model.encode(before + text, add_special_tokens=False).ids
        skipped = self.model.encode(before, add_special_tokens=False).ids if before else []
        return np.array(ids[len(skipped) :], dtype=np.int64)

    def encode_many(self, parts: list[tuple[str, str]]) -> list[np.ndarray]:
        # Forked processes must not call this method: the threads of the library stay in the parent.
        def encode(texts: list[str]) -> list[list[int]]:
            # This method does not compute the position of each id in the text.
            coded = self.model.encode_batch_fast(texts, add_special_tokens=False)
            return [one.ids for one in coded]

        # A text starts at a cut of `stable_prefix`, so `before` has the ids that it has alone.
        whole = encode([before + text for text, before in parts])
        skipped = encode([before for _, before in parts])
        return [np.array(ids[len(first) :], dtype=np.int64) for ids, first in zip(whole, skipped)]

    def encode_dropout(self, text: str, rate: float, numbers: random.Random) -> list[int]:
        """Encode a text with BPE dropout (Provilkov et al. 2020, Algorithm 1).

        Args:
            text: Text to encode.
            rate: Probability of skipping a merge, in [0, 1].
            numbers: Random number generator.
        """
        ids: list[int] = []
        for word, _ in self.model.pre_tokenizer.pre_tokenize_str(text):
            parts = list(word)
            while True:
                ranks = [self._merges.get(pair) for pair in itertools.pairwise(parts)]
                open_to = [
                    (rank, at)
                    for at, rank in enumerate(ranks)
                    if rank is not None and numbers.random() >= rate
                ]
                if not open_to:
                    break
                _, at = min(open_to)
                parts[at : at + 2] = ["".join(parts[at : at + 2])]
            ids += [
                number for part in parts if (number := self.model.token_to_id(part)) is not None
            ]
        return ids

    @cached_property
    def _merges(self) -> dict[tuple[str, str], int]:
        """Rank of each merge; the merge with the lowest rank is applied first."""
        merges = json.loads(self.model.to_str())["model"]["merges"]
        return {(left, right): rank for rank, (left, right) in enumerate(merges)}

    def decode(self, ids: Iterable[int]) -> str:
        return str(self.model.decode([int(i) for i in ids], skip_special_tokens=True))

    def stable_prefix(self, text: str) -> int:
        """Return the position of the last space between words, or else of the last line break.

        No merge crosses such a position.
        """
        cuts = (
            max((match.start() for match in re.finditer(rf"(?<=\S){gap}(?=\S)", text)), default=0)
            for gap in (" ", "\n")
        )
        return next(filter(None, cuts), 0)

    def state(self) -> dict[str, Any]:
        return {"model": self.model.to_str()}


def tokenizers_library() -> Any:
    """Import the `tokenizers` package.

    Raises:
        UserError: If the package is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            "byte-pair encoding needs a package that is not installed: pip install tokenizers"
        ) from error
    # Otherwise the library would print a warning when a data loader forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    return tokenizers
