"""Assignment of samples to the splits "train", "val" and "test", and fixed random subsets."""

import hashlib
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

SPLITS = ("train", "val", "test")


def split_share(key: str) -> float:
    """Map a string to a number in [0, 1) by its SHA-256, equal on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def split_of(key: str) -> str:
    """Return the split of a sample by a hash of its `key`, such as a file name.

    80 % of all keys give "train", 10 % give "val", and 10 % give "test".
    """
    share = split_share(key)
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


class Subsettable(Protocol):
    """Dataset with a `subset` method."""

    def __len__(self) -> int: ...

    def subset(self, index: Tensor) -> Self: ...


AnySubsettable = TypeVar("AnySubsettable", bound=Subsettable)


def take_subset(data: AnySubsettable, count: int | None) -> AnySubsettable:
    """Return a fixed random subset of `count` samples in their original order; None means all."""
    if count is None or count >= len(data):
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return data.subset(order[:count].sort().values)
