"""Pairs of sentences for sequence-to-sequence systems: translation, question and answer, text and
summary.

A corpus is encoded once, as in `datamodules/text/base.py`. Pairs of like lengths share a batch, whose
size is a number of padded tokens and not of pairs: of short sentences it holds many, and little of
it is padding.

A batch holds `source` int64 (N, S), tokens and `<eos>`; `target` int64 (N, T + 1), `<bos>`, tokens
and `<eos>`: the inputs of a decoder and, one further, its targets; both padded with `pad_id`;
`source_length` (N,), how many of S count; `target_length` (N,), how many of the T targets do; and
`targets`, how many that are together.
"""

import gzip
import hashlib
import itertools
import json
import shutil
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.files import atomic_save
from datamodules.base import DataModule, Request, mix_seed
from datamodules.download import BROKEN, fetch, sha256
from datamodules.images.base import take_subset
from datamodules.images.openmoji import OpenMoji, check_language, emoji_names
from datamodules.text.base import (
    Batching,
    TextDataModule,
    make_folder,
    open_ids,
    padded,
    read_pieces,
)
from datamodules.tokenizer import KINDS, RECORD, Kind, PairTokenizer, Tokenizer, tokenizer_from_json

SIDES = ("source", "target")
VERSION = 2  # of the encoded files: a change of how they are written makes them anew
SLACK = (
    10  # characters that are added to a line's, so that the ratio of two short lines says little
)


class Rows(NamedTuple):
    """One side of a split.

    Attributes:
        ids: memory-mapped (T,), all rows one after the other.
        starts: int64 (R + 1,), where each row begins and the last one ends.
    """

    ids: np.ndarray
    starts: np.ndarray


class SentencePairs:
    """Encoded pairs, gathered a batch at a time.

    Args:
        source: rows that end with `<eos>`.
        target: rows between `<bos>` and `<eos>`.
        pad_id: what rows of a batch are filled up with.
        lines: int64 (N,), which of the rows these are.
    """

    def __init__(self, source: Rows, target: Rows, pad_id: int, lines: np.ndarray) -> None:
        self.source, self.target, self.pad_id, self.lines = source, target, pad_id, lines

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def lengths(self) -> np.ndarray:
        """int64 (2, N): tokens of each source, and targets of each target, `<eos>` among them."""
        source, target = (np.diff(side.starts)[self.lines] for side in (self.source, self.target))
        return np.stack([source, target - 1])

    def subset(self, index: Tensor) -> "SentencePairs":
        return SentencePairs(self.source, self.target, self.pad_id, self.lines[index.numpy()])

    def __getitems__(self, request: Request) -> dict[str, Any]:
        lines = self.lines[request.index.numpy()]
        source, source_length = padded(*self.source, lines, self.pad_id)
        target, target_length = padded(*self.target, lines, self.pad_id)
        return {
            "source": source,
            "target": target,
            "source_length": source_length,
            "target_length": target_length - 1,
            "targets": int((target_length - 1).sum()),
            "index": request.index,
            "seed": request.seed,
        }


