"""Context windows of a text: random, disjoint, or continued from batch to batch."""

from typing import Any

import numpy as np
import torch

from common.errors import UserError
from datamodules.samplers import Request
from datamodules.text.storage import batch_of, gather


class RandomWindows:
    """Dataset of context windows at random positions.

    An epoch has about as many tokens as the text. The position of a window is a hash of the run's
    seed, the epoch and the index of the window.

    Args:
        ids: Token ids of the text (L,).
        context: Context length T in tokens.
    """

    def __init__(self, ids: np.ndarray, context: int) -> None:
        self.ids, self.context = ids, context

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.context

    def __getitems__(self, request: Request) -> dict[str, Any]:
        starts = splitmix64(request.order, request.index.numpy()) % (len(self.ids) - self.context)
        tokens = gather(self.ids, starts.astype(np.int64), self.context + 1)
        length = torch.full((len(starts),), self.context)
        return batch_of(tokens, length, request, first=True)


def splitmix64(seed: int, numbers: np.ndarray) -> np.ndarray:
    """Return the outputs of SplitMix64 (Steele et al. 2014) for a seed at given positions, uint64.

    Args:
        seed: Initial state of the generator, in [0, 2**64).
        numbers: Positions in its sequence (N,), from 0 on.
    """
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64
        z: np.ndarray = (numbers.astype(np.uint64) + 1) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed)
        z = (z ^ (z >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> 27)) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> 31)


class DisjointWindows:
    """Dataset of adjacent context windows.

    Every token of the text except the first is a target exactly once.

    Args:
        ids: Token ids of the text (L,).
        context: Context length T in tokens.
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
    """Dataset of a text that is cut into `rows` parts of equal length.

    Each batch has the next `context` tokens of every part.

    Args:
        ids: Token ids of the text (L,).
        context: Number of tokens per batch and row.
        rows: Number of rows of a batch, summed over all ranks.
        whole: Whether to use the whole text. If True, every token except the first is a target
            exactly once, and rows may be short or empty in the last batch. If False, the end of
            the text is dropped so that every row of every batch is full.

    Raises:
        UserError: If `whole` is False and the text has no full batch.
    """

    def __init__(self, ids: np.ndarray, context: int, rows: int, whole: bool) -> None:
        self.ids, self.context, self.rows = ids, context, rows
        targets = len(ids) - 1
        # Number of targets per row.
        self.span = -(-targets // rows) if whole else targets // rows // context * context
        if not whole and not self.span:
            raise UserError(
                f"the text has {len(ids)} tokens, fewer than a batch of {rows} rows of {context}: "
                "lower data.batch_size or data.context, or add text"
            )

    def __len__(self) -> int:
        return self.rows * -(-self.span // self.context)

    def __getitems__(self, request: Request) -> dict[str, Any]:
        step, row = np.divmod(request.index.numpy(), self.rows)
        starts = row * self.span + step * self.context
        ends = np.minimum((row + 1) * self.span, len(self.ids) - 1)
        tokens = gather(self.ids, starts, self.context + 1)
        lengths = torch.from_numpy(np.clip(ends - starts, 0, self.context))
        return batch_of(tokens, lengths, request, first=bool(step[0] == 0))
