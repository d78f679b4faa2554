"""Encoded corpora as memory-mapped token ids, gathered a batch at a time."""

import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.samplers import Request


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


def batch_of(tokens: Tensor, length: Tensor, request: Request, *, first: bool) -> dict[str, Any]:
    """The dictionary that all of them give."""
    parts = {"tokens": tokens, "length": length, "num_targets": int(length.sum()), "first": first}
    return {**parts, "index": request.index, "seed": request.seed}
