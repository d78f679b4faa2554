"""LSTM that works in mixed precision on every CPU."""

from typing import Any

import torch
from torch import nn


class LSTM(nn.LSTM):
    """`nn.LSTM` that computes in fp32 on CPUs without bf16 instructions.

    PyTorch's LSTM fails there under bf16 autocast: "could not create a primitive descriptor".
    """

    def forward(self, x: Any, state: Any = None) -> Any:
        if not torch.is_autocast_enabled("cpu") or torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return super().forward(x, state)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float(), state and tuple(part.float() for part in state))
