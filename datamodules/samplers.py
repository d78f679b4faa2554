"""Batch sampler that derives the order of samples and the seed of each batch from the run's seed.

No random state is stored. A run resumes exactly, because the batches from n on are a slice of
the order of samples, which is computed again.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


def mix_seed(*parts: int | str) -> int:
    """Return a 63-bit seed, the hash of all arguments.

    It is a hash, because a sum would give (seed 0, epoch 1) and (seed 1, epoch 0) equal seeds.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Request:
    """Batch that a dataset loads: indices of its samples, and the seed of its randomness."""

    index: Tensor
    seed: int


class ResumableBatchSampler:
    """Batch sampler that yields the sample indices and the seed of each batch, as a `Request`.

    The base seed and the epoch determine the order, and iteration can start at any batch. The
    batches of all W ranks together form a global batch of `W * batch_size` consecutive samples in
    the epoch's order. Rank r takes every W-th of these samples, from sample r on. The content of a
    global batch depends on its size, but not on W.

    In training, an incomplete last global batch is dropped. In evaluation, every sample occurs
    exactly once, and the last batches of two ranks may differ in size.

    Args:
        size: Number of samples.
        batch_size: Number of samples per rank and batch.
        shuffle: Whether to shuffle the samples anew in each epoch, as in training. If False, the
            samples keep their order.
        seed: Base seed of the run.
        name: Name of the split. It is part of each batch's seed, so the seeds of two splits differ.
        rank: Rank of this process.
        world: Number of processes.
        start: Index of the first batch in the first epoch; later epochs start at batch 0.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        name: str,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> None:
        self.size, self.batch_size, self.shuffle, self.seed, self.name = (
            size,
            batch_size,
            shuffle,
            seed,
            name,
        )
        self.rank, self.world, self.start = rank, world, start
        self.whole = not shuffle  # whether to keep an incomplete last batch
        self.epoch = 0
        self.sampler = self  # Lightning calls `batch_sampler.sampler.set_epoch`

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        step = self.batch_size * self.world
        return -(-self.size // step) if self.whole else self.size // step

    def __iter__(self) -> Iterator[Request]:
        start, self.start = self.start, 0
        if self.shuffle:
            order = torch.randperm(
                self.size, generator=torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
            )
        step = self.batch_size * self.world
        for number in range(start, len(self)):
            place = slice(number * step, min((number + 1) * step, self.size))
            # Without shuffling, no order is stored, so memory does not grow with the data.
            index = (order[place] if self.shuffle else torch.arange(place.start, place.stop))[
                self.rank :: self.world
            ]
            if len(index):
                yield Request(index, mix_seed(self.seed, self.name, self.rank, self.epoch, number))


def limit_batches(batches: int, limit: int | float) -> int:
    """Return the number of batches that Lightning uses in an epoch.

    Args:
        batches: Number of batches in the split.
        limit: Option `trainer.limit_train_batches`: a maximum number (int) or a fraction (float).
    """
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
