"""Base class of data modules of sentence pairs, for translation and similar tasks.

A corpus is encoded once and cached, as in `datamodules/text/base.py`. A batch contains pairs
of similar lengths, so it has little padding. Its size is limited by the number of padded tokens, so
a batch of short sentences has many pairs.

A batch is a dictionary:

- `source`: Source tokens and `<eos>`, padded with `pad_id`, int64 (N, S).
- `target`: `<bos>`, target tokens and `<eos>`, padded with `pad_id`, int64 (N, T + 1). The first T
  tokens are the inputs of a decoder, and the last T tokens are its targets.
- `source_length`: Number of valid source tokens of each pair, int64 (N,).
- `target_length`: Number of valid targets of each pair, int64 (N,).
- `num_targets`: Sum of `target_length`.
"""

import itertools
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from common.errors import UserError
from datamodules.base import DataModule
from datamodules.cache import make_folder, token_folder
from datamodules.parallel.dataset import Rows, SentencePairs, id_type, write_rows
from datamodules.parallel.sampler import BucketBatchSampler
from datamodules.splits import take_subset
from datamodules.text.storage import open_ids
from datamodules.tokenizers.base import RECORD, Tokenizer
from datamodules.tokenizers.kinds import KINDS, Kind, tokenizer_from_json
from datamodules.tokenizers.pair import PairTokenizer
from datamodules.tokenizers.unseen import with_held_out
from datamodules.usage_report import note

SIDES = ("source", "target")
VERSION = 2  # version of the encoded files; increase it when their content changes


