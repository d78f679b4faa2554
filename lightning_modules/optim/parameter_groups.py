"""Parameter groups of optimizers, with and without weight decay."""

from collections.abc import Iterable
from typing import Any

from torch import nn


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Build one group with weight decay for matrices, one without it for gains and biases."""
    own = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in own if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in own if p.dim() < 2], "weight_decay": 0.0},
    ]
