"""Batch samplers that derive the order of samples and the seed of each batch from the run's seed.

No random state is stored. A resumed run computes the order of the epoch again and leaves out the
samples that it has used. Its position is a list of `Part`: how many batches of which size were used
in this epoch. A run can therefore resume with another batch size or number of processes, and uses
every remaining sample of the epoch at most once; at the change, fewer samples than there are
processes may be left out.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    """Batch that a dataset loads.

    Attributes:
        index: Indices of the samples, int64 (N,).
        seed: Seed of the batch's randomness, which differs between ranks.
        order: Seed of the epoch's order, which is equal on all ranks.
    """

    index: Tensor
    seed: int
    order: int = 0


class Part(NamedTuple):
    """Part of an epoch that was trained with one batch size and number of processes.

    Attributes:
        batch_size: Batch size per process, in the unit of the sampler (samples or tokens).
        world: Number of processes.
        batches: Number of global batches.
    """

    batch_size: int
    world: int
    batches: int


class BatchSampler:
    """Base class of batch samplers; yields the sample indices and seed of each batch (`Request`).

    The batches of all W ranks together form a global batch. Rank r takes every W-th of its samples,
    from sample r on. The content of a global batch depends on its size, but not on W.

    Args:
        batch_size: Size of a batch per rank.
        seed: Base seed of the run.
        name: Name of the split. It is part of each batch's seed, so the seeds of two splits differ.
        rank: Rank of this process.
        world: Number of processes.

    Attributes:
        epoch: Number of the epoch, which determines the order of the samples.
        fixed_order: Whether all epochs have the order of epoch 0; seeds of batches still differ.
        repeats: Whether all epochs have the order and the seeds of epoch 0, as in evaluation.
        used: Parts of the first epoch to leave out; later epochs start at their first batch.
    """

    def __init__(
        self, batch_size: int, *, seed: int, name: str, rank: int = 0, world: int = 1
    ) -> None:
        self.batch_size, self.seed, self.name = batch_size, seed, name
        self.rank, self.world = rank, world
        self.epoch = 0
        self.fixed_order = self.repeats = False
        self.used: Sequence[Part] = ()
        self.sampler = self  # Lightning calls `batch_sampler.sampler.set_epoch`

    def set_epoch(self, epoch: int) -> None:
        self.epoch = 0 if self.repeats else epoch

    @property
    def order(self) -> int:
        """Seed of the epoch's order."""
        return mix_seed(self.seed, 0 if self.fixed_order else self.epoch)

    def generator(self) -> torch.Generator:
        """Return the generator of the epoch's order."""
        return torch.Generator().manual_seed(self.order)

    def start(self) -> int:
        """Return the number of the first batch after the parts in `used`."""
        return next((number for number, _ in self.global_batches(self.used)), len(self))

    def __len__(self) -> int:
        raise NotImplementedError

    def global_batches(self, used: Sequence[Part]) -> Iterator[tuple[int, Tensor]]:
        """Yield the number and the sample indices of each global batch after the parts `used`."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Request]:
        used, self.used = self.used, ()
        for number, samples in self.global_batches(used):
            index = samples[self.rank :: self.world]
            if len(index):
                seed = mix_seed(self.seed, self.name, self.rank, self.epoch, number)
                yield Request(index, seed, self.order)


class ResumableBatchSampler(BatchSampler):
    """Batch sampler of batches with an equal number of samples.

    In training, an incomplete last global batch is dropped. In evaluation, every sample occurs
    exactly once, and the last batches of two ranks may differ in size.

    After a change of the batch size within an epoch, the first batch has between a half and one and
    a half times the new size, less the samples that cannot be divided equally between the ranks.
    All later batches are those of an epoch with the new size.

    Args:
        size: Number of samples.
        batch_size: Number of samples per rank and batch.
        shuffle: Whether to shuffle the samples anew in each epoch, as in training. If False, the
            samples keep their order.
        whole: Whether to keep an incomplete last batch; by default only without `shuffle`.
        permute: Function that returns the shuffled order of all samples, int64 (N,). Defaults to a
            random permutation.
        **options: Arguments of `BatchSampler`.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        shuffle: bool,
        whole: bool | None = None,
        permute: Callable[[torch.Generator], Tensor] | None = None,
        seed: int,
        name: str,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(batch_size, seed=seed, name=name, rank=rank, world=world)
        self.size, self.shuffle = size, shuffle
        self.permute = permute or (lambda generator: torch.randperm(size, generator=generator))
        self.whole = not shuffle if whole is None else whole

    def __len__(self) -> int:
        step = self.batch_size * self.world
        return -(-self.size // step) if self.whole else self.size // step

    def _first_end(self, place: int, step: int, world: int) -> int:
        """Return the end of the batch from sample `place`, in general a multiple of `step`."""
        end = place - place % step + step
        short = 2 * (end - place) < step or end - place < world
        return min(end + step, self.size) if short else end

    def global_batches(self, used: Sequence[Part]) -> Iterator[tuple[int, Tensor]]:
        place = 0
        for part in used:
            step = part.batch_size * part.world
            if part.batches:
                place = self._first_end(place, step, part.world) + (part.batches - 1) * step
        step = self.batch_size * self.world
        end = self._first_end(place, step, self.world)
        # Without shuffling, no order is stored, so memory does not grow with the data.
        order = self.permute(self.generator()) if self.shuffle else None
        # In training, every rank needs a sample of each batch.
        while place < self.size if self.whole else place + self.world <= end <= self.size:
            stop = min(end, self.size)
            if not self.whole:  # batches of training have the same size on all ranks
                stop -= (stop - place) % self.world
            yield end // step - 1, torch.arange(place, stop) if order is None else order[place:stop]
            place, end = end, end - end % step + step


class PlannedBatchSampler(BatchSampler):
    """Base class of samplers whose batches are not parts of one order, such as length buckets.

    A subclass implements `plan` and `__len__`.

    Args:
        size: Number of samples.
        batch_size: Size of a batch per rank.
        **options: Arguments of `BatchSampler`.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int, name: str, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__(batch_size, seed=seed, name=name, rank=rank, world=world)
        self.size = size

    def plan(self, samples: Tensor, batch_size: int, world: int) -> list[Tensor]:
        """Divide samples (N,) into the global batches of an epoch, in the order of training."""
        raise NotImplementedError

    def global_batches(self, used: Sequence[Part]) -> Iterator[tuple[int, Tensor]]:
        left, skip = torch.arange(self.size), 0
        for position, part in enumerate(used):
            same = part[:2] == (self.batch_size, self.world)
            if same and position == len(used) - 1:  # the batches of this part continue
                skip = part.batches
                continue
            batches = self.plan(left, part.batch_size, part.world)
            mask = torch.zeros(self.size, dtype=torch.bool)
            mask[left] = True
            for batch in batches[: part.batches]:
                mask[batch] = False
            left = mask.nonzero()[:, 0]
        batches = self.plan(left, self.batch_size, self.world)
        # If the batch size has changed, the numbers continue such that the epoch ends as always.
        first = len(self) - len(batches)
        yield from enumerate(batches[skip:], first + skip)


def merge(parts: Sequence[Part]) -> list[Part]:
    """Join consecutive parts of equal batch size and number of processes."""
    merged: list[Part] = []
    for part in parts:
        if merged and merged[-1][:2] == part[:2]:
            merged[-1] = part._replace(batches=merged[-1].batches + part.batches)
        else:
            merged.append(part)
    return merged


def accumulated_batches(trainer: Any, module: Any) -> int:
    """Return the number of batches per process whose gradients make one update of a system."""
    return int(trainer.accumulate_grad_batches * getattr(module, "accumulate", 1))


def limit_batches(batches: int, limit: int | float) -> int:
    """Return the number of batches that Lightning uses in an epoch.

    Args:
        batches: Number of batches in the split.
        limit: Option `trainer.limit_train_batches`: a maximum number (int) or a fraction (float).
    """
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
