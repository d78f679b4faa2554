"""A batch that is read only if somebody uses it."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any


class LazyBatch(Mapping[str, Any]):
    """Mapping whose content is made at its first use.

    Args:
        make: Makes the content.
    """

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self.make = make

    @cached_property
    def content(self) -> dict[str, Any]:
        """All keys and values."""
        return self.make()

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)
