"""LSTM that works in mixed precision on every CPU."""

from typing import Any

import torch
from torch import nn


class LSTM(nn.LSTM):
    """`nn.LSTM` that computes in fp32 on CPUs without bf16 instructions.

    PyTorch's LSTM fails there under bf16 autocast: "could not create a primitive descriptor".
    """

    def forward(self, x: Any, state: Any = None) -> Any:
        """Run the layers.

        Args:
            x: Inputs (N, T, D), also as a `PackedSequence`.
            state: Initial state and cell state (L, N, width); zero by default.

        Returns:
            Hidden states (N, T, width), and the tuple of the final state and cell state.
        """
        fails = (
            torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
            and torch.backends.mkldnn.is_available()
            and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        if not fails:
            return super().forward(x, state)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float(), state and tuple(part.float() for part in state))
