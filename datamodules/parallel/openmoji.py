"""Names of emoji in two languages."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from datamodules.images.emoji import check_language, emoji_names
from datamodules.images.openmoji import OpenMoji
from datamodules.parallel.base import SIDES, ParallelTextDataModule


class EmojiTranslation(ParallelTextDataModule):
    """Names of emoji in two of the languages that the `emoji` package knows, those of skin tones
    among them.

    The split is the one by composition of `OpenMoji`: a combination of English words is held out,
    never a word. Emoji of different splits that have one name as source are all for training.

    Args:
        source: language that is read.
        target: language that is written.
        **kwargs: see `ParallelTextDataModule`.

    Raises:
        UserError: if there is no such language.
    """

    embedded = True

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