class BucketBatchSampler:
    """Yields `Request`s for pairs of like lengths, in an order that is a function of (seed, epoch)
    and can start at any batch.

    The pairs are sorted by (longer side, source length, chance) and cut from the longest on into
    global batches of at most `world * batch_tokens` padded tokens on either side; in training these
    come in a random order. Where the cuts are depends on the lengths alone, so that all epochs have
    as many batches.

    Rank r of W takes every W-th pair of each global batch, so that W ranks see what one rank with W
    times as many tokens sees. In training each rank has a part of each batch, for which the last
    one, of fewer pairs than ranks, joins the one before; in evaluation a rank may get nothing of
    it.

    Args:
        lengths: int64 (2, N), of sources and of targets.
        batch_tokens: rows times the longest of them, on an average of the ranks; as many pairs as
            ranks may have more.
        shuffle: a new order each epoch, or from the longest to the shortest.
        seed: base seed of the run.
        name: split, mixed into the batch seeds so that training and validation never share noise.
        start: batch of the first epoch to begin with; later epochs begin with 0.

    Raises:
        UserError: if there are fewer pairs to train on than ranks.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_tokens: int,
        *,
        shuffle: bool,
        seed: int,
        name: str,
        rank: int,
        world: int,
        start: int = 0,
    ) -> None:
        self.lengths, self.shuffle, self.seed, self.name = lengths, shuffle, seed, name
        self.rank, self.world, self.start = rank, world, start
        longer = lengths.max(0)[self._by_length(np.arange(lengths.shape[1]))]
        self.cuts = token_cuts(longer, batch_tokens * world, world)
        if shuffle and len(longer) < world:
            raise UserError(
                f"{world} processes are more than the {len(longer)} training pairs: add pairs, or use fewer processes"
            )
        if shuffle and self.cuts[-1] - self.cuts[-2] < world:
            del self.cuts[-2]
        self.epoch = 0
        self.sampler = self  # where Lightning looks for `set_epoch`

    def _by_length(self, chance: np.ndarray) -> np.ndarray:
        """Numbers of the pairs from the longest to the shortest, equal ones in the order of
        `chance` (N,).
        """
        return np.lexsort((chance, -self.lengths[0], -self.lengths.max(0)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __iter__(self) -> Iterator[Request]:
        start, self.start = self.start, 0
        chance, batches = torch.arange(self.lengths.shape[1]), torch.arange(len(self))
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
            chance, batches = (
                torch.randperm(len(things), generator=generator) for things in (chance, batches)
            )
        order = torch.from_numpy(self._by_length(chance.numpy()))
        for number, batch in enumerate(batches[start:].tolist(), start):
            index = order[self.cuts[batch] : self.cuts[batch + 1]][self.rank :: self.world]
            if len(index):
                yield Request(index, mix_seed(self.seed, self.name, self.rank, self.epoch, number))


def token_cuts(lengths: np.ndarray, budget: int, least: int) -> list[int]:
    """Where to cut rows into batches, 0 and N included, each as large as it may be.

    Args:
        lengths: (N,) of the rows in their order.
        budget: rows of a batch times the longest of them.
        least: rows that a batch has even where they are beyond the budget.
    """
    cuts = [0]
    while cuts[-1] < len(lengths):
        most = max(least, budget // int(lengths[cuts[-1]]))
        longest = np.maximum.accumulate(lengths[cuts[-1] : cuts[-1] + most])
        rows = int(np.searchsorted(longest * np.arange(1, len(longest) + 1), budget, side="right"))
        cuts.append(min(cuts[-1] + max(least, rows), len(lengths)))
    return cuts


class ParallelTextDataModule(DataModule):
    """Base of all corpora of pairs. A subclass provides `sources`, `pairs` and `digest`, and
    `where` if it has files.

    Args:
        tokenizer: characters (all that occur), bytes, words or byte-pair encoding (learnt from the
            training split).
        vocab_size: largest number of ids of the latter two.
        shared_vocabulary: one vocabulary for both sides, or one for each.
        lower: make all letters small, before anything else.
        batch_tokens: padded tokens per process and training step: pairs times the longest source or
            target among them.
        eval_batch_tokens: the same in validation and test; `batch_tokens` unless given.
        max_length: most tokens that either side of a training pair may have, `<eos>` among them.
        skip: leave out training pairs that are longer or have an empty side, and say how many,
            instead of stopping at the first.
        **kwargs: see `DataModule`.

    Raises:
        UserError: if a batch could not hold a pair.
    """

    batch_unit = "tokens"

    def __init__(
        self,
        tokenizer: Kind = "bpe",
        vocab_size: int = 8000,
        shared_vocabulary: bool = True,
        lower: bool = False,
        batch_tokens: int = 4096,
        eval_batch_tokens: int | None = None,
        max_length: int = 256,
        skip: bool = False,
        **kwargs: Any,
    ) -> None:
        if max_length < 2:
            raise UserError(f"data.max_length {max_length}: give at least 2, a token and <eos>")
        if batch_tokens < max_length:
            raise UserError(
                f"data.batch_tokens {batch_tokens} are fewer than data.max_length {max_length}: raise them, or lower that"
            )
        if eval_batch_tokens is not None and eval_batch_tokens < 1:
            raise UserError(f"data.eval_batch_tokens {eval_batch_tokens}: give at least 1")
        super().__init__(batch_size=batch_tokens, eval_batch_size=eval_batch_tokens, **kwargs)
        self.kind, self.vocab_size, self.shared_vocabulary, self.lower = (
            tokenizer,
            vocab_size,
            shared_vocabulary,
            lower,
        )
        self.max_length, self.skip = max_length, skip

    def sources(self) -> dict[str, Any]:
        """Where the pairs of "train", "val" and, if there is one, "test" are, as `pairs`
        understands it.
        """
        raise NotImplementedError

    def pairs(self, source: Any) -> Iterator[tuple[str, str]]:
        """The lines of a source."""
        raise NotImplementedError

    def digest(self) -> str:
        """Hash of the content."""
        raise NotImplementedError

    def where(self, split: str, line: int, side: int) -> str:
        """How a user finds one side of a pair."""
        return f"{SIDES[side]} {line + 1} of the {split} split"

    @cached_property
    def parts(self) -> dict[str, Any]:
        """What `sources` found."""
        return self.sources()

    @property
    def data_spec(self) -> dict[str, Any]:
        """Known once the corpus was read: a vocabulary is a fact of its text."""
        tokenizer = self.tokenizer
        return {
            "vocab_size": tokenizer.target.vocab_size,
            "source_vocab_size": tokenizer.source.vocab_size,
            "pad_id": tokenizer.special(RECORD[0]),
        }

    @cached_property
    def tokenizer(self) -> PairTokenizer:
        """Learnt from the corpus."""
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
        return (
            self.root
            / "tokens"
            / hashlib.blake2b(repr(settings).encode(), digest_size=12).hexdigest()
        )

    def prepare_data(self) -> None:
        """Encode the corpus, once; other processes wait for the one that does."""
        make_folder(self.cache, self._encode)

    def _encode(self, folder: Path) -> None:
        """Write vocabularies, and lines and tokens of every split."""
        tokenizer = self._learn()
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        begin, end = RECORD[1:]
        for split in self.parts:
            write_rows(
                folder / f"{split}-source", self._lines(split, 0), tokenizer.source, [], [end]
            )
            write_rows(
                folder / f"{split}-target", self._lines(split, 1), tokenizer.target, [begin], [end]
            )

    def _learn(self) -> PairTokenizer:
        """Vocabularies of both sides."""
        splits = (
            list(self.parts) if self.kind == "char" else ["train"]
        )  # an unknown character could not be scored

        def learn(*sides: int) -> Tokenizer:
            lines = itertools.chain.from_iterable(
                self._lines(split, side) for split in splits for side in sides
            )
            return KINDS[self.kind].train(lines, self.vocab_size, RECORD)

        if self.shared_vocabulary:
            both = learn(0, 1)
            return PairTokenizer(both, both, self.lower)
        return PairTokenizer(learn(0), learn(1), self.lower)

    def _lines(self, split: str, side: int) -> Iterator[str]:
        """One side of a split as it is encoded."""
        for pair in self.pairs(self.parts[split]):
            line = pair[side].strip()
            yield line.lower() if self.lower else line

    def split_name(self, split: str) -> str:
        """Which part a split really is: where there are no test pairs, it is the validation
        pairs.
        """
        return "val" if split == "test" and "test" not in self.parts else split

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
        print(
            f"left out {without.sum():,} empty and {(bad.any(0) & ~without).sum():,} long pairs of {len(everything):,}",
            file=sys.stderr,
        )
        return take_subset(
            everything.subset(torch.from_numpy(np.flatnonzero(~bad.any(0)))), self.max_samples
        )

    def _complaint(self, split: str, lengths: np.ndarray, line: int) -> UserError:
        """About a pair with an empty or a long side."""
        empty = [self.where(split, line, side) for side in range(2) if lengths[side, line] == 1]
        if empty and split == "train":
            return UserError(
                f"{' and '.join(empty)}: empty; complete the pair, or leave out such pairs with --data.skip true"
            )
        if empty:
            return UserError(
                f"{' and '.join(empty)}: empty; complete the pair, or remove it from both sides"
            )
        side = int(lengths[:, line].argmax())
        return UserError(
            f"{self.where(split, line, side)}: has {lengths[side, line]} tokens, more than data.max_length {self.max_length}; "
            "raise that, or leave out such pairs with --data.skip true"
        )

    def batch_sampler(
        self, data: SentencePairs, batch_size: int, **options: Any
    ) -> BucketBatchSampler:
        """Like lengths; here `batch_size` counts tokens."""
        return BucketBatchSampler(data.lengths, batch_size, **options)

    def texts(self, split: str) -> tuple[list[str], list[str]]:
        """Sources and targets of a split as they were before they were encoded; number i is the one
        with `index` i in a batch.
        """
        numbers, name = self.split(split).lines, self.split_name(split)  # type: ignore[attr-defined]
        sides = []
        for side in SIDES:
            with open(self.cache / f"{name}-{side}.txt", encoding="utf-8", newline="\n") as file:
                lines = [line[:-1] for line in file]
            sides.append([lines[number] for number in numbers])
        return sides[0], sides[1]


def id_type(tokenizer: Tokenizer) -> str:
    """The smallest integers that hold all ids."""
    return np.min_scalar_type(tokenizer.vocab_size - 1).name


def write_rows(
    path: Path, lines: Iterable[str], tokenizer: Tokenizer, before: list[str], after: list[str]
) -> None:
    """Encode lines one by one.

    Args:
        path: beginning of the names of three files: ids (`.bin`), where each row of them begins,
            and the lines themselves.
        lines: what is encoded.
        tokenizer: by which.
        before: special tokens that each row begins with.
        after: special tokens that it ends with.
    """
    first, last = (
        np.array([tokenizer.special(token) for token in tokens], np.int64)
        for tokens in (before, after)
    )
    dtype, starts, place = id_type(tokenizer), array("q", [0]), 0
    with (
        open(f"{path}.bin", "wb") as ids,
        open(f"{path}.txt", "w", encoding="utf-8", newline="\n") as texts,
    ):
        for line in lines:
            row = np.concatenate([first, tokenizer.encode(line), last])
            ids.write(row.astype(dtype).tobytes())
            texts.write(f"{line}\n")
            place += len(row)
            starts.append(place)
    np.save(f"{path}-starts.npy", np.array(starts, np.int64))


class Lines(NamedTuple):
    """Lines `first` to `last` of two files, or of one that holds both sides."""

    source: Path
    target: Path
    first: int
    last: int


class FilePairs(ParallelTextDataModule):
    """Base of corpora whose pairs are lines of files. A subclass provides `files`, and `pairs` if
    both sides are in one.

    Args:
        val_share: last part of the training pairs, for validation, where there are no pairs for it.
        **kwargs: see `ParallelTextDataModule`.

    Raises:
        UserError: if `val_share` is no share.
    """

    PARTS: ClassVar = {
        "train": ("train",),
        "val": ("val", "valid", "validation", "dev"),
        "test": ("test",),
    }

    def __init__(self, val_share: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < val_share < 1:
            raise UserError(f"data.val_share {val_share}: give a share between 0 and 1")
        self.val_share = val_share

    def files(self) -> dict[str, tuple[Path, Path]]:
        """Files of sources and of targets of each split; the same one where it holds both."""
        raise NotImplementedError

    def sources(self) -> dict[str, Lines]:
        parts = {
            split: Lines(*files, 0, count_pairs(*files)) for split, files in self.files().items()
        }
        if "val" not in parts:
            whole = parts["train"]
            border = int(whole.last * (1 - self.val_share))
            parts["train"], parts["val"] = whole._replace(last=border), whole._replace(first=border)
        return parts

    def pairs(self, source: Lines) -> Iterator[tuple[str, str]]:
        return itertools.islice(
            zip(file_lines(source.source), file_lines(source.target)), source.first, source.last
        )

    def where(self, split: str, line: int, side: int) -> str:
        part = self.parts[split]
        return f"{part[side]} line {part.first + line + 1}"

    def digest(self) -> str:
        def content(part: Lines) -> list[Any]:
            return [(path.name, sha256(path)) for path in part[:2]] + [part.first, part.last]

        return repr({split: content(part) for split, part in self.parts.items()})


class ParallelFiles(FilePairs):
    """Your own pairs in line-aligned files: `train.de` and `train.en`, `val.*` (or `valid.*`,
    `validation.*`, `dev.*`), `test.*`.

    Args:
        folder: with all of them.
        source: ending of the files with sources.
        target: ending of the files with targets.
        **kwargs: see `FilePairs`.

    Raises:
        UserError: if the folder or a file is missing or empty, or two files do not have as many
            lines.
    """

    def __init__(self, folder: str, source: str, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder, self.source, self.target = Path(folder), source, target

    def files(self) -> dict[str, tuple[Path, Path]]:
        if not self.folder.is_dir():
            raise UserError(
                f"data.folder {self.folder}: there is no such folder; give one with train.{self.source} and train.{self.target}"
            )
        found: dict[str, tuple[Path, Path]] = {}
        for split, names in self.PARTS.items():
            for name in names:
                files = (
                    self.folder / f"{name}.{self.source}",
                    self.folder / f"{name}.{self.target}",
                )
                there = [path for path in files if path.exists()]
                if len(there) == 1:
                    missing = files[1 - files.index(there[0])]
                    raise UserError(
                        f"{missing}: there is no such file beside {there[0].name}; add it, or remove that one"
                    )
                if there:
                    found.setdefault(split, files)
        if "train" not in found:
            raise UserError(
                f"{self.folder / f'train.{self.source}'}: there is no such file; place the training pairs there"
            )
        return found


def file_lines(path: Path) -> Iterator[str]:
    r"""Lines of a file as editors count them: Unicode knows more ends of lines than "\n", which may
    stand within a sentence.
    """
    rest = ""
    for text in read_pieces(path):
        *lines, rest = (rest + text).split("\n")
        yield from lines
    if rest:
        yield rest


def count_pairs(source: Path, target: Path) -> int:
    """How many lines two files have.

    Raises:
        UserError: if one is empty, or they do not have as many.
    """
    sizes = [sum(1 for _ in file_lines(path)) for path in (source, target)]
    for path, size in zip((source, target), sizes):
        if not size:
            raise UserError(f"{path}: is empty; put text into it, or remove it")
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{source} has {sizes[0]:,} lines and {target} has {sizes[1]:,}: each line needs its other side; "
            f"look at line {suspicious_line(source, target):,} first"
        )
    return sizes[0]


def suspicious_line(source: Path, target: Path) -> int:
    """Number of the line at which two files most likely come apart: the first of which one side is
    empty, or else the one from which on the lengths of the shorter file's lines go better with the
    last lines of the longer file than with the first.
    """
    sides = [
        np.array([len(line.strip()) for line in file_lines(path)]) for path in (source, target)
    ]
    short, long = sorted(sides, key=len)
    lone = (short == 0) != (long[: len(short)] == 0)
    if lone.any():
        return int(lone.argmax()) + 1

    def misfit(partners: np.ndarray) -> np.ndarray:
        ratio = np.log((partners + SLACK) / (short + SLACK))
        return np.abs(ratio - np.median(ratio))

    together = np.cumsum(misfit(long[: len(short)]) - misfit(long[-len(short) :]))
    costs = np.concatenate([[0.0], together])
    return len(costs) - int(
        costs[::-1].argmin()
    )  # the last of equals: nothing is wrong before the end


class PairTable(FilePairs):
    """Your own pairs in a table of two columns with a tab between, and no heading.

    Args:
        path: a `.tsv`; or a folder with `train.tsv`, `val.tsv` (or `valid.tsv`, `validation.tsv`,
            `dev.tsv`) and `test.tsv`.
        **kwargs: see `FilePairs`.

    Raises:
        UserError: if a file is missing or empty, or a row has another number of columns.
    """

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = Path(path)

    def files(self) -> dict[str, tuple[Path, Path]]:
        tables = {
            split: [self.path / f"{name}.tsv" for name in names]
            for split, names in self.PARTS.items()
        }
        found = {split: path for split, paths in tables.items() for path in paths if path.exists()}
        if self.path.is_file():
            found = {"train": self.path}
        if "train" not in found:
            raise UserError(
                f"data.path {self.path}: there is no such table; give a .tsv, or a folder with train.tsv"
            )
        return {split: (path, path) for split, path in found.items()}

    def pairs(self, source: Lines) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(
            itertools.islice(file_lines(source.source), source.first, source.last), source.first + 1
        ):
            columns = line.split("\t")
            if len(columns) != 2:
                raise UserError(
                    f"{source.source} line {number}: has {len(columns)} columns; give it two, with one tab between them"
                )
            yield columns[0], columns[1]


class Multi30k(ParallelFiles):
    """31,014 captions of pictures in English and German (Elliott et al. 2016, task 1),
    `<root>/multi30k/train.de` and so on.

    29,000 pairs are for training and 1,014 for validation; the test pairs are the 1,000 of 2016.

    Args:
        source: language that is read.
        target: language that is written.
        **kwargs: see `ParallelTextDataModule`.
    """

    PARTS: ClassVar = {"train": ("train",), "val": ("val",), "test": ("test_2016_flickr",)}
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
        return super().files()

    @property
    def word_rules(self) -> str:
        """Name of what `tokenise` goes by."""
        return f"spacy-blank-{self.target}"

    def tokenise(self, text: str) -> list[str]:
        """Words of the target language as spaCy's rules cut them, by which published BLEU on this
        corpus counts.

        Raises:
            UserError: if spaCy is not installed.
        """
        return [str(word) for word in spacy_rules(self.target)(text)]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Lower-cased words that occur at least twice in the training targets: 5,889 in English.

        Published translators on this corpus (bentrevett's pytorch-seq2seq) write these and `<unk>`.
        """
        counts = Counter(
            word.lower() for line in self._lines("train", 1) for word in self.tokenise(line)
        )
        return frozenset(word for word, count in counts.items() if count > 1)

    def _obtain(self, path: Path) -> None:
        """Download a file and unpack it."""
        packed = path.with_name(f"{path.name}.gz")
        fetch([self.ADDRESS.format(path.name)], packed, checksum=self.CHECKSUMS[path.name])
        try:
            with gzip.open(packed) as content:
                atomic_save(path, lambda file: shutil.copyfileobj(content, file))
        except BROKEN as error:
            raise UserError(
                f"{packed}: is damaged ({error}); remove it, and it is downloaded again"
            ) from error


