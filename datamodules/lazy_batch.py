"""Batch that is built at its first access."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any


class LazyBatch(Mapping[str, Any]):
    """Read-only batch that is built when a key is first read.

    Args:
        make: Function that returns the batch.
    """

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self.make = make

    @cached_property
    def content(self) -> dict[str, Any]:
        """Batch, built at the first access and then cached."""
        return self.make()

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)
