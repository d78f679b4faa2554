"""DCGAN: a GAN whose two networks are convolutional from end to end, which made GANs of pictures
trainable.

Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks", ICLR 2016. The game, its losses and what may be asked of it are those of
`gan.py`; this file is the architecture (section 3):

    no pooling: strided convolutions in D, transposed ("fractionally strided") ones in G         (1)
    batch norm in both, except at G's output and D's input                                       (2)
    no hidden fully connected layers: noise -> 4x4 grid, last grid -> one logit                  (3)
    ReLU in G with tanh at the end; LeakyReLU 0.2 in D                                           (4)
    weights from N(0, 0.02); Adam 2e-4 with beta1 = 0.5; batches of 128; z from U(-1, 1)^100     (5)

Sizes, for kernel k, stride s and padding p (`nn/convolution.py`, tested against PyTorch):

    convolution             (in + 2 p - k) // s + 1
    transposed convolution  (in - 1) s - 2 p + k + output_padding

A transposed convolution is the gradient of the convolution with the same k, s and p and undoes its
size, so that padding makes its output *smaller*. With k = 4, s = 2, p = 1 both are exact: halves
and doubles. With the released k = 5 the padding is 2 and a transposed convolution needs
output_padding 1.

Network "radford" is the one of Figure 1 and of the released code for faces
(github.com/Newmu/dcgan_code, faces/): 1024 channels at 4x4 for 64 pixels. Network "mnist" is the
released one for conditional digits (mnist/): the label is given to every layer, two 5x5
convolutions, 1024 units, batch norm without learnt scale and shift. No layer has a bias besides
those of batch norm.

| | paper | released code | here |
|---|---|---|---|
| base channels | 128 (Figure 1) | 128 faces, 64 digits | `width` 128; smaller where a recipe says so |
| batch norm after the first layer of G | - | each of the 4x4xC units | the same |
| epsilon of batch norm | - | 1e-8 | 1e-8 |
| weight decay | none | L2 1e-5 faces, 2.5e-5 digits, on all parameters | the same, in the recipes for faces and digits |
| statistics of batch norm when sampling | - | those of the batch of samples | running ones: sample i depends only on seed i |
| updates | - | one player per batch, in turns | both players per batch; digits: half as many epochs |
| pixels of faces | [-1, 1] | [-1, 1], centre crop of 64 | [-1, 1], resized and cropped to 64 |
| schedule | constant | constant for faces; digits: 100 epochs, then 100 to zero, changed between epochs | the same |
"""

import itertools
from math import log2
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.errors import UserError
from lightning_modules.core.conditioning import classes_used
from lightning_modules.gan import NoiseGAN
from lightning_modules.nn.convolution import init_normal, same_padding

EPSILON = 1e-8  # of batch norm


def channel_plan(image_shape: list[int], width: int) -> list[int]:
    """Channels of the grids 4x4, 8x8, ... up to half the picture's side; halved at each, ending at
    `width`.

    Raises:
        UserError: if the picture is not square with a side of 32, 64 or 128.
    """
    _, height, side = image_shape
    if height != side or side not in (32, 64, 128):
        raise UserError(
            f"pictures of {height}x{side}: DCGAN needs square ones of 32, 64 or 128 pixels; set data.size"
        )
    return [width * 2**level for level in reversed(range(int(log2(side)) - 2))]


class Generator(nn.Module):
    """Noise (N, D) to a 4x4 grid, whose units are normalised one by one, then one doubling per
    layer.
    """

    def __init__(self, image_shape: list[int], inputs: int, width: int, kernel: int) -> None:
        super().__init__()
        channels = channel_plan(image_shape, width)
        padding, extra = (kernel - 1) // 2, kernel % 2
        units = 16 * channels[0]
        layers: list[nn.Module] = [
            nn.Linear(inputs, units, bias=False),
            nn.BatchNorm1d(units, EPSILON),
            nn.ReLU(inplace=True),
        ]
        layers.append(nn.Unflatten(1, (channels[0], 4, 4)))
        for before, after in itertools.pairwise(channels):
            layers.append(nn.ConvTranspose2d(before, after, kernel, 2, padding, extra, bias=False))
            layers += [nn.BatchNorm2d(after, EPSILON), nn.ReLU(inplace=True)]
        layers.append(
            nn.ConvTranspose2d(channels[-1], image_shape[0], kernel, 2, padding, extra, bias=False)
        )
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        return self.layers(with_label(noise, label)).tanh()


class Discriminator(nn.Module):
    """One halving per layer down to a 4x4 grid, then one logit; without batch norm the layers have
    biases.
    """

    def __init__(
        self, image_shape: list[int], classes: int, width: int, kernel: int, norm: str
    ) -> None:
        super().__init__()
        channels = channel_plan(image_shape, width)[::-1]
        padding, bias = (kernel - 1) // 2, norm == "none"
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([image_shape[0] + classes, *channels]):
            normed = norm == "batch" and bool(layers)  # not at the input
            layers.append(nn.Conv2d(before, after, kernel, 2, padding, bias=bias))
            layers += [
                *([nn.BatchNorm2d(after, EPSILON)] if normed else []),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 4, bias=bias))

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        return self.layers(with_label(image, label)).flatten()


