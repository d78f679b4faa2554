"""Sizes of strided and transposed convolutions, tested against PyTorch, and how their weights begin
in adversarial systems.
"""

from torch import nn

from common.errors import UserError


def conv_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Output size of a convolution: floor((in + 2 p - k) / s) + 1."""
    return (size + 2 * padding - kernel) // stride + 1


def transposed_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> int:
    """Output size of a transposed convolution: (in - 1) s - 2 p + k + output_padding.

    It is the size whose convolution with the same k, s and p gives `in` back. Padding is cut off
    the output, hence its minus sign; `output_padding` picks one of the s sizes that the
    convolution's floor makes equal.
    """
    return (size - 1) * stride - 2 * padding + kernel + output_padding


def same_padding(kernel: int) -> int:
    """Padding on each side with which a convolution of stride 1 keeps the size, and one of stride s
    gives ceil(in / s).

    Raises:
        UserError: if the kernel is even, which would need one more on one side than on the other.
    """
    if kernel % 2 == 0:
        raise UserError(
            f"a kernel of {kernel} has no padding that is the same on both sides: take an odd one"
        )
    return (kernel - 1) // 2


def init_normal(network: nn.Module, deviation: float = 0.02) -> nn.Module:
    """Weights from N(0, deviation), batch norm scales from N(1, deviation), biases 0 (Radford et
    al. 2016, section 4).
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