class ParallelTextDataModule(DataModule):
    """Base class of data modules of sentence pairs.

    A subclass implements `sources`, `pairs` and `digest`, and `where` if it reads files.

    Args:
        Vocabulary:
        tokenizer: Kind of tokens: `char`, `byte`, `word`, or `bpe` (byte-pair encoding). The
            vocabulary of `char` is all characters of all splits; the vocabularies of `word` and
            `bpe` are learned from the training split.
        vocab_size: Maximum vocabulary size of the tokenizers `word` and `bpe`.
        shared_vocabulary: Whether source and target share one vocabulary. If false, each side has
            its own vocabulary.
        lower: Whether to lower-case all text before it is encoded.
        Batches:
        batch_tokens: Maximum number of tokens, padding included, per process and training step. The
            number of tokens is the number of pairs times the length of the longest sentence.
        eval_batch_tokens: Maximum number of tokens, padding included, per process and step in
            validation and test. Defaults to `batch_tokens`.
        max_length: Maximum number of tokens of a source or target sentence in training, `<eos>`
            included.
        skip: Whether to skip unusable training pairs and print their number. If false, the first
            one raises an error. A pair is unusable if its source or its target is empty or has more
            than `max_length` tokens.
        **kwargs: Arguments of `DataModule`.

    Raises:
        UserError: If the batch of a process has fewer tokens than `max_length`.
    """

    provides = (*DataModule.provides, "vocab_size", "source_vocab_size", "pad_id")

    batch_unit = "tokens"

    def __init__(
        self,
        tokenizer: Kind = "bpe",
        vocab_size: PositiveInt = 8000,
        shared_vocabulary: bool = True,
        lower: bool = False,
        batch_tokens: PositiveInt = 4096,
        eval_batch_tokens: PositiveInt | None = None,
        max_length: PositiveInt = 256,
        skip: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_tokens, eval_batch_size=eval_batch_tokens, **kwargs)
        self.kind, self.vocab_size, self.shared_vocabulary, self.lower = (
            tokenizer,
            vocab_size,
            shared_vocabulary,
            lower,
        )
        self.max_length, self.skip = max_length, skip
        self._check_batch_size("batch_tokens")

    def _check_batch_size(self, option: str) -> None:
        if self.batch_size < self.max_length:
            raise UserError(
                f"data.{option} gives a process {self.batch_size} tokens per batch, below "
                f"data.max_length {self.max_length}: raise data.{option}, or lower data.max_length"
            )

    def divide_global_batch(self, trainer: Any, module: Any) -> None:
        super().divide_global_batch(trainer, module)
        self._check_batch_size("global_batch_size" if self.global_batch_size else "batch_tokens")

    def sources(self) -> dict[str, Any]:
        """Return a dictionary with an argument of `pairs` for each split, such as its files.

        The splits are "train", "val" and, if the corpus has test pairs, "test".
        """
        raise NotImplementedError

    def pairs(self, source: Any) -> Iterator[tuple[str, str]]:
        """Yield the sentence pairs of a split; `source` is the split's value in `sources()`."""
        raise NotImplementedError

    def digest(self) -> str:
        """Return a string that changes with the content of the corpus."""
        raise NotImplementedError

    def where(self, split: str, line: int, side: int) -> str:
        """Return where the source (side 0) or target (side 1) of a pair is, for error messages."""
        return f"{SIDES[side]} {line + 1} of the {split} split"

    @cached_property
    def split_sources(self) -> dict[str, Any]:
        """Result of `sources()`, computed once."""
        return self.sources()

    @property
    def data_spec(self) -> dict[str, Any]:
        """Vocabulary sizes and padding id; the corpus is encoded first if necessary."""
        tokenizer = self.tokenizer
        return {
            "vocab_size": tokenizer.target.vocab_size,
            "source_vocab_size": tokenizer.source.vocab_size,
            "pad_id": tokenizer.special(RECORD[0]),
        }

    @cached_property
    def tokenizer(self) -> PairTokenizer:
        """Source and target tokenizer with which the corpus is encoded."""
        self.prepare_data()
        tokenizer = tokenizer_from_json((self.cache / "tokenizer.json").read_text(encoding="utf-8"))
        assert isinstance(tokenizer, PairTokenizer)
        return tokenizer

    @cached_property
    def cache(self) -> Path:
        """Folder of the encoded corpus."""
        settings = [
            "pairs",
            VERSION,
            self.digest(),
            self.kind,
            self.vocab_size,
            self.shared_vocabulary,
            self.lower,
        ]
        return token_folder(self.root, settings)

    def prepare_data(self) -> None:
        """Encode the corpus unless it is cached. One process encodes it; the others wait."""
        make_folder(self.cache, self._encode)

    def _encode(self, folder: Path) -> None:
        """Write the tokenizers, and the lines and token ids of every split."""
        tokenizer = self._learn()
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        begin, end = RECORD[1:]
        for split in self.split_sources:
            write_rows(
                folder / f"{split}-source", self._lines(split, 0), tokenizer.source, [], [end]
            )
            write_rows(
                folder / f"{split}-target", self._lines(split, 1), tokenizer.target, [begin], [end]
            )

    def _learn(self) -> PairTokenizer:
        """Learn the vocabularies of both sides."""

        def lines(split: str, sides: tuple[int, ...]) -> Iterator[str]:
            return itertools.chain.from_iterable(self._lines(split, side) for side in sides)

        def learn(*sides: int) -> Tokenizer:
            learned = KINDS[self.kind].train(lines("train", sides), self.vocab_size, RECORD)
            others = [split for split in self.split_sources if split != "train"]
            return with_held_out(learned, {split: lines(split, sides) for split in others})

        if self.shared_vocabulary:
            both = learn(0, 1)
            return PairTokenizer(both, both, self.lower)
        return PairTokenizer(learn(0), learn(1), self.lower)

    def _lines(self, split: str, side: int) -> Iterator[str]:
        """Yield the lines of one side of a split, stripped and, with `lower`, in lower case."""
        for pair in self.pairs(self.split_sources[split]):
            line = pair[side].strip()
            yield line.lower() if self.lower else line

    def split_name(self, split: str) -> str:
        """Return the split to load: "val" for "test" if there are no test pairs, else `split`."""
        return "val" if split == "test" and "test" not in self.split_sources else split

    def load_split(self, split: str) -> SentencePairs:
        tokenizer, name = self.tokenizer, self.split_name(split)
        sides = [
            Rows(
                open_ids(self.cache / f"{name}-{side}.bin", id_type(part)),
                np.load(self.cache / f"{name}-{side}-starts.npy", mmap_mode="r"),
            )
            for side, part in zip(SIDES, (tokenizer.source, tokenizer.target))
        ]
        everything = SentencePairs(
            sides[0], sides[1], tokenizer.special(RECORD[0]), np.arange(len(sides[0].starts) - 1)
        )
        lengths = everything.lengths
        empty, long = lengths == 1, (lengths > self.max_length) & (split == "train")
        bad = empty | long
        if not bad.any():
            return take_subset(everything, self.max_samples) if split == "train" else everything
        if split != "train" or not self.skip:
            raise self._complaint(name, lengths, int(bad.any(0).argmax()))
        without = empty.any(0)
        note(
            f"skipped {without.sum():,} empty and {(bad.any(0) & ~without).sum():,} long pairs "
            f"of {len(everything):,}"
        )
        return take_subset(
            everything.subset(torch.from_numpy(np.flatnonzero(~bad.any(0)))), self.max_samples
        )

    def _complaint(self, split: str, lengths: np.ndarray, line: int) -> UserError:
        """Return the error for a pair with an empty side or a side that is too long."""
        empty = [self.where(split, line, side) for side in range(2) if lengths[side, line] == 1]
        if empty and split == "train":
            return UserError(
                f"{' and '.join(empty)}: the text is empty; complete the pair, or skip such pairs "
                "with --data.skip true"
            )
        if empty:
            return UserError(
                f"{' and '.join(empty)}: the text is empty; complete the pair, or remove it from "
                "both sides"
            )
        side = int(lengths[:, line].argmax())
        return UserError(
            f"{self.where(split, line, side)}: has {lengths[side, line]} tokens, more than "
            f"data.max_length {self.max_length}; raise data.max_length, or skip such pairs with "
            "--data.skip true"
        )

    def batch_sampler(
        self, data: SentencePairs, batch_size: int, **options: Any
    ) -> BucketBatchSampler:
        """Return a sampler of pairs of similar lengths; `batch_size` is in padded tokens."""
        return BucketBatchSampler(data.lengths, batch_size, **options)

    @property
    def changeable(self) -> set[str]:
        return super().changeable | {"batch_tokens", "eval_batch_tokens"}

    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        source, target = self.tokenizer.source, self.tokenizer.target
        return {
            "source": [source.decode(row.tolist()) for row in batch["source"]],
            "target": [target.decode(row.tolist()) for row in batch["target"]],
        }

    def texts(self, split: str) -> tuple[list[str], list[str]]:
        """Return the sources and targets of a split as text.

        Element i of each list is the text of the pair whose `index` in a batch is i.
        """
        numbers, name = self.split(split).lines, self.split_name(split)  # type: ignore[attr-defined]
        sides = []
        for side in SIDES:
            with open(self.cache / f"{name}-{side}.txt", encoding="utf-8", newline="\n") as file:
                lines = [line[:-1] for line in file]
            sides.append([lines[number] for number in numbers])
        return sides[0], sides[1]
