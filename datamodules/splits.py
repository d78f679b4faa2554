"""Assignment of samples to the splits "train", "val" and "test", and fixed random subsets."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from common.errors import UserError

SPLITS = ("train", "val", "test")

# Names of files and folders that hold one split, in lower case.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF_NAME = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def split_named(name: str) -> str | None:
    """Return the split that a file or folder name stands for, in any case; None for other names."""
    return SPLIT_OF_NAME.get(name.lower())


def split_paths(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the path of each split among files and folders, by their names without extension.

    Args:
        paths: Files or folders of one folder. Other names than those of splits are ignored.

    Returns:
        Paths keyed by "train", "val" and "test"; a split without a path has no key.

    Raises:
        UserError: If two paths stand for the same split, or if there is validation or test data but
            no training data.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        split = split_named(path.name if path.is_dir() else path.stem)
        if split is None:
            continue
        if split in found:
            raise UserError(
                f"{found[split]} and {path} are both the {split} split; rename or remove one"
            )
        found[split] = path
    if found and "train" not in found:
        held_out = " and ".join(str(path) for path in found.values())
        raise UserError(
            f"{held_out}: there is no training data beside it; name the training data train"
        )
    return found


def split_share(key: str) -> float:
    """Map a string to a number in [0, 1) by its SHA-256, equal on every machine."""
    return (
        int.from_bytes(hashlib.sha256(key.encode(errors="surrogateescape")).digest()[:8], "big")
        / 2**64
    )


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
