"""Text corpora as memory-mapped tokens: any `.txt`, one file, many files or a folder, and some that
need no file at all.

A corpus is read twice in a streaming pass, once for its vocabulary and once to be encoded, and kept
under `<root>/tokens/<hash of its content and tokenizer>`: neither its size nor the number of epochs
shows in memory. Three ways to batch it:

- `windows`: training windows begin anywhere, as nanoGPT has it; evaluation takes disjoint ones, the
  last one cut short;
- `streams`: row r of batch n continues row r of batch n - 1, so that a recurrent state can be
  carried over, in training (truncated back-propagation through time) and in evaluation;
- `records`: every line is an example of its own, between `<bos>` and `<eos>`, padded to the longest
  of its batch; training batches hold lines of similar lengths and equal numbers of tokens, of
  `batch_size` lines on average.

A batch holds `tokens` int64 (N, T + 1), the inputs and, one further, the targets; `length` (N,),
how many of a row's targets count; `targets`, how many that are together; and `first`, whether a
recurrent state begins anew.
"""

import codecs
import hashlib
import itertools
import json
import mmap
import os
import shutil
from array import array
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader

from common.errors import UserError
from datamodules.base import BatchedDataset, DataModule, Request, ResumableBatchSampler, mix_seed
from datamodules.download import fetch, sha256
from datamodules.tokenizer import (
    KINDS,
    RECORD,
    BPETokenizer,
    Kind,
    PairTokenizer,
    Tokenizer,
    encode_pieces,
    tokenizer_from_json,
)

Batching = Literal["windows", "streams", "records"]
SPLITS = ("train", "val", "test")
PIECE = 2**20  # bytes that are read at a time
VERSION = 1  # of the encoded files: a change of how they are written makes them anew


class Tokens(NamedTuple):
    """One split: its ids, where its records begin (empty without records), and what it was encoded
    from.

    Attributes:
        ids: memory-mapped uint16 or uint32 (T,).
        starts: int64 (R + 1,), where each record begins and the last one ends.
        characters: of the text.
        bytes: of the text in UTF-8.
    """

    ids: np.ndarray
    starts: np.ndarray
    characters: int
    bytes: int

    @property
    def targets(self) -> int:
        """Tokens that are predicted from others: all but the first, or the first of each record."""
        return len(self.ids) - max(1, len(self.starts) - 1)


def gather(ids: np.ndarray, starts: np.ndarray, width: int) -> Tensor:
    """int64 (N, width) of ids (T,), row i from `starts[i]` on; what is past the end repeats the
    last id.
    """
    place = np.minimum(starts[:, None] + np.arange(width), len(ids) - 1)
    rows = torch.from_numpy(ids[place].astype(np.int64))
    mapped = getattr(ids, "_mmap", None)
    if (
        mapped is not None
    ):  # the pages stay with the system, and do not count as this process' memory
        mapped.madvise(mmap.MADV_DONTNEED)
    return rows


def padded(
    ids: np.ndarray, starts: np.ndarray, index: np.ndarray, pad_id: int
) -> tuple[Tensor, Tensor]:
    """Some of the rows that ids (T,) consist of, in one rectangle.

    Args:
        ids: (T,).
        starts: (R + 1,), where each row begins and the last one ends.
        index: (N,), which rows.
        pad_id: what they are filled up with.

    Returns:
        int64 (N, length of the longest) and the length of each, int64 (N,).
    """
    lengths = torch.from_numpy(starts[index + 1] - starts[index])
    rows = gather(ids, starts[index], int(lengths.max()))
    rows[torch.arange(rows.shape[1]) >= lengths[:, None]] = pad_id
    return rows, lengths


def open_ids(path: Path, dtype: str) -> np.ndarray:
    """Ids of a file, memory-mapped, which an empty one cannot be."""
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


