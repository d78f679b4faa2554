"""Networks of a system that `export.py` writes as ONNX or pt2, for use without this template."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def generator_network(
    generator: nn.Module, latent_dim: int, classes: int
) -> dict[str, ExportedNetwork]:
    """Return the generator of a GAN, which maps noise (and labels) to images.

    Args:
        generator: Network of noise (N, latent_dim), and of one-hot labels (N, classes) or None.
        latent_dim: Size of the noise.
        classes: Number of classes; 0 for a generator without labels.
    """

    def generate(noise: Tensor, label: Tensor | None = None) -> Any:
        return generator(noise, None if label is None else F.one_hot(label, classes).float())

    label = {"label": torch.arange(2)} if classes else {}
    inputs = {"noise": torch.zeros(2, latent_dim), **label}
    return {"generator": ExportedNetwork(Method(generator, generate), inputs, ("image",))}
