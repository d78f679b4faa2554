"""Texts with characters that a tokenizer has not seen: refuse the text, or replace them."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

from common.errors import UserError
from datamodules.tokenizers.base import Tokenizer, describe_unseen
from datamodules.tokenizers.simple import CharTokenizer
from datamodules.usage_report import note

Unknown = Literal["refuse", "replace"]
UNKNOWN_DATA = "data.unknown replace (evaluate.py: --unknown replace)"
UNKNOWN_OPTION = "--unknown replace"


def handle_unseen(
    tokenizer: Tokenizer, texts: Iterable[str], unknown: Unknown, name: str, option: str
) -> Callable[[str], str]:
    """Refuse texts with characters that a tokenizer cannot encode, or have them replaced.

    Args:
        tokenizer: Tokenizer that is to encode the texts.
        texts: All texts, in parts of any length; they are read once.
        unknown: Whether to `refuse` the texts, or to `replace` the characters.
        name: Name of the texts, for messages.
        option: Option that replaces the characters, for the error message.

    Returns:
        Function that prepares each text for the tokenizer.

    Raises:
        UserError: If `unknown` is `refuse` and there are such characters; the message lists all of
            them with their counts.
    """
    counts = count_unseen(tokenizer, texts)
    if not counts:
        return str
    if unknown == "refuse":
        raise UserError(
            f"{name} has {describe_unseen(counts)}; leave them out, or replace them: {option}"
        )
    note(f"{name} has {describe_unseen(counts)}; replaced by {tokenizer.replacement!r}")
    return tokenizer.replace_unseen


def with_held_out(tokenizer: Tokenizer, held_out: dict[str, Iterable[str]]) -> Tokenizer:
    """Add the characters of held-out splits to a character tokenizer, and print their counts.

    The embeddings of characters that the training text lacks are not trained.

    Args:
        tokenizer: Tokenizer that was learned from the training split.
        held_out: Texts of the validation and the test split, keyed by split.
    """
    if not isinstance(tokenizer, CharTokenizer):
        return tokenizer
    found = {split: count_unseen(tokenizer, texts) for split, texts in held_out.items()}
    for split, counts in found.items():
        if counts:
            listed = describe_unseen(counts, "the training text")
            note(f"the {split} split has {listed}; their embeddings are not trained")
    characters = sorted({*tokenizer.characters, *(c for counts in found.values() for c in counts)})
    return CharTokenizer("".join(characters), tokenizer.specials)


def count_unseen(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Count the characters of texts that a tokenizer cannot encode."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.unseen(text))
    return counts
