"""Context windows of a text: random, disjoint, or continued from batch to batch."""

from typing import Any

import numpy as np
import torch

from datamodules.samplers import Request, mix_seed
from datamodules.text.storage import batch_of, gather


class RandomWindows:
    """Dataset of context windows at random positions.

    An epoch has about as many tokens as the text.

    Args:
        ids: Token ids of the text (L,).
        context: Context length T in tokens.
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
    """

    def __init__(self, ids: np.ndarray, context: int, rows: int, whole: bool) -> None:
        self.ids, self.context, self.rows = ids, context, rows
        targets = len(ids) - 1
        # Number of targets per row.
        self.span = -(-targets // rows) if whole else targets // rows // context * context

    def __len__(self) -> int:
        return self.rows * -(-self.span // self.context)

    def __getitems__(self, request: Request) -> dict[str, Any]:
        step, row = np.divmod(request.index.numpy(), self.rows)
        starts = row * self.span + step * self.context
        ends = np.minimum((row + 1) * self.span, len(self.ids) - 1)
        tokens = gather(self.ids, starts, self.context + 1)
        lengths = torch.from_numpy(np.clip(ends - starts, 0, self.context))
        return batch_of(tokens, lengths, request, first=bool(step[0] == 0))
