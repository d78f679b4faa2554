"""Residual blocks of the discrete VAE's networks: the released code of Ramesh et al. 2021
(`dall_e/encoder.py`, `decoder.py`).
"""

from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the size; weights N(0, 1 / fan-in), biases 0."""
    made = nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2)
    nn.init.normal_(made.weight, 0.0, (inputs * kernel**2) ** -0.5)
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


class Bottleneck(nn.Module):
    """Residual branch of four convolutions through a quarter of the channels.

    Args:
        inputs: channels.
        outputs: channels, a multiple of 4.
        kernels: of the four.
        gain: what the branch is multiplied by.
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
    """Groups of blocks.

    Args:
        inputs: channels that come in.
        widths: channels of each group.
        blocks: of a group.
        kernels: of each block.
        between: what stands between two groups, such as a pooling.
        gain: of each branch; 0 for 1 / L^2 with L blocks ("post-gain"), through which minutes of
            training learn too little.
    """
    gain = gain or (len(widths) * blocks) ** -2.0
    parts: list[nn.Module] = []
    for group, width in enumerate(widths):
        parts += [between] if group else []
        for block in range(blocks):
            parts.append(Bottleneck(width if block else inputs, width, kernels, gain))
        inputs = width
    return nn.Sequential(*parts, nn.ReLU())
