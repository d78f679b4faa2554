"""Key-value cache: keys and values of earlier tokens, for decoding one token at a time."""

import torch
from torch import Tensor


class KVCache:
    """Keys and values of all tokens so far, preallocated for `max_length` tokens.

    All rows have the same length. In a forward pass, each layer calls `extend`. The network then
    adds the number of new tokens to `length`.

    Args:
        layers: Number of layers that store keys and values.
        max_length: Maximum number of tokens in a row.

    Attributes:
        values: Keys and values (layers, 2, N, H, max_length, D), allocated by the first `extend`
            with the data type and device of the given keys.
        length: Number of tokens stored by all layers.
    """

    def __init__(self, layers: int, max_length: int) -> None:
        self.layers, self.max_length = layers, max_length
        self.values: Tensor | None = None
        self.length = 0
        # `_writers` (N, max_length) contains the index of the row that computed the keys and values
        # at each position before `_ordered`. Rows with equal indices at a position have equal keys
        # and values there.
        self._writers: Tensor | None = None
        self._ordered = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (N, H, T, D) of new tokens to a layer.

        Returns:
            Keys and values (N, H, length + T, D) of all tokens.
        """
        rows, heads, new, width = keys.shape
        if self.values is None:
            self.values = keys.new_zeros(self.layers, 2, rows, heads, self.max_length, width)
        cached, end = self.values[layer], self.length + new
        cached[0, :, :, self.length : end] = keys
        cached[1, :, :, self.length : end] = values
        if self.length == 0:
            return keys, values
        return cached[0, :, :, :end], cached[1, :, :, :end]

    def reorder(self, rows: Tensor) -> None:
        """Select the rows with indices `rows` (K,), in this order; an index may be repeated.

        Rows are overwritten in place. Only positions at which the old and the new row differ are
        copied, because the hypotheses of a beam share most of their history.
        """
        assert self.values is not None
        old = self.values.shape[2]
        if self._writers is None:
            self._writers = torch.zeros(old, self.max_length, dtype=torch.int64, device=rows.device)
        written = torch.arange(old, device=rows.device)[:, None]
        self._writers[:, self._ordered : self.length] = written
        self._ordered = self.length
        writers = self._writers[rows]
        if len(rows) > old:
            self.values = self.values[:, :, rows]
        else:
            differs = (writers != self._writers[: len(rows)])[:, : self.length]
            row, position = differs.nonzero(as_tuple=True)
            copied = self.values[:, :, rows[row], :, position]
            self.values = self.values[:, :, : len(rows)]
            self.values[:, :, row, :, position] = copied
        self._writers = writers


class GrowingCache:
    """Cache that concatenates tensors instead of writing in place, as exported networks need it.

    Args:
        past: Keys and values (N, layers, 2, H, P, D) of P earlier tokens.

    Attributes:
        length: Number P of earlier tokens.
    """

    def __init__(self, past: Tensor) -> None:
        self.past, self.length = past, past.shape[4]
        self.layers: list[Tensor] = []

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (N, H, T, D) of new tokens to a layer, and return all of them."""
        joined = torch.cat([self.past[:, layer], torch.stack([keys, values], 1)], 3)
        self.layers.append(joined)
        return joined[:, 0], joined[:, 1]

    def extended(self) -> Tensor:
        """Return keys and values (N, layers, 2, H, P + T, D) of all tokens."""
        return torch.stack(self.layers, 1)
