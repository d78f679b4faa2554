"""Output sizes of convolutions (tested against PyTorch), and initial weights of GANs."""

from torch import nn

from common.errors import UserError


def conv_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Return the output size of a convolution: floor((in + 2 p - k) / s) + 1."""
    return (size + 2 * padding - kernel) // stride + 1


def transposed_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> int:
    """Return the output size of a transposed convolution: (in - 1) s - 2 p + k + output_padding.

    A convolution with the same k, s and p maps this size back to `in`. Padding crops the output,
    hence the minus sign of p. A convolution rounds its output size down, so it maps s different
    sizes to `in`; `output_padding` selects one of these sizes.
    """
    return (size - 1) * stride - 2 * padding + kernel + output_padding


def same_padding(kernel: int) -> int:
    """Return the padding per side for an output of size ceil(in / s) at stride s.

    Raises:
        UserError: If `kernel` is even, since even sizes need unequal padding on both sides.
    """
    if kernel % 2 == 0:
        raise UserError(
            f"a kernel of size {kernel} needs unequal padding on both sides: use an odd size"
        )
    return (kernel - 1) // 2


def init_normal(network: nn.Module, deviation: float = 0.02) -> nn.Module:
    """Initialise weights from N(0, deviation), batch norm scales from N(1, deviation), biases 0.

    The values are from Radford et al. 2016, section 4; `deviation` is a standard deviation.
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
