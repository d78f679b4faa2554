"""Batches of sentence pairs with similar lengths, limited by their number of tokens."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from datamodules.samplers import PlannedBatchSampler


class BucketBatchSampler(PlannedBatchSampler):
    """Batch sampler that groups sentence pairs of similar lengths.

    Pairs are sorted from long to short, first by the length of their longer side, then by the
    length of their source; pairs with equal lengths are in random order. The sorted pairs are cut
    into global batches of at most `world * batch_tokens` padded tokens on either side. In training,
    the batches are then shuffled. The cuts depend only on the lengths, so all epochs have the same
    number of batches.

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
        **options: Arguments of `BatchSampler`.

    Raises:
        UserError: If there are fewer training pairs than ranks.
    """

    def __init__(
        self, lengths: np.ndarray, batch_tokens: int, *, shuffle: bool, **options: Any
    ) -> None:
        super().__init__(lengths.shape[1], batch_tokens, **options)
        self.lengths, self.shuffle = lengths, shuffle
        if shuffle and self.size < self.world:
            raise UserError(
                f"{self.size} training pairs are fewer than the {self.world} processes: add pairs, "
                "or use fewer processes"
            )
        self._length = len(self._cuts(np.sort(lengths.max(0))[::-1], batch_tokens, self.world)) - 1

    def __len__(self) -> int:
        return self._length

    def _cuts(self, longer: np.ndarray, batch_tokens: int, world: int) -> list[int]:
        cuts = token_cuts(longer, batch_tokens * world, world)
        if self.shuffle and len(cuts) > 2 and cuts[-1] - cuts[-2] < world:
            del cuts[-2]
        return cuts

    def plan(self, samples: Tensor, batch_size: int, world: int) -> list[Tensor]:
        chance = torch.arange(self.size)
        generator = self.generator()
        if self.shuffle:
            chance = torch.randperm(self.size, generator=generator)
        lengths = self.lengths[:, samples.numpy()]
        order = np.lexsort((chance[samples].numpy(), -lengths[0], -lengths.max(0)))
        cuts = self._cuts(lengths.max(0)[order], batch_size, world)
        batches = list(samples[torch.from_numpy(order)].tensor_split(cuts[1:-1]))
        if not self.shuffle:
            return batches
        if len(batches[-1]) < world:  # at the end of a resumed epoch
            del batches[-1]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


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
