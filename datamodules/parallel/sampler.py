"""Batches of sentence pairs with similar lengths, limited by their number of tokens."""

from collections.abc import Iterator

import numpy as np
import torch

from common.errors import UserError
from datamodules.samplers import Request, mix_seed


class BucketBatchSampler:
    """Batch sampler that groups sentence pairs of similar lengths.

    It yields the pair indices and the seed of each batch, as a `Request`. The order of the batches
    is a function of (seed, epoch), and iteration can start at any batch. Pairs are sorted from long
    to short, first by the length of their longer side, then by the length of their source; pairs
    with equal lengths are in random order. The sorted pairs are cut into global batches of at most
    `world * batch_tokens` padded tokens on either side. In training, the batches are then shuffled.
    The cuts depend only on the lengths, so all epochs have the same number of batches.

    Rank r of W takes every W-th pair of each global batch, starting at pair r. W ranks thus process
    the same pairs as one rank with W times as many tokens. In training, a last batch with fewer
    pairs than ranks is merged into the batch before, so every rank gets pairs of each batch. In
    evaluation, such a batch is kept, and some ranks get none of its pairs.

    Args:
        lengths: Number of tokens of each source and of each target, int64 (2, N).
        batch_tokens: Maximum number of padded tokens per rank and batch (number of pairs times
            length of the longest sentence), averaged over the ranks. A batch of one pair per rank
            may exceed the maximum.
        shuffle: Whether to shuffle the batches in each epoch, as in training. If False, batches are
            ordered from long to short sentences.
        seed: Base seed of the order and of the batch seeds.
        name: Name of the split. It is part of each batch's seed, so the seeds of two splits differ.
        rank: Rank of this process.
        world: Number of processes.
        start: Index of the first batch in the first epoch. Later epochs start at batch 0.

    Raises:
        UserError: If there are fewer training pairs than ranks.
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
                f"{len(longer)} training pairs are fewer than the {world} processes: add pairs, "
                "or use fewer processes"
            )
        if shuffle and self.cuts[-1] - self.cuts[-2] < world:
            del self.cuts[-2]
        self.epoch = 0
        self.sampler = self  # Lightning calls `sampler.set_epoch`

    def _by_length(self, chance: np.ndarray) -> np.ndarray:
        """Return the indices of the pairs from long to short; `chance` (N,) orders equal ones."""
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
    """Cut rows into batches that are as large as the budget allows.

    Args:
        lengths: Lengths (N,) of the rows in the order in which they are cut.
        budget: Maximum number of padded tokens of a batch: number of rows times longest length.
        min_rows: Minimum number of rows of a batch, even if they exceed the budget.

    Returns:
        Index of the first row of each batch, in increasing order, followed by N.
    """
    cuts = [0]
    while cuts[-1] < len(lengths):
        max_rows = max(min_rows, budget // int(lengths[cuts[-1]]))
        longest = np.maximum.accumulate(lengths[cuts[-1] : cuts[-1] + max_rows])
        rows = int(np.searchsorted(longest * np.arange(1, len(longest) + 1), budget, side="right"))
        cuts.append(min(cuts[-1] + max(min_rows, rows), len(lengths)))
    return cuts
