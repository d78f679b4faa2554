"""Networks of a system that `export.py` writes as ONNX or pt2, for use without this template."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn


class Method(nn.Module):
    """Network whose forward pass is a method of a system.

    Args:
        weights: Part of the system that contains all weights of the method. A pt2 file stores all
            weights of this part.
        method: Method that maps tensors to a tensor or to a tuple of tensors.
    """

    def __init__(self, weights: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.weights, self.method = weights, method

    def forward(self, *inputs: Tensor) -> Any:
        return self.method(*inputs)


class ExportedNetwork(NamedTuple):
    """Network to export.

    Attributes:
        module: Network of tensors, whose first dimension is the batch.
        inputs: Example of each input, with 2 rows.
        outputs: Names of the outputs.
        dynamic: Names of the dimensions that may change, by input and dimension. Defaults to the
            batch: dimension 0 of all inputs.
        packed: Whether the network uses packed sequences, which `torch.export` does not support.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]] | None = None
    packed: bool = False
