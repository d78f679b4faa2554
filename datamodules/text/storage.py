"""Memory-mapped token ids of encoded corpora, gathered batch by batch."""

import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.samplers import Request


class Tokens(NamedTuple):
    """One split of a corpus, encoded as token ids.

    Attributes:
        ids: Token ids, memory-mapped uint16 or uint32 (L,).
        starts: Start index of each record in `ids`, and end of the last record, int64 (R + 1,).
            Empty if the split is not cut into records.
        characters: Number of characters of the text.
        bytes: Number of bytes of the text in UTF-8.
    """

    ids: np.ndarray
    starts: np.ndarray
    characters: int
    bytes: int

    @property
    def targets(self) -> int:
        """Number of predicted tokens: all but the first token of the split or of each record."""
        return len(self.ids) - max(1, len(self.starts) - 1)


def gather(ids: np.ndarray, starts: np.ndarray, width: int) -> Tensor:
    """Gather `width` consecutive ids from each of N start indices, int64 (N, width).

    Positions past the end of `ids` repeat the last id.
    """
    place = np.minimum(starts[:, None] + np.arange(width), len(ids) - 1)
    rows = torch.from_numpy(ids[place].astype(np.int64))
    mapped = getattr(ids, "_mmap", None)
    # Release the pages, which otherwise count as memory of the process; Windows cannot.
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
    return rows


def padded(
    ids: np.ndarray, starts: np.ndarray, index: np.ndarray, pad_id: int
) -> tuple[Tensor, Tensor]:
    """Gather rows of different lengths, and pad them to the longest row.

    Args:
        ids: Token ids of all rows, concatenated (L,).
        starts: Start index of each row in `ids`, and end of the last row, int64 (R + 1,).
        index: Indices of the rows to gather (N,).
        pad_id: Id of the padding token.

    Returns:
        Token ids, int64 (N, length of the longest row), and length of each row, int64 (N,).
    """
    lengths = torch.from_numpy(starts[index + 1] - starts[index])
    rows = gather(ids, starts[index], int(lengths.max()))
    rows[torch.arange(rows.shape[1]) >= lengths[:, None]] = pad_id
    return rows, lengths


def open_ids(path: Path, dtype: str) -> np.ndarray:
    """Memory-map a file of token ids; for an empty file, which cannot be mapped, return no ids."""
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


def batch_of(tokens: Tensor, length: Tensor, request: Request, *, first: bool) -> dict[str, Any]:
    """Return a text batch; `first` is True if a recurrent state is reset before it."""
    parts = {"tokens": tokens, "length": length, "num_targets": int(length.sum()), "first": first}
    return {**parts, "index": request.index, "seed": request.seed}
