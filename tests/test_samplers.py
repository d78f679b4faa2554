"""Samplers of a run that resumes with another batch size or number of processes."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datamodules.parallel.sampler import BucketBatchSampler
from datamodules.samplers import BatchSampler, Part, ResumableBatchSampler, merge
from datamodules.text.records import LengthBatchSampler

SIZE = 307
LENGTHS = np.random.default_rng(0).integers(3, 40, (2, SIZE))
Make = Callable[..., BatchSampler]
KINDS: dict[str, tuple[Make, list[int]]] = {
    "samples": (
        lambda size, **o: ResumableBatchSampler(SIZE, size, shuffle=True, **o),
        [5, 12, 40],
    ),
    "lengths": (lambda size, **o: LengthBatchSampler(LENGTHS[0], size, **o), [5, 12, 40]),
    "buckets": (
        lambda size, **o: BucketBatchSampler(LENGTHS, size, shuffle=True, **o),
        [200, 300, 900],
    ),
}


def batches(make: Make, size: int, used: list[Part], **options: Any) -> list[list[int]]:
    """Sample indices of each batch of one epoch."""
    sampler = make(size, **{"seed": 1, "name": "train", **options})
    sampler.used = used
    return [request.index.tolist() for request in sampler]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_a_changed_batch_size_neither_repeats_nor_loses_samples(kind: str, seed: int) -> None:
    """At most the remainder of the epoch, which every epoch drops, is left out.

    At each change, a training with samples also leaves out fewer samples than it has ranks.
    """
    make, sizes = KINDS[kind]
    chance = random.Random(seed)
    used: list[Part] = []
    seen: list[int] = []
    for _ in range(4):
        size, world = chance.choice(sizes), chance.choice([1, 2, 3])
        ranks = [batches(make, size, used, rank=rank, world=world) for rank in range(world)]
        count = chance.randrange(len(ranks[0]) + 1) // 3
        seen += [i for rank in ranks for batch in rank[:count] for i in batch]
        assert len({len(rank) for rank in ranks}) == 1, "all ranks have equally many batches"
        if kind == "samples":
            assert all(len({*map(len, parts)}) == 1 for parts in zip(*ranks)), "of equal size"
        used = merge([*used, Part(size, world, count)])
    rest = [i for rank in ranks for batch in rank[count:] for i in batch]
    assert len(set(seen + rest)) == len(seen + rest), "no sample is repeated"
    lost = SIZE - len(seen + rest)
    assert lost <= (0 if kind == "buckets" else size * world) + (6 if kind == "samples" else 0)
    if kind == "samples":
        sizes = [sum(map(len, parts)) for parts in zip(*ranks)]
        step = size * world
        assert all(0.5 * step - world < one <= 1.5 * step for one in sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_epoch_ends_at_its_usual_batch(kind: str) -> None:
    """Lightning counts batches of the new size, so numbers end as in an epoch without a change."""
    make, (small, _, large) = KINDS[kind]
    sampler = make(large, seed=1, name="train")
    used = [Part(small, 1, 7)]
    numbers = [number for number, _ in sampler.global_batches(used)]
    assert numbers == list(range(numbers[0], len(sampler)))
    sampler.used = used
    assert sampler.start() == numbers[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_resume_with_the_same_size_continues_the_batches(kind: str) -> None:
    make, (small, _, large) = KINDS[kind]
    first = batches(make, large, [Part(small, 1, 7)])
    assert batches(make, large, [Part(small, 1, 7), Part(large, 1, 2)]) == first[2:]


def test_fixed_order_repeats_the_samples_with_other_seeds() -> None:
    """`overfit_batches` trains on the same batches in every epoch."""
    sampler = ResumableBatchSampler(SIZE, 10, shuffle=True, seed=1, name="train")
    sampler.fixed_order = True
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append([(request.index.tolist(), request.seed) for request in sampler][:2])
    assert [index for index, _ in epochs[0]] == [index for index, _ in epochs[1]]
    assert {seed for _, seed in epochs[0]}.isdisjoint({seed for _, seed in epochs[1]})


@pytest.mark.parametrize(
    ("make", "size", "used"),
    [
        (lambda size, **o: ResumableBatchSampler(25, size, shuffle=True, **o), 1, Part(1, 1, 3)),
        (lambda size, **o: BucketBatchSampler(LENGTHS[:, :42], size, shuffle=True, **o), 40,
         Part(40, 1, 25)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("world", [2, 4])
def test_more_ranks_have_equal_numbers_of_batches(
    make: Make, size: int, used: Part, world: int
) -> None:
    """Otherwise the ranks would wait for each other."""
    ranks = [batches(make, size, [used], rank=rank, world=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    assert all(index for rank in ranks for index in rank)
