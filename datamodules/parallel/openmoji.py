"""Emoji names in two languages."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from datamodules.images.emoji import check_language, emoji_names
from datamodules.images.openmoji import OpenMoji
from datamodules.parallel.base import SIDES, ParallelTextDataModule


class EmojiTranslation(ParallelTextDataModule):
    """Emoji names in two languages, from the `emoji` package; skin tones are included.

    Emoji are split as by `OpenMoji(split_by="composition")`: English names of validation and test
    emoji are new combinations of words that occur in training names. If emoji of different splits
    have the same source name, all pairs with this name are used for training.

    Args:
        Corpus:
        source: Language code of the source names, such as en.
        target: Language code of the target names, such as de.
        **kwargs: Arguments of `ParallelTextDataModule`.

    Raises:
        UserError: If the `emoji` package has no names in one of the languages.
    """

    embedded = True
    licence = "names of emoji in Unicode CLDR, Unicode licence"

    def __init__(self, source: str = "en", target: str = "de", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for side, language in zip(SIDES, (source, target)):
            check_language(f"data.{side}", language)
        self.source, self.target = source, target

    def sources(self) -> dict[str, list[tuple[str, str]]]:
        data = OpenMoji(split_by="composition", named=True, root=str(self.root))
        source, target = (
            emoji_names(data.codes, language) for language in (self.source, self.target)
        )
        named = [code for code in data.codes if code in source and code in target]
        splits: dict[str, set[str]] = {}
        for code in named:
            splits.setdefault(source[code], set()).add(data.code_splits[code])
        found: dict[str, dict[tuple[str, str], None]] = {"train": {}, "val": {}, "test": {}}
        for code in named:
            split = data.code_splits[code] if len(splits[source[code]]) == 1 else "train"
            found[split].setdefault((source[code], target[code]))
        return {split: list(pairs) for split, pairs in found.items()}

    def pairs(self, source: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        return iter(source)

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.split_sources).encode()).hexdigest()