def with_label(hidden: Tensor, label: Tensor | None) -> Tensor:
    """Append a one-hot label to a vector (N, D), or as constant planes to a grid (N, C, H, W)."""
    if label is None:
        return hidden
    if hidden.dim() == 4:
        label = label[:, :, None, None].expand(-1, -1, *hidden.shape[2:])
    return torch.cat([hidden, label], 1)


class MnistGenerator(nn.Module):
    """Released conditional generator for 28x28: 1024 units, 128 grids of 7x7, then 64 of 14x14,
    then the picture.
    """

    def __init__(self, image_shape: list[int], latent_dim: int, classes: int) -> None:
        super().__init__()
        self.units = nn.Linear(latent_dim + classes, 1024, bias=False)
        self.grid = nn.Linear(1024 + classes, 128 * 7 * 7, bias=False)
        self.up1 = nn.ConvTranspose2d(128 + classes, 64, 5, 2, 2, 1, bias=False)
        self.up2 = nn.ConvTranspose2d(64 + classes, image_shape[0], 5, 2, 2, 1, bias=False)
        plain: dict[str, Any] = {"eps": EPSILON, "affine": False}
        self.norms = nn.ModuleList(
            [
                nn.BatchNorm1d(1024, **plain),
                nn.BatchNorm1d(128 * 7 * 7, **plain),
                nn.BatchNorm2d(64, **plain),
            ]
        )

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        hidden = self.norms[0](self.units(with_label(noise, label))).relu()
        hidden = (
            self.norms[1](self.grid(with_label(hidden, label))).relu().unflatten(1, (128, 7, 7))
        )
        hidden = self.norms[2](self.up1(with_label(hidden, label))).relu()
        return self.up2(with_label(hidden, label)).sigmoid() * 2 - 1


class MnistDiscriminator(nn.Module):
    """Released conditional discriminator for 28x28: two 5x5 convolutions of 64 and 128 filters,
    1024 units.
    """

    def __init__(self, image_shape: list[int], classes: int) -> None:
        super().__init__()
        padding = same_padding(5)
        self.down1 = nn.Conv2d(image_shape[0] + classes, 64, 5, 2, padding, bias=False)
        self.down2 = nn.Conv2d(64 + classes, 128, 5, 2, padding, bias=False)
        self.units = nn.Linear(128 * 7 * 7 + classes, 1024, bias=False)
        self.answer = nn.Linear(1024 + classes, 1, bias=False)
        plain: dict[str, Any] = {"eps": EPSILON, "affine": False}
        self.norms = nn.ModuleList([nn.BatchNorm2d(128, **plain), nn.BatchNorm1d(1024, **plain)])
        self.leak = nn.LeakyReLU(0.2)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        hidden = self.leak(self.down1(with_label((image + 1) / 2, label)))
        hidden = self.leak(self.norms[0](self.down2(with_label(hidden, label))))
        hidden = self.leak(self.norms[1](self.units(with_label(hidden.flatten(1), label))))
        return self.answer(with_label(hidden, label))[:, 0]


class DCGAN(NoiseGAN):
    """Convolutional GAN, conditional where asked.

    Args:
        image_shape: (C, H, W), a fact of the data; square with a side of 32, 64 or 128 pixels, or
            28 for "mnist".
        num_classes: number of labels, a fact of the data; used only where `conditional`.
        conditional: model p(x|y) with the batch's labels.
        network: Networks of the paper and of the released code for faces ("radford"), or the
            released ones for conditional MNIST.
        width: Channels of the largest grid, 128 in the released code; doubled at each smaller one.
        kernel: Side of the convolutions, 5 in the released code.
        norm: in the discriminator. Penalties on its slope need "none".
        **kwargs: see `NoiseGAN` and `AdversarialModule`.
    """

    def __init__(
        self,
        image_shape: list[int],
        num_classes: int | None = None,
        conditional: bool = False,
        network: Literal["radford", "mnist"] = "radford",
        width: int = 128,
        kernel: Literal[4, 5] = 5,
        norm: Literal["batch", "none"] = "batch",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.classes = classes = classes_used(num_classes, conditional)
        players: tuple[nn.Module, nn.Module]
        if network == "mnist":
            if image_shape[1:] != [28, 28]:
                raise UserError(
                    f"model.network mnist is for pictures of 28x28, not {image_shape[1]}x{image_shape[2]}"
                )
            players = (
                MnistGenerator(image_shape, self.latent_dim, classes),
                MnistDiscriminator(image_shape, classes),
            )
        else:
            generator = Generator(image_shape, self.latent_dim + classes, width, kernel)
            players = (generator, Discriminator(image_shape, classes, width, kernel, norm))
        self.set_networks(init_normal(players[0]), init_normal(players[1]))
