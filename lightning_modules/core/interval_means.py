"""Sums and counts of logged values, for their means over a logging interval."""

from typing import Any

import torch
from torch import Tensor


class IntervalMeans:
    """Sums and counts of named scalars, from which their means are computed.

    The sums stay on the device of the scalars, so `add` does not wait for the GPU.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """Names of the scalars added since the last call of `clear`."""
        return list(self._sums)

    def add(self, name: str, value: Tensor) -> None:
        """Add a scalar to the sum of `name`."""
        value = value.detach().float()
        total = self._sums.get(name)
        self._sums[name] = value.clone() if total is None else total.to(value.device) + value
        self._counts[name] = self._counts.get(name, 0) + 1

    def include(self, other: "IntervalMeans") -> None:
        """Add the sums and counts of other means."""
        for name, value in other._sums.items():
            self.add(name, value)
            self._counts[name] += other._counts[name] - 1

    def stacked(self, device: torch.device) -> Tensor:
        """Return sums and counts as one tensor (2, number of names)."""
        if not self._sums:
            return torch.empty(2, 0, device=device)
        # Sums loaded from a checkpoint are on the CPU.
        sums = torch.stack([value.to(device) for value in self._sums.values()])
        counts = torch.tensor(list(self._counts.values()), dtype=sums.dtype, device=device)
        return torch.stack([sums, counts])

    def clear(self) -> None:
        """Remove all sums and counts, which starts a new interval."""
        self._sums, self._counts = {}, {}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint: `names`, and one entry of `sums` and `counts` each."""
        self._sums = dict(zip(state["names"], state["sums"].clone()))
        self._counts = dict(zip(state["names"], map(round, state["counts"].tolist())))