def make_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder, once, which appears when it is whole; other processes wait for
    the one that does.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return
        for leftover in folder.parent.glob(f"{folder.name}.tmp*"):  # of a process that was killed
            shutil.rmtree(leftover)
        temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
        temporary.mkdir()
        try:
            write(temporary)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class RandomWindows:
    """Windows that begin anywhere: an epoch sees as many tokens as there are.

    Args:
        ids: (L,).
        context: T.
    """

    def __init__(self, ids: np.ndarray, context: int) -> None:
        self.ids, self.context = ids, context

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.context

    def __getitems__(self, request: Request) -> dict[str, Any]:
        count = len(request.index)
        generator = torch.Generator().manual_seed(mix_seed(request.seed, "windows"))
        starts = torch.randint(len(self.ids) - self.context, (count,), generator=generator).numpy()
        tokens = gather(self.ids, starts, self.context + 1)
        return batch_of(tokens, torch.full((count,), self.context), request, first=True)


class DisjointWindows:
    """All of a text in windows side by side; every token but the first is a target just once.

    Args:
        ids: (L,).
        context: T.
    """

    def __init__(self, ids: np.ndarray, context: int) -> None:
        self.ids, self.context = ids, context

    def __len__(self) -> int:
        return -(-max(0, len(self.ids) - 1) // self.context)

    def __getitems__(self, request: Request) -> dict[str, Any]:
        starts = request.index.numpy() * self.context
        lengths = torch.from_numpy(np.minimum(self.context, len(self.ids) - 1 - starts))
        return batch_of(gather(self.ids, starts, self.context + 1), lengths, request, first=True)


class Streams:
    """A text cut into `rows` of equal length, which are read side by side, a step of `context`
    tokens at a time.

    Args:
        ids: (L,).
        context: T, tokens per step.
        rows: of a batch over all ranks.
        whole: every token but the first is a target just once, so that the last steps may be short
            or empty; otherwise what does not fill a step of all rows is left out.
    """

    def __init__(self, ids: np.ndarray, context: int, rows: int, whole: bool) -> None:
        self.ids, self.context, self.rows = ids, context, rows
        targets = len(ids) - 1
        self.span = (
            -(-targets // rows) if whole else targets // rows // context * context
        )  # targets of a row

    def __len__(self) -> int:
        return self.rows * -(-self.span // self.context)

    def __getitems__(self, request: Request) -> dict[str, Any]:
        step, row = np.divmod(request.index.numpy(), self.rows)
        starts = row * self.span + step * self.context
        ends = np.minimum((row + 1) * self.span, len(self.ids) - 1)
        tokens = gather(self.ids, starts, self.context + 1)
        lengths = torch.from_numpy(np.clip(ends - starts, 0, self.context))
        return batch_of(tokens, lengths, request, first=bool(step[0] == 0))


class Records:
    """Examples between `<bos>` and `<eos>`, padded to the longest of a batch.

    Args:
        ids: (L,).
        starts: (R + 1,).
        pad_id: what rows are filled up with.
    """

    def __init__(self, ids: np.ndarray, starts: np.ndarray, pad_id: int) -> None:
        self.ids, self.starts, self.pad_id = ids, starts, pad_id

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitems__(self, request: Request) -> dict[str, Any]:
        tokens, lengths = padded(self.ids, self.starts, request.index.numpy(), self.pad_id)
        return batch_of(tokens, lengths - 1, request, first=True)


class LengthBatchSampler(ResumableBatchSampler):
    """Yields `Request`s for records of similar lengths, in an order that is a function of (seed,
    epoch) and can start at any batch.

    Each epoch leaves out a random remainder of less than a batch and sorts the other records by
    length (equal lengths in random order). It cuts them into batches of nearly equal numbers of
    tokens and shuffles the batches. In batches of about 64 captions, 99 % are then tokens instead
    of 51 %; the rest is padding. Batches of equal numbers of records would change the objective:
    the mean over the tokens of a batch would give each token of a short record several times the
    weight of one of a long record.

    Args:
        lengths: Number of tokens of each record, int64 (N,).
        batch_size: Records per rank and batch, on average over an epoch; each rank has at least
            one.
        **options: Arguments of `ResumableBatchSampler`.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, **options: Any) -> None:
        super().__init__(len(lengths), batch_size, shuffle=True, **options)
        self.lengths = torch.from_numpy(lengths)

    def __iter__(self) -> Iterator[Request]:
        start, self.start = self.start, 0
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
        count = len(self)
        chosen = torch.randperm(self.size, generator=generator)[
            : count * self.batch_size * self.world
        ]
        chosen = chosen[self.lengths[chosen].argsort(stable=True)]
        tokens = self.lengths[chosen].cumsum(0)
        batch = torch.arange(1, count + 1)
        ends = torch.searchsorted(tokens, tokens[-1] * batch // count) + 1
        # No batch has less than one record for each rank.
        ends = (ends - batch * self.world).cummax(0).values + batch * self.world
        ends = torch.minimum(ends, len(chosen) - (count - batch) * self.world)
        parts = chosen.tensor_split(ends[:-1])
        order = torch.randperm(count, generator=generator).tolist()
        for number in range(start, count):
            index = parts[order[number]][self.rank :: self.world]
            yield Request(index, mix_seed(self.seed, self.name, self.rank, self.epoch, number))


def batch_of(tokens: Tensor, length: Tensor, request: Request, *, first: bool) -> dict[str, Any]:
    """The dictionary that all of them give."""
    parts = {"tokens": tokens, "length": length, "targets": int(length.sum()), "first": first}
    return {**parts, "index": request.index, "seed": request.seed}


class TextDataModule(DataModule):
    """Base of all text corpora. A subclass provides `sources`.

    Args:
        context: T, tokens that a model sees at once.
        batching: see the module's docstring.
        tokenizer: characters (all that occur), bytes, words or byte-pair encoding (learnt from the
            training split).
        vocab_size: largest number of ids of the latter two.
        tokenizer_file: instead of learning one, that of a checkpoint (.ckpt), or the
            `tokenizer.json` of the `tokenizers` library.
        val_share: last part of a text that comes in one piece, for validation.
        **kwargs: see `DataModule`; `max_samples` takes that many windows of training from its
            beginning (records: lines).
    """

    def __init__(
        self,
        context: int = 64,
        batching: Batching = "windows",
        tokenizer: Kind = "char",
        vocab_size: int = 4096,
        tokenizer_file: str | None = None,
        val_share: float = 0.1,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        if context < 1:
            raise UserError(f"data.context {context}: give at least 1")
        if not 0 < val_share < 1:
            raise UserError(f"data.val_share {val_share}: give a share between 0 and 1")
        self.context, self.batching, self.kind, self.vocab_size = (
            context,
            batching,
            tokenizer,
            vocab_size,
        )
        self.tokenizer_file, self.val_share = tokenizer_file, val_share

    def sources(self) -> dict[str, Any]:
        """Where each split's text is, as `pieces` understands it; a corpus without "val" is cut at
        `val_share`.
        """
        raise NotImplementedError

    def pieces(self, source: Any) -> Iterator[str]:
        """The text of a source, a piece at a time."""
        raise NotImplementedError

    def digest(self) -> str:
        """Hash of the content."""
        raise NotImplementedError

    @cached_property
    def parts(self) -> dict[str, Any]:
        """What `sources` found."""
        return self.sources()

    @property
    def data_spec(self) -> dict[str, Any]:
        """Known once the corpus was read: a vocabulary is a fact of its text."""
        special = (
            [self.tokenizer.special(token) for token in RECORD]
            if self.batching == "records"
            else []
        )
        records = {"pad_id": special[0], "special_ids": special} if special else {}
        return {"vocab_size": self.tokenizer.vocab_size, **records}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Learnt, or read."""
        self.prepare_data()
        return tokenizer_from_json((self.cache / "tokenizer.json").read_text())

    @cached_property
    def cache(self) -> Path:
        """Folder of the encoded corpus."""
        settings: list[Any] = [
            VERSION,
            self.digest(),
            self.kind,
            self.vocab_size,
            self.batching == "records",
            self.val_share,
        ]
        if self.tokenizer_file:
            if not Path(self.tokenizer_file).is_file():
                raise UserError(f"data.tokenizer_file {self.tokenizer_file}: there is no such file")
            settings.append(sha256(Path(self.tokenizer_file)))
        return (
            self.root
            / "tokens"
            / hashlib.blake2b(repr(settings).encode(), digest_size=12).hexdigest()
        )

    def prepare_data(self) -> None:
        """Encode the corpus, once; other processes wait for the one that does."""
        make_folder(self.cache, self._encode)

    def _encode(self, folder: Path) -> None:
        """Write vocabulary and tokens of every split."""
        specials = RECORD if self.batching == "records" else ()
        if self.tokenizer_file:
            tokenizer = read_tokenizer(Path(self.tokenizer_file), specials)
        else:
            learnt_from = (
                SPLITS if self.kind == "char" else SPLITS[:1]
            )  # an unknown character could not be scored
            pieces = itertools.chain.from_iterable(map(self._split_pieces, learnt_from))
            tokenizer = KINDS[self.kind].train(pieces, self.vocab_size, specials)
        (folder / "tokenizer.json").write_text(tokenizer.to_json())
        kind = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        for split in SPLITS:
            starts, place, characters, size = array("q", [0]), 0, 0, 0
            with open(folder / f"{split}.bin", "wb") as file:

                def write(ids: np.ndarray) -> int:
                    file.write(ids.astype(kind).tobytes())
                    return len(ids)

                def counted(text: str) -> str:
                    nonlocal characters, size
                    characters, size = characters + len(text), size + len(text.encode())
                    return text

                if self.batching == "records":
                    begin, end = (np.array([tokenizer.special(token)]) for token in RECORD[1:])
                    for line in lines_of(self._split_pieces(split)):
                        place += write(
                            np.concatenate(
                                [begin, tokenizer.encode(counted(f"{line}\n")[:-1]), end]
                            )
                        )
                        starts.append(place)
                else:
                    for ids in encode_pieces(tokenizer, map(counted, self._split_pieces(split))):
                        place += write(ids)
            np.save(
                folder / f"{split}-starts.npy",
                np.array(starts if self.batching == "records" else [], np.int64),
            )
            (folder / f"{split}.json").write_text(
                json.dumps({"characters": characters, "bytes": size, "dtype": kind.__name__})
            )

    @cached_property
    def _border(self) -> int:
        """Character at which validation begins in a text that comes in one piece; not within a line
        where lines or words matter.
        """
        source = self.parts["train"]
        border = int(sum(map(len, self.pieces(source))) * (1 - self.val_share))
        if self.batching != "records" and self.kind in ("char", "byte"):
            return border
        place = border
        for text in part_of(self.pieces(source), border, None):
            if "\n" in text:
                return place + text.index("\n") + 1
            place += len(text)
        return border

    def _split_pieces(self, split: str) -> Iterator[str]:
        """The text of a split."""
        if split in self.parts:
            border = self._border if split == "train" and "val" not in self.parts else None
            yield from part_of(self.pieces(self.parts[split]), 0, border)
        elif "val" in self.parts:
            yield from self._split_pieces(
                "val"
            )  # a corpus of two parts: what is measured is the second
        else:
            yield from part_of(self.pieces(self.parts["train"]), self._border, None)

    def split_name(self, split: str) -> str:
        """Which part a split really is: where there is no test text, it is the validation text."""
        return "val" if split == "test" and "test" not in self.parts else split

    def tokens(self, split: str) -> Tokens:
        """The encoded text of a split, memory-mapped."""
        self.prepare_data()
        about = json.loads((self.cache / f"{split}.json").read_text())
        ids = open_ids(self.cache / f"{split}.bin", about["dtype"])
        return Tokens(
            ids,
            np.load(self.cache / f"{split}-starts.npy", mmap_mode="r"),
            about["characters"],
            about["bytes"],
        )

    def load_split(self, split: str) -> BatchedDataset:
        ids, starts, *_ = self.tokens(split)
        if split == "train" and self.max_samples is not None:
            ids = ids[: None if self.batching == "records" else self.max_samples * self.context + 1]
            starts = starts[: self.max_samples + 1]
        if self.batching == "records":
            longest = int(np.diff(starts).max(initial=0)) - 1
            if longest > self.context:
                raise UserError(
                    f"the {split} split has a line of {longest} tokens, more than data.context {self.context}: raise it"
                )
            return Records(ids, starts, self.data_spec["pad_id"])
        if len(ids) <= self.context:
            raise UserError(
                f"the {split} split has {len(ids)} tokens, too few for data.context {self.context}: lower it or add text"
            )
        if self.batching == "streams":
            world = self.trainer.world_size if self.trainer else 1
            rows = (self.batch_size if split == "train" else self.eval_batch_size) * world
            return Streams(ids, self.context, rows, whole=split != "train")
        return (
            RandomWindows(ids, self.context)
            if split == "train"
            else DisjointWindows(ids, self.context)
        )

    def batch_sampler(
        self, data: Any, batch_size: int, *, shuffle: bool, **options: Any
    ) -> ResumableBatchSampler:
        sampler: ResumableBatchSampler = super().batch_sampler(
            data, batch_size, shuffle=shuffle, **options
        )
        if shuffle and self.batching == "records":
            return LengthBatchSampler(np.diff(data.starts), batch_size, **options)
        return sampler

    def train_dataloader(self) -> DataLoader:
        loader = super().train_dataloader()
        if (
            self.batching != "records"
        ):  # windows begin anywhere, and streams have the text's own order
            loader.batch_sampler.shuffle = False  # type: ignore[union-attr]
        return loader


def part_of(texts: Iterator[str], first: int, last: int | None) -> Iterator[str]:
    """Characters `first` to `last` of a text that comes in pieces."""
    place = 0
    for text in texts:
        part = text[max(0, first - place) : None if last is None else max(0, last - place)]
        place += len(text)
        if part:
            yield part
        if last is not None and place >= last:
            return


def lines_of(texts: Iterator[str]) -> Iterator[str]:
    """Lines that are not empty."""
    rest = ""
    for text in texts:
        *lines, rest = (rest + text).split("\n")
        yield from filter(None, map(str.strip, lines))
    yield from filter(None, [rest.strip()])


def read_tokenizer(path: Path, specials: tuple[str, ...]) -> Tokenizer:
    """A checkpoint's tokenizer, or the library's `tokenizer.json`.

    Raises:
        UserError: if the file is missing or is neither, or lacks what records need.
    """
    if not path.is_file():
        raise UserError(f"data.tokenizer_file {path}: there is no such file")
    try:
        text = (
            torch.load(path, weights_only=True, mmap=True)["tokenizer"]
            if path.suffix == ".ckpt"
            else path.read_text()
        )
    except Exception as error:  # torch raises half a dozen kinds here
        raise UserError(
            f"data.tokenizer_file {path}: holds no tokenizer; give a checkpoint of a text, or a tokenizer.json"
        ) from error
    tokenizer = tokenizer_from_json(text) if '"kind"' in text[:20] else BPETokenizer(text, specials)
    if isinstance(tokenizer, PairTokenizer):
        raise UserError(
            f"data.tokenizer_file {path}: is of a translation, which has two tokenizers: give that of a language model"
        )
    if set(specials) - set(tokenizer.specials):
        raise UserError(
            f"data.tokenizer_file {path}: lacks {', '.join(specials)}, which records need: learn one, or use windows"
        )
    return tokenizer


def read_pieces(path: Path) -> Iterator[str]:
    """A file in UTF-8, a piece at a time.

    Raises:
        UserError: naming the file and the byte, if it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    place = 0
    with open(path, "rb") as file:
        while block := file.read(PIECE):
            try:
                yield decoder.decode(block)
            except UnicodeDecodeError as error:
                where = place + error.start
                raise UserError(
                    f"{path}: is not UTF-8 (byte {where:,}); convert it, such as with iconv -f latin1 -t utf-8"
                ) from error
            place += len(block)
        if decoder.getstate()[0]:
            raise UserError(
                f"{path}: ends in the middle of a character (byte {place:,}); it was cut short: get it again"
            )


class TextFiles(TextDataModule):
    """Your own texts.

    Args:
        path: a `.txt`; or a folder with `train.txt`, `val.txt` (or `valid.txt`) and `test.txt`; or
            a folder of `.txt`, which are joined in the order of their names, by a line break and
            without an end-of-text token between documents.
        **kwargs: see `TextDataModule`.

    Raises:
        UserError: if there is no text.
    """

    PARTS: ClassVar = {
        "train": ("train",),
        "val": ("val", "valid", "validation"),
        "test": ("test",),
    }

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = Path(path)

    def sources(self) -> dict[str, list[Path]]:
        if not self.path.exists():
            raise UserError(
                f"data.path {self.path}: there is no such file or folder; give a .txt, or a folder of them"
            )
        files = sorted(self.path.rglob("*.txt")) if self.path.is_dir() else [self.path]
        if not files or not any(path.stat().st_size for path in files):
            raise UserError(
                f"data.path {self.path}: is empty; give a .txt with text in it, or a folder of them"
            )
        named = {path.stem: path for path in files if path.parent == self.path}
        parts = {
            split: [named[name]]
            for split, names in self.PARTS.items()
            for name in names
            if name in named
        }
        for path in (paths[0] for paths in parts.values()):
            if not path.stat().st_size:
                raise UserError(f"{path}: is empty; put text into it, or remove it")
        return parts if "train" in parts else {"train": files}

    def pieces(self, source: list[Path]) -> Iterator[str]:
        """Files that do not end with a line are joined by the end of one."""
        last = "\n"
        for path in source:
            if last != "\n":
                yield "\n"
            for text in read_pieces(path):
                yield text
                last = text[-1:] or last

    def digest(self) -> str:
        return repr(
            {
                split: [(path.name, sha256(path)) for path in paths]
                for split, paths in self.sources().items()
            }
        )


class TinyShakespeare(TextFiles):
    """1,115,394 characters of Shakespeare (Karpathy 2015), `<root>/tiny_shakespeare/input.txt`.

    Args:
        **kwargs: see `TextDataModule`.
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
    """The help texts of Python's standard library (`pydoc_data.topics`): 465,000 characters on
    Python 3.11, other ones elsewhere.

    Args:
        **kwargs: see `TextDataModule`.
    """

    embedded = True

    def sources(self) -> dict[str, str]:
        from pydoc_data.topics import topics

        return {"train": "\n".join(text for _, text in sorted(topics.items()))}

    def pieces(self, source: str) -> Iterator[str]:
        yield source

    def digest(self) -> str:
        return hashlib.sha256(self.sources()["train"].encode()).hexdigest()


class EmojiNames(TextDataModule):
    """The English names of emoji, one a line, without those of skin tones, on the split by
    composition of `OpenMoji`.

    Args:
        **kwargs: see `TextDataModule`.
    """

    embedded = True

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Names of each split."""
        from datamodules.images.openmoji import SKIN_TONES, OpenMoji

        data = OpenMoji(split_by="composition", named=True, root=str(self.root))
        found: dict[str, dict[str, None]] = {split: {} for split in SPLITS}
        for code, name in data.names.items():
            if not SKIN_TONES & set(code.split("-")):
                found[data.folds[code]].setdefault(name)
        return {split: sorted(names) for split, names in found.items()}

    def sources(self) -> dict[str, str]:
        return {split: "\n".join(names) for split, names in self.names.items()}

    def pieces(self, source: str) -> Iterator[str]:
        yield source

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.names).encode()).hexdigest()
