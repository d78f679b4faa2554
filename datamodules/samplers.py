"""Order of an epoch's samples and seed of each batch, as functions of the run's seed.

No random state is kept, so a run resumes exactly: skipping to batch n is a slice.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


def mix_seed(*parts: int | str) -> int:
    """A 63-bit integer that depends on every part; unlike a sum, no two streams of it overlap."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Request:
    """One batch as the sampler asks for it: the indices to gather and the seed of the batch."""

    index: Tensor
    seed: int


class ResumableBatchSampler:
    """Yields `Request`s whose order is a function of (seed, epoch) and which can start at any
    batch.

    Global batch g holds the same samples on any number of ranks: rank r of W takes every W-th of
    its `W * batch_size` samples. In training the incomplete last batch is dropped; in evaluation
    every sample is seen exactly once, so that the last batches may differ in size between ranks.

    Args:
        size: number of samples.
        batch_size: samples per rank and batch.
        shuffle: a new order each epoch, or the given one.
        seed: base seed of the run.
        name: split, mixed into the batch seeds so that training and validation never share noise.
        start: batch of the first epoch to begin with; later epochs begin with 0.
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
        self.whole = not shuffle  # whether the last batch may be incomplete
        self.epoch = 0
        self.sampler = self  # where Lightning looks for `set_epoch`

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
            # Without an order nothing is stored, so that memory does not grow with the corpus.
            index = (order[place] if self.shuffle else torch.arange(place.start, place.stop))[
                self.rank :: self.world
            ]
            if len(index):
                yield Request(index, mix_seed(self.seed, self.name, self.rank, self.epoch, number))


def limit_batches(batches: int, limit: int | float) -> int:
    """How many of an epoch's batches `trainer.limit_train_batches` leaves: a number, or a share."""
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
