"""Residual blocks of the discrete VAE, as in the released code of Ramesh et al. 2021.

The code is in `dall_e/encoder.py` and `dall_e/decoder.py`.
"""

from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Build a convolution that keeps the image size; `kernel` must be odd.

    Initial weights are from N(0, 1 / fan-in), and biases are 0.
    """
    made = nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2)
    nn.init.normal_(made.weight, 0.0, (inputs * kernel**2) ** -0.5)
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


class Bottleneck(nn.Module):
    """Residual block of four convolutions, with a quarter of the output channels inside.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels, a multiple of 4.
        kernels: Kernel sizes of the four convolutions.
        gain: Factor by which the output of the branch is multiplied.
    """

    def __init__(self, inputs: int, outputs: int, kernels: list[int], gain: float) -> None:
        super().__init__()
        inner, self.gain = outputs // 4, gain
        self.skip = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        widths = [(inputs, inner), (inner, inner), (inner, inner), (inner, outputs)]
        self.branch = nn.Sequential(
            *(
                part
                for width, kernel in zip(widths, kernels)
                for part in (nn.ReLU(), conv(*width, kernel))
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.gain * self.branch(x)


def bottlenecks(
    inputs: int, widths: list[int], blocks: int, kernels: list[int], between: nn.Module, gain: float
) -> nn.Sequential:
    """Build groups of bottleneck blocks, each group with its own number of channels.

    Args:
        inputs: Number of input channels.
        widths: Number of channels of each group.
        blocks: Number of blocks in a group.
        kernels: Kernel sizes of the four convolutions in each block.
        between: Module between two groups, such as a pooling layer.
        gain: Factor by which the output of each branch is multiplied. 0 means 1 / L^2 for L blocks
            in total ("post-gain" in the released code), which is too small for training runs of
            minutes.
    """
    gain = gain or (len(widths) * blocks) ** -2.0
    parts: list[nn.Module] = []
    for group, width in enumerate(widths):
        parts += [between] if group else []
        for block in range(blocks):
            parts.append(Bottleneck(width if block else inputs, width, kernels, gain))
        inputs = width
    return nn.Sequential(*parts, nn.ReLU())
