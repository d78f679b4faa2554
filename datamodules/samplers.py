"""Order of an epoch's samples and seed of each batch, as functions of the run's seed.

No random state is kept, so a run resumes exactly: skipping to batch n is a slice.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


def mix_seed(*parts: int | str) -> int:
    """Hash all parts to a 63-bit seed; sums of seeds would give overlapping streams instead."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Request:
    """Indices of the samples of one batch, and the seed of the batch."""

    index: Tensor
    seed: int


class ResumableBatchSampler:
    """Batch sampler of `Request`s whose order is a function of (seed, epoch).

    It can start at any batch. Global batch g holds the same samples for any number of ranks: rank r
    of W takes every W-th of its `W * batch_size` samples. In training, the incomplete last batch is
    dropped. In evaluation, every sample occurs exactly once, and the last batches of two ranks may
    differ in size.

    Args:
        size: Number of samples.
        batch_size: Number of samples per rank and batch.
        shuffle: Whether to shuffle in each epoch, as in training; otherwise in the given order.
        seed: Base seed of the run.
        name: Name of the split; gives training and validation different batch seeds.
        rank: Rank of this process.
        world: Number of processes.
        start: Index of the first batch in the first epoch; later epochs start at 0.
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
        self.sampler = self  # Lightning calls `sampler.set_epoch`

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
            # Without shuffling, no order is stored: memory does not grow with the data.
            index = (order[place] if self.shuffle else torch.arange(place.start, place.stop))[
                self.rank :: self.world
            ]
            if len(index):
                yield Request(index, mix_seed(self.seed, self.name, self.rank, self.epoch, number))


def limit_batches(batches: int, limit: int | float) -> int:
    """Number of batches per epoch under `trainer.limit_train_batches`, a number or a share."""
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
