"""Base class of text data modules: text corpora as memory-mapped token ids.

A corpus is read twice: to learn the vocabulary, and to encode the text. The token ids are cached in
`<root>/tokens/<hash of content and tokenizer>`. Memory use does not depend on the size of the
corpus. There are three ways of batching:

- `windows`: Training windows start at random positions, as in nanoGPT. Evaluation windows are
  disjoint, and the last window may be shorter.
- `streams`: Row r of batch n continues row r of batch n - 1. A recurrent state can be carried from
  batch to batch, in training (truncated back-propagation through time) and in evaluation.
- `records`: Every line, or every document of a corpus of documents, is a separate example between
  `<bos>` and `<eos>`, padded to the longest example of the batch. Training batches consist of
  examples of similar lengths. All of them have about the same number of tokens, and they have
  `batch_size` examples on average.

A batch is a dictionary:

- `tokens`: Token ids, int64 (N, T + 1). The last T tokens are the targets of the first T.
- `length`: Number of valid targets of each row, int64 (N,).
- `num_targets`: Sum of `length`.
- `first`: Whether a recurrent state is reset before the batch.
"""

import contextlib
import itertools
import json
from array import array
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jsonargparse.typing import OpenUnitInterval, PositiveInt
from torch import Tensor

from common.errors import UserError
from common.progress import Task
from datamodules.base import BatchedDataset, DataModule
from datamodules.cache import make_folder, sha256, token_folder
from datamodules.samplers import BatchSampler, ResumableBatchSampler
from datamodules.splits import SPLITS
from datamodules.text.records import LengthBatchSampler, Records
from datamodules.text.shards import encode_shards, join_texts, nonempty, raw_lines, text_slice
from datamodules.text.storage import Tokens, open_ids
from datamodules.text.windows import DisjointWindows, RandomWindows, Streams
from datamodules.tokenizers.base import RECORD, Tokenizer
from datamodules.tokenizers.kinds import (
    KINDS,
    Kind,
    read_tokenizer,
    tokenizer_from_json,
    tokenizer_source,
)
from datamodules.tokenizers.unseen import UNKNOWN_DATA, Unknown, handle_unseen, with_held_out

Batching = Literal["windows", "streams", "records"]
VERSION = 3  # version of the encoded files; increase it when their content changes


