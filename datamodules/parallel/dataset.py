"""Files of encoded sentence pairs, and a dataset that gathers batches of them."""

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from datamodules.samplers import Request
from datamodules.text.storage import padded
from datamodules.tokenizers.base import Tokenizer


class Rows(NamedTuple):
    """Sources or targets of an encoded split, one sentence per row.

    Attributes:
        ids: Token ids of all rows, concatenated and memory-mapped (L,).
        starts: Start index of each row in `ids`, and end of the last row, int64 (R + 1,).
    """

    ids: np.ndarray
    starts: np.ndarray


class SentencePairs:
    """Dataset of encoded sentence pairs.

    Args:
        source: Source rows, which end with `<eos>`.
        target: Target rows, which start with `<bos>` and end with `<eos>`.
        pad_id: Id of the padding token.
        lines: Index of the row of each pair in `source` and `target`, int64 (N,).
    """

    def __init__(self, source: Rows, target: Rows, pad_id: int, lines: np.ndarray) -> None:
        self.source, self.target, self.pad_id, self.lines = source, target, pad_id, lines

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def lengths(self) -> np.ndarray:
        """Number of source and of target tokens of each pair, `<eos>` included, int64 (2, N)."""
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
            "num_targets": int((target_length - 1).sum()),
            "index": request.index,
            "seed": request.seed,
        }


def id_type(tokenizer: Tokenizer) -> str:
    """Return the name of the smallest integer type that can store all ids of a tokenizer."""
    return np.min_scalar_type(tokenizer.vocab_size - 1).name


def write_rows(
    path: Path, lines: Iterable[str], tokenizer: Tokenizer, before: list[str], after: list[str]
) -> None:
    """Encode lines and write them to three files.

    Args:
        path: Common prefix of the three files: token ids (`.bin`), start of each row
            (`-starts.npy`) and text lines (`.txt`).
        lines: Lines to encode.
        tokenizer: Tokenizer of the lines.
        before: Special tokens at the start of each row.
        after: Special tokens at the end of each row.
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
