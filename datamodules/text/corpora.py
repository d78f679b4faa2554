"""Text corpora that are downloaded or contained in Python packages."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.download import fetch
from datamodules.images.openmoji import OpenMoji
from datamodules.splits import SPLITS
from datamodules.text.base import TextDataModule
from datamodules.text.files import TextFiles


class TinyShakespeare(TextFiles):
    """Tiny Shakespeare (Karpathy 2015): 1,115,394 characters.

    The file is `<root>/tiny_shakespeare/input.txt`. It is downloaded if it is missing.

    Args:
        **kwargs: Arguments of `TextDataModule`.
    """

    ADDRESS = (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    )
    CHECKSUM = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(path="", **kwargs)
        self.path = self.root / "tiny_shakespeare" / "input.txt"

    def sources(self) -> dict[str, list[Path]]:
        fetch([self.ADDRESS], self.path, checksum=self.CHECKSUM)
        return super().sources()


class PythonDocs(TextDataModule):
    """Help texts of Python's standard library (`pydoc_data.topics`).

    The corpus has 465,000 characters in Python 3.11. The texts depend on the Python version.

    Args:
        **kwargs: Arguments of `TextDataModule`.
    """

    embedded = True
    licence = "documentation of Python, PSF licence"

    def sources(self) -> dict[str, str]:
        from pydoc_data.topics import topics

        return {"train": "\n".join(text for _, text in sorted(topics.items()))}

    def shards(self, source: str) -> Iterator[str]:
        yield source

    def digest(self) -> str:
        return hashlib.sha256(self.sources()["train"].encode()).hexdigest()


class EmojiNames(TextDataModule):
    """English names of emoji, one name per line; emoji with a skin tone are left out.

    Emoji are split as by `OpenMoji(split_by="composition")`: names of validation and test emoji are
    new combinations of words that occur in training names.

    Args:
        **kwargs: Arguments of `TextDataModule`.
    """

    embedded = True
    licence = "names of emoji in Unicode CLDR, Unicode licence"

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Sorted emoji names of each split."""
        from datamodules.images.emoji import SKIN_TONES

        data = OpenMoji(split_by="composition", named=True, root=str(self.root))
        found: dict[str, dict[str, None]] = {split: {} for split in SPLITS}
        for code, name in data.names.items():
            if not SKIN_TONES & set(code.split("-")):
                found[data.code_splits[code]].setdefault(name)
        return {split: sorted(names) for split, names in found.items()}

    def sources(self) -> dict[str, str]:
        return {split: "\n".join(names) for split, names in self.names.items()}

    def shards(self, source: str) -> Iterator[str]:
        yield source

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.names).encode()).hexdigest()