class TextDataModule(DataModule):
    """Base class of text data modules. A subclass implements `sources`, `shards` and `digest`.

    Args:
        Windows:
        context: Context length in tokens. If `batching` is `records`, it is the maximum number of
            tokens of a line, `<eos>` included.
        batching: Kind of training examples: `windows` at random positions of the text, `streams`
            that continue from batch to batch (for a recurrent state), or `records` (one example
            per line or document).
        Vocabulary:
        tokenizer: Kind of tokens: `char`, `byte`, `word`, or `bpe` (byte-pair encoding). The
            vocabulary of `char` is all characters of all splits; the vocabularies of `word` and
            `bpe` are learned from the training split.
        vocab_size: Maximum vocabulary size of the tokenizers `word` and `bpe`.
        tokenizer_file: File with the tokenizer to use: a checkpoint (.ckpt) of a model trained on
            text, or a `tokenizer.json` of the `tokenizers` library. Defaults to a tokenizer
            learned from the corpus.
        unknown: Handling of characters that the tokenizer of `tokenizer_file` lacks: `refuse`
            the text, or `replace` them by a space.
        Corpus:
        val_share: Share of the training text, in (0, 1), that is held out for validation. The end
            of the text is held out. Ignored if the corpus has its own validation text.
        **kwargs: Arguments of `DataModule`. `max_samples` limits training to this number of
            context windows (or lines, with `records`) at the start of the training text.
    """

    provides = (*DataModule.provides, "vocab_size", "pad_id", "special_ids")

    def __init__(
        self,
        context: PositiveInt = 64,
        batching: Batching = "windows",
        tokenizer: Kind = "char",
        vocab_size: PositiveInt = 4096,
        tokenizer_file: str | None = None,
        unknown: Unknown = "refuse",
        val_share: OpenUnitInterval = 0.1,
        batch_size: PositiveInt = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        self.context, self.batching, self.kind, self.vocab_size = (
            context,
            batching,
            tokenizer,
            vocab_size,
        )
        self.tokenizer_file, self.unknown, self.val_share = tokenizer_file, unknown, val_share

    def sources(self) -> dict[str, Any]:
        """Return a dictionary with an argument of `shards` for each split, such as its files.

        If it lacks "val", the end of the training text (`val_share`) is used for validation.
        """
        raise NotImplementedError

    def shards(self, source: Any) -> Iterator[str]:
        """Yield the text of a split in shards; `source` is the split's value in `sources()`."""
        raise NotImplementedError

    def examples(self, source: Any) -> Iterator[str]:
        """Yield the examples of `batching` `records` in order: the lines, with their line break."""
        return raw_lines(self.shards(source))

    def digest(self) -> str:
        """Return a string that changes with the content of the corpus."""
        raise NotImplementedError

    @cached_property
    def split_sources(self) -> dict[str, Any]:
        """Result of `sources()`, computed once."""
        return self.sources()

    @property
    def data_spec(self) -> dict[str, Any]:
        """Vocabulary size and ids of special tokens; the corpus is encoded first if necessary."""
        special = (
            [self.tokenizer.special(token) for token in RECORD]
            if self.batching == "records"
            else []
        )
        records = {"pad_id": special[0], "special_ids": special} if special else {}
        return {"vocab_size": self.tokenizer.vocab_size, **records}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer with which the corpus is encoded."""
        self.prepare_data()
        return tokenizer_from_json((self.cache / "tokenizer.json").read_text(encoding="utf-8"))

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
            source = tokenizer_source(Path(self.tokenizer_file))
            if not source.is_file():
                raise UserError(
                    f"data.tokenizer_file {self.tokenizer_file}: there is no such file; give a "
                    "checkpoint of a text system, or a tokenizer.json"
                )
            settings.append(sha256(source))
            settings += ["replace"] if self.unknown == "replace" else []
        return token_folder(self.root, settings)

    def prepare_data(self) -> None:
        """Encode the corpus unless it is cached. One process encodes it; the others wait."""
        make_folder(self.cache, self._encode)

    def _encode(self, folder: Path) -> None:
        """Write the tokenizer and the token ids of every split."""
        specials = RECORD if self.batching == "records" else ()
        own = [split for split in SPLITS if self.split_name(split) == split]
        clean: Callable[[str], str] = str
        if self.tokenizer_file:
            tokenizer = read_tokenizer(Path(self.tokenizer_file), specials)
            clean = handle_unseen(
                tokenizer,
                itertools.chain.from_iterable(map(self._parts, own)),
                self.unknown,
                f"the text, for data.tokenizer_file {self.tokenizer_file},",
                UNKNOWN_DATA,
            )
        else:
            tokenizer = KINDS[self.kind].train(self._texts("train"), self.vocab_size, specials)
            tokenizer = with_held_out(tokenizer, {split: self._texts(split) for split in own[1:]})
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        kind = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        for split in SPLITS:
            starts, place, characters, size = array("q", [0]), 0, 0, 0
            task = Task(f"encoding the {split} split, MB", float("inf"))
            with open(folder / f"{split}.bin", "wb") as file, contextlib.closing(task):

                def write(ids: np.ndarray) -> int:
                    file.write(ids.astype(kind).tobytes())
                    return len(ids)

                def counted(text: str, task: Task = task) -> str:
                    nonlocal characters, size
                    characters, size = characters + len(text), size + len(text.encode())
                    task.update(size // 10**6)
                    return text

                if self.batching == "records":
                    begin, end = (np.array([tokenizer.special(token)]) for token in RECORD[1:])
                    for example in map(clean, self._parts(split)):
                        ids = tokenizer.encode(counted(f"{example}\n")[:-1])
                        place += write(np.concatenate([begin, ids, end]))
                        starts.append(place)
                else:
                    texts = map(counted, map(clean, self._parts(split)))
                    for ids in encode_shards(tokenizer, texts):
                        place += write(ids)
            np.save(
                folder / f"{split}-starts.npy",
                np.array(starts if self.batching == "records" else [], np.int64),
            )
            about = {"characters": characters, "bytes": size, "dtype": kind.__name__}
            (folder / f"{split}.json").write_text(json.dumps(about), encoding="utf-8")

    @cached_property
    def _border(self) -> int:
        """Start of the validation part of the training text.

        It is the number of an example if examples are `records`, and otherwise the index of a
        character. If tokens can be longer than one character, the part starts with a new line.
        """
        source = self.split_sources["train"]
        if self.batching == "records":
            count = size = 0
            for size_of_one in map(len, self.examples(source)):
                count, size = count + 1, size + size_of_one
            starts = itertools.accumulate(map(len, self.examples(source)), initial=0)
            border = int(size * (1 - self.val_share))
            first = sum(1 for _ in itertools.takewhile(lambda start: start <= border, starts))
            return max(1, min(first, count - 1))
        total = sum(map(len, self.shards(source)))
        border = int(total * (1 - self.val_share))
        if self.kind in ("char", "byte"):
            return border
        place = border
        for text in text_slice(self.shards(source), border, total - 1):  # without the last "\n"
            if "\n" in text:
                return place + text.index("\n") + 1
            place += len(text)
        return border

    def _place(self, split: str) -> tuple[Any, int, int | None]:
        """Return the source of a split, and the slice of its text: `_border` or no limit."""
        name = self.split_name(split)
        if "val" in self.split_sources or name == "test":
            return self.split_sources[name], 0, None
        source = self.split_sources["train"]
        return (source, 0, self._border) if name == "train" else (source, self._border, None)

    def _texts(self, split: str) -> Iterator[str]:
        """Yield the text of a split in shards."""
        source, first, last = self._place(split)
        if self.batching == "records" and (first, last) != (0, None):
            return join_texts(itertools.islice(self.examples(source), first, last))
        return text_slice(self.shards(source), first, last)

    def _parts(self, split: str) -> Iterator[str]:
        """Yield what is encoded of a split: shards of its text, or single examples (`records`)."""
        source, first, last = self._place(split)
        if self.batching == "records":
            return nonempty(itertools.islice(self.examples(source), first, last))
        return self._texts(split)

    def split_name(self, split: str) -> str:
        """Return the split to load: "val" for "test" if there is no test text, else `split`."""
        return "val" if split == "test" and "test" not in self.split_sources else split

    def tokens(self, split: str) -> Tokens:
        """Return the text of a split as memory-mapped token ids."""
        self.prepare_data()
        about = json.loads((self.cache / f"{split}.json").read_text(encoding="utf-8"))
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
                    f"the {split} split has a line of {longest} tokens, more than data.context "
                    f"{self.context}: raise data.context"
                )
            return Records(ids, starts, self.data_spec["pad_id"])
        if len(ids) <= self.context:
            raise UserError(
                f"the {split} split has {len(ids)} tokens, too few for data.context "
                f"{self.context}: lower data.context, or add text"
            )
        if self.batching == "streams":
            return Streams(ids, self.context, self._rows(split), whole=split != "train")
        windows = RandomWindows if split == "train" else DisjointWindows
        return windows(ids, self.context)

    def _rows(self, split: str) -> int:
        """Return the number of rows of a batch of `streams`, summed over all ranks."""
        world = self.trainer.world_size if self.trainer else 1
        return (self.batch_size if split == "train" else self.eval_batch_size) * world

    def loader_dataset(self, split: str) -> BatchedDataset:
        """Return the dataset of a loader; a new batch size divides a text into other streams."""
        data = self.split(split)
        if isinstance(data, Streams) and data.rows != self._rows(split):
            del self._splits[split]
        return self.split(split)

    def batch_sampler(
        self, data: Any, batch_size: int, *, shuffle: bool, **options: Any
    ) -> BatchSampler:
        sampler: ResumableBatchSampler = super().batch_sampler(
            data, batch_size, shuffle=shuffle, **options
        )
        if shuffle and self.batching == "records":
            return LengthBatchSampler(np.diff(data.starts), batch_size, **options)
        # Windows are at random positions, and streams must follow the text.
        sampler.shuffle = False
        return sampler

    @property
    def changeable(self) -> set[str]:
        # The rows of streams depend on the batch size, and each row has a recurrent state.
        return super().changeable - ({"batch_size"} if self.batching == "streams" else set())

    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        rows = zip(batch["tokens"], (batch["length"] + 1).tolist())
        return {"text": [self.tokenizer.decode(row[:length].tolist()) for row, length in rows]}
