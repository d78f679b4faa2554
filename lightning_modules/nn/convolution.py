"""Output sizes of convolutions (tested against PyTorch), and initial weights of GANs."""

from torch import nn

from common.errors import UserError


def conv_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Return the output size of a convolution, floor((size + 2 padding - kernel) / stride) + 1."""
    return (size + 2 * padding - kernel) // stride + 1


def transposed_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> int:
    """Return the output size of a transposed convolution: (in - 1) s - 2 p + k + output_padding.

    A convolution with the same kernel k, stride s and padding p maps this size back to `in`. It
    maps s different sizes to `in`, because its output size is rounded down; `output_padding`
    selects one of these s sizes. The sign of p is negative, because padding crops the output.
    """
    return (size - 1) * stride - 2 * padding + kernel + output_padding


def same_padding(kernel: int) -> int:
    """Return the padding per side that gives output size ceil(in / s) in a convolution of stride s.

    Raises:
        UserError: If `kernel` is even, because even sizes need unequal padding on both sides.
    """
    if kernel % 2 == 0:
        raise UserError(
            f"a kernel of size {kernel} needs unequal padding on both sides: use an odd size"
        )
    return (kernel - 1) // 2


def init_normal(network: nn.Module, deviation: float = 0.02) -> nn.Module:
    """Initialise weights from N(0, deviation), batch-norm scales from N(1, deviation).

    `deviation` is a standard deviation; biases are set to 0. The default 0.02 is from Radford et
    al. 2016, section 4.
    """
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(part.weight, 0.0, deviation)
        elif isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d) and part.affine:
            nn.init.normal_(part.weight, 1.0, deviation)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    return network
