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

    @torch.no_grad()
    def add(self, values: dict[str, Tensor]) -> None:
        """Add scalars to the sums of their names."""
        for name in values:
            self._counts[name] = self._counts.get(name, 0) + 1
        pairs = [(self._sums.get(name), value) for name, value in values.items()]
        if all(total is not None and total.device == value.device for total, value in pairs):
            torch._foreach_add_([self._sums[name] for name in values], list(values.values()))
            return
        for name, value in values.items():
            total = self._sums.get(name)
            value = value.detach().float()
            self._sums[name] = value.clone() if total is None else total.to(value.device) + value

    def include(self, other: "IntervalMeans") -> None:
        """Add the sums and counts of other means."""
        self.add(other._sums)
        for name, count in other._counts.items():
            self._counts[name] += count - 1

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
