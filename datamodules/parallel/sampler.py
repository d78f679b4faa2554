"""Batches of sentence pairs with similar lengths, limited by their number of tokens."""

from collections.abc import Iterator

import numpy as np
import torch

from common.errors import UserError
from datamodules.samplers import Request, mix_seed


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
                f"{world} processes are more than the {len(longer)} training pairs: add pairs, "
                "or use fewer processes"
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


def token_cuts(lengths: np.ndarray, budget: int, min_rows: int) -> list[int]:
    """Where to cut rows into batches, 0 and N included, each as large as it may be.

    Args:
        lengths: (N,) of the rows in their order.
        budget: rows of a batch times the longest of them.
        min_rows: rows that a batch has even where they are beyond the budget.
    """
    cuts = [0]
    while cuts[-1] < len(lengths):
        max_rows = max(min_rows, budget // int(lengths[cuts[-1]]))
        longest = np.maximum.accumulate(lengths[cuts[-1] : cuts[-1] + max_rows])
        rows = int(np.searchsorted(longest * np.arange(1, len(longest) + 1), budget, side="right"))
        cuts.append(min(cuts[-1] + max(min_rows, rows), len(lengths)))
    return cuts
