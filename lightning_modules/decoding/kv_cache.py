"""Keys and values of tokens that were processed, for decoding one token at a time."""

from typing import cast

import torch
from torch import Tensor


class KVCache:
    """Keys and values of everything that was read, preallocated for the whole context.

    Args:
        layers: L.
        rows: N.
        heads: H.
        context: T, most tokens of a row.
        device: where it is.
        width: D, of a head.

    Attributes:
        values: (L, 2, N, H, T, D), of the kind of numbers that the first keys have.
        history: all tokens of each row, also those that the context has lost.
        lengths: filled columns of each row.
        rows: those that are read or written, (K,).
        place: the column that each row's one token goes to, or the one of all of them; None where
            several tokens are read at once.
        seen: columns that anybody sees.
        mask: which of them each row sees, (N, 1, 1, seen), where they are not all.
        writers: (N, T), which row was the one that wrote each column: where two rows have the same
            one, they are the same.
    """

    def __init__(
        self, layers: int, rows: int, heads: int, context: int, width: int, device: torch.device
    ) -> None:
        self.size = (layers, 2, rows, heads, context, width)
        self.values: Tensor | None = None
        self.history: list[list[int]] = [[] for _ in range(rows)]
        self.lengths = [0] * rows
        self.rows = torch.arange(rows, device=device)
        self.writers = self.rows[:, None].repeat(1, context)
        self.place: Tensor | int | None = None
        self.seen, self.mask = 0, cast(Tensor | None, None)

    def select(self, rows: Tensor) -> None:
        """Keep rows (K,), in that order; one may be kept several times. Only that is moved which a
        row does not have in common with the one whose place it takes: texts that are followed
        together have most of it.
        """
        assert self.values is not None
        writers = self.writers[rows]
        if len(rows) > len(self.writers):
            self.values = self.values[:, :, rows]
        else:
            row, column = (writers != self.writers[: len(rows)])[:, : max(self.lengths)].nonzero(
                as_tuple=True
            )
            moved = self.values[:, :, rows[row], :, column]
            self.values = self.values[:, :, : len(rows)]
            self.values[:, :, row, :, column] = moved
        self.writers = writers
        self.lengths = [self.lengths[row] for row in rows.tolist()]
        self.rows = torch.arange(len(rows), device=rows.device)

    def write_at(self, places: list[int]) -> None:
        """The column that each row's next token goes to: what all layers need to know of it, made
        once.
        """
        self.seen, self.lengths = max(places) + 1, [place + 1 for place in places]
        self.place, self.mask = (
            places[0] if len(set(places)) == 1 else torch.tensor(places, device=self.rows.device),
            None,
        )
        self.writers[self.rows, self.place] = self.rows
        if isinstance(self.place, Tensor):
            self.mask = (torch.arange(self.seen, device=self.place.device) <= self.place[:, None])[
                :, None, None
            ]  # (N, 1, 1, seen)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values (K, H, S, D); all that may be attended to, where `mask` is True if
        there is one.
        """
        if self.values is None:
            self.values = keys.new_zeros(self.size)
        kept = self.values[layer]
        if self.place is None:
            kept[:, self.rows, :, : keys.shape[2]] = torch.stack([keys, values])
            return keys, values
        if isinstance(self.place, int):
            kept[0, :, :, self.place], kept[1, :, :, self.place] = keys[:, :, 0], values[:, :, 0]
        else:
            kept[0, self.rows, :, self.place], kept[1, self.rows, :, self.place] = (
                keys[:, :, 0],
                values[:, :, 0],
            )
        return kept[0, :, :, : self.seen], kept[1, :, :, : self.seen]
