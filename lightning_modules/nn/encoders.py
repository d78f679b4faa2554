"""Fully connected and convolutional encoders (images to vectors) and decoders (vectors to images).

Images have the shape (N, C, H, W), vectors the shape (N, D).
"""

import itertools
from math import prod

from torch import Tensor, nn

from common.errors import UserError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "elu": nn.ELU,
}


def mlp(widths: list[int], activation: str) -> nn.Sequential:
    """Build linear layers of the given widths, with an activation after each layer but the last.

    Weights are initialised from the uniform distribution of Glorot and Bengio 2010, Eq. 16; biases
    are initialised with 0.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def conv_grid(image_shape: list[int], channels: list[int]) -> tuple[int, int]:
    """Return the height and width of an image after `len(channels)` halvings.

    Raises:
        UserError: If a side is not a multiple of 2 ** len(channels).
    """
    step = 2 ** len(channels)
    _, height, width = image_shape
    if height % step or width % step:
        raise UserError(
            f"images of {height}x{width} cannot be halved {len(channels)} times: sides must be "
            f"multiples of {step}; change data.size or data.pad"
        )
    return height // step, width // step


class ConvEncoder(nn.Sequential):
    """Encoder of 4x4 convolutions, which each halve height and width, and one linear layer.

    A convolution of stride 2 has output size (in + 2 * padding - kernel) // stride + 1 = in / 2.

    Raises:
        UserError: If `channels` is empty, or a side is not a multiple of 2 ** len(channels).
    """

    def __init__(
        self, image_shape: list[int], channels: list[int], features: int, extra_channels: int = 0
    ) -> None:
        if not channels:
            raise UserError("model.hidden must have at least one number of channels (got [])")
        height, width = conv_grid(image_shape, channels)
        layers: list[nn.Module] = []
        for inputs, outputs in zip([image_shape[0] + extra_channels, *channels], channels):
            layers += [
                nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.SiLU(),
            ]
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels[-1] * height * width, features))


class ConvDecoder(nn.Sequential):
    """Decoder of one linear layer and 4x4 transposed convolutions of stride 2.

    Each transposed convolution doubles the size: (in - 1) * stride - 2 * padding + kernel = 2 * in.
    """

    def __init__(self, image_shape: list[int], channels: list[int], features: int) -> None:
        height, width = conv_grid(image_shape, channels)
        first = channels[-1]
        layers: list[nn.Module] = [
            nn.Linear(features, first * height * width, bias=False),
            nn.Unflatten(1, (first, height, width)),
            nn.BatchNorm2d(first),
            nn.SiLU(),
        ]
        for inputs, outputs in zip(channels[::-1], channels[-2::-1]):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.SiLU(),
            ]
        super().__init__(*layers, nn.ConvTranspose2d(channels[0], image_shape[0], 4, 2, 1))


class MLPEncoder(nn.Sequential):
    """Fully connected encoder that maps images (N, C, H, W) to vectors (N, features)."""

    def __init__(self, inputs: int, hidden: list[int], features: int, activation: str) -> None:
        super().__init__(nn.Flatten(), mlp([inputs, *hidden, features], activation))


class MLPDecoder(nn.Sequential):
    """Fully connected decoder that maps vectors (N, features) to images (N, *image_shape).

    `hidden` lists the hidden sizes in the order of the encoder; the decoder reverses them.
    """

    def __init__(
        self, features: int, hidden: list[int], image_shape: list[int], activation: str
    ) -> None:
        super().__init__(
            mlp([features, *hidden[::-1], prod(image_shape)], activation),
            nn.Unflatten(1, tuple(image_shape)),
        )


def output_bias(decoder: nn.Module) -> Tensor:
    """Return the bias of a decoder's last layer: one number per pixel (MLP) or channel (conv)."""
    layers = [
        part for part in decoder.modules() if isinstance(part, nn.Linear | nn.ConvTranspose2d)
    ]
    assert layers[-1].bias is not None
    return layers[-1].bias