class Multi30kText(TextDataModule):
    """One side of `Multi30k`, a caption a line.

    Args:
        language: "en" or "de".
        **kwargs: see `TextDataModule`.
    """

    def __init__(
        self,
        language: Literal["de", "en"] = "en",
        batching: Batching = "records",
        tokenizer: Kind = "bpe",
        vocab_size: int = 4000,
        batch_size: int = 64,
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

    def pieces(self, source: Path) -> Iterator[str]:
        return read_pieces(source)

    def digest(self) -> str:
        return repr({split: sha256(path) for split, path in self.sources().items()})


@cache
def spacy_rules(language: str) -> Any:
    """spaCy's rules for a language, which need no trained model.

    Raises:
        UserError: if spaCy is not installed.
    """
    try:
        import spacy
    except ImportError as error:
        raise UserError(
            "published BLEU on Multi30k counts spaCy's words, which is not installed: pip install spacy"
        ) from error
    return spacy.blank(language)


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
            splits.setdefault(source[code], set()).add(data.folds[code])
        found: dict[str, dict[tuple[str, str], None]] = {"train": {}, "val": {}, "test": {}}
        for code in named:
            split = data.folds[code] if len(splits[source[code]]) == 1 else "train"
            found[split].setdefault((source[code], target[code]))
        return {split: list(pairs) for split, pairs in found.items()}

    def pairs(self, source: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        return iter(source)

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.parts).encode()).hexdigest()
