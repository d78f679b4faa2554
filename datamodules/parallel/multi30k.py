"""Multi30k: image captions in English and German."""

import gzip
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from jsonargparse.typing import PositiveInt

from common.errors import UserError
from common.files import atomic_save
from datamodules.cache import sha256
from datamodules.download import BROKEN, fetch
from datamodules.parallel.files import ParallelFiles
from datamodules.text.base import Batching, TextDataModule
from datamodules.text_files import read_shards
from datamodules.tokenizers.kinds import Kind


class Multi30k(ParallelFiles):
    """Multi30k: 31,014 image captions in English and German (Elliott et al. 2016, task 1).

    29,000 pairs are for training, 1,014 for validation and 1,000 for testing (test 2016). The files
    are in `<root>/multi30k/`. Missing files are downloaded.

    Args:
        Corpus:
        source: Source language, de or en.
        target: Target language, de or en.
        **kwargs: Arguments of `ParallelTextDataModule`.
    """

    SPLIT_FILES: ClassVar = {"train": "train", "val": "val", "test": "test_2016_flickr"}
    ADDRESS = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/{}.gz"
    CHECKSUMS: ClassVar = {
        "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    }

    def __init__(
        self, source: Literal["de", "en"] = "de", target: Literal["de", "en"] = "en", **kwargs: Any
    ) -> None:
        super().__init__(folder="", source=source, target=target, val_share=0.1, **kwargs)
        self.folder = self.root / "multi30k"

    def files(self) -> dict[str, tuple[Path, Path]]:
        wanted = [
            self.folder / name
            for name in self.CHECKSUMS
            if name.endswith((self.source, self.target))
        ]
        for path in (path for path in wanted if not path.exists()):
            self._obtain(path)
        return {
            split: (self.folder / f"{name}.{self.source}", self.folder / f"{name}.{self.target}")
            for split, name in self.SPLIT_FILES.items()
        }

    @property
    def word_rules(self) -> str:
        """Name of the word rules of `tokenise`, printed with the settings of a metric."""
        return f"spacy-blank-{self.target}"

    def tokenise(self, text: str) -> list[str]:
        """Split a text into words by spaCy's rules for the target language.

        Published BLEU scores on this corpus are computed over these words.

        Raises:
            UserError: If spaCy is not installed.
        """
        return [str(word) for word in spacy_rules(self.target)(text)]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Lower-cased words that occur at least twice in the training targets: 5,889 in English.

        Published systems on this corpus (bentrevett's pytorch-seq2seq) use these words and `<unk>`
        as their vocabulary.
        """
        counts = Counter(
            word.lower() for line in self._lines("train", 1) for word in self.tokenise(line)
        )
        return frozenset(word for word, count in counts.items() if count > 1)

    def _obtain(self, path: Path) -> None:
        """Download and decompress a file."""
        packed = path.with_name(f"{path.name}.gz")
        fetch([self.ADDRESS.format(path.name)], packed, checksum=self.CHECKSUMS[path.name])
        try:
            with gzip.open(packed) as content:
                atomic_save(path, lambda file: shutil.copyfileobj(content, file))
        except BROKEN as error:
            raise UserError(
                f"{packed}: is damaged ({error}); remove it to download it again"
            ) from error


class Multi30kText(TextDataModule):
    """Captions of `Multi30k` in one language, one caption per line.

    Args:
        Corpus:
        language: Language of the captions, de or en.
        **kwargs: Arguments of `TextDataModule`.
    """

    def __init__(
        self,
        language: Literal["de", "en"] = "en",
        batching: Batching = "records",
        tokenizer: Kind = "bpe",
        vocab_size: PositiveInt = 4000,
        batch_size: PositiveInt = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            batching=batching,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            val_share=0.1,
            batch_size=batch_size,
            **kwargs,
        )
        self.pairs = Multi30k(language, language, root=str(self.root))

    def sources(self) -> dict[str, Path]:
        return {split: source for split, (source, _) in self.pairs.files().items()}

    def shards(self, source: Path) -> Iterator[str]:
        return read_shards(source)

    def digest(self) -> str:
        return repr({split: sha256(path) for split, path in self.sources().items()})


@cache
def spacy_rules(language: str) -> Any:
    """Load spaCy's tokenization rules for a language; no trained model is needed.

    Raises:
        UserError: If spaCy is not installed.
    """
    try:
        import spacy
    except ImportError as error:
        raise UserError(
            "BLEU on Multi30k needs spaCy's word rules, and spaCy is not installed: pip install "
            "spacy"
        ) from error
    return spacy.blank(language)
