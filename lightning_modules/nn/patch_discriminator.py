"""Discriminator of overlapping patches of images (PatchGAN).

The architecture is from Isola et al. 2017, section 3.2.2 and appendix 6.1.2. Patches are
sufficient, because the L1 or cycle loss of the generator penalises errors at a larger scale. A
patch discriminator improves texture and sharpness. It has fewer weights than a discriminator of
whole images and accepts images of any size.

The receptive field of a logit is computed from the output backwards: a convolution of kernel k and
stride s enlarges a field f to (f - 1) s + k.

| patch side (pixels) | number of 4x4 convolutions of stride 2 | then convolutions of stride 1 |
|---|---|---|
| 1 | 0 | three 1x1; a logit depends on the colour of one pixel |
| 16 | 1 | two 4x4 |
| 70 | 3 | two 4x4 |
| 286 | 5 | two 4x4; a patch covers a whole image of 256 pixels |
"""

from typing import Literal

from torch import Tensor, nn

from common.errors import UserError

Patch = Literal[1, 16, 70, 286]
HALVINGS = {16: 1, 70: 3, 286: 5}


def smallest_side(patch: Patch) -> int:
    """Return the minimum side of an image in pixels for a patch size.

    With smaller images, the discriminator has an empty output, or a norm layer has a 1x1 input.
    """
    return 1 if patch == 1 else 3 * 2 ** HALVINGS[patch]


class PatchDiscriminator(nn.Sequential):
    """Discriminator that returns logits (N, 1, h, w), one per patch of images (N, C, H, W).

    Args:
        channels: Number of channels C of the images.
        width: Number of channels after the first convolution. Each further convolution but the last
            doubles the number of channels, up to 8 * `width`.
        patch: Side in pixels of the patch that a logit depends on (receptive field).
        norm: Normalisation after all convolutions but the first and the last: "batch" norm
            (pix2pix) or "instance" norm (CycleGAN).
        side: Length of the shorter side of the images, in pixels.

    Raises:
        UserError: If the images are too small for the patch; the message lists the possible patch
            sizes.
    """

    def __init__(
        self, channels: int, width: int, patch: Patch, norm: Literal["batch", "instance"], side: int
    ) -> None:
        if side < smallest_side(patch):
            fitting = [str(other) for other in (1, 16, 70, 286) if smallest_side(other) <= side]
            raise UserError(
                f"model.patch {patch} needs images of at least {smallest_side(patch)} pixels "
                f"(got {side}): use {' or '.join(fitting)}"
            )
        normed = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}[norm]
        if patch == 1:
            middle = [
                nn.Conv2d(width, 2 * width, 1, bias=False),
                normed(2 * width),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            super().__init__(
                nn.Conv2d(channels, width, 1),
                nn.LeakyReLU(0.2, inplace=True),
                *middle,
                nn.Conv2d(2 * width, 1, 1),
            )
            return
        halvings = HALVINGS[patch]
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for level in range(1, halvings + 1):
            before, after = (width * min(2**power, 8) for power in (level - 1, level))
            stride = 2 if level < halvings else 1
            layers += [
                nn.Conv2d(before, after, 4, stride, 1, bias=False),
                normed(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        super().__init__(*layers, nn.Conv2d(after, 1, 4, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        # Losses are means over many logits, for which half precision is too coarse.
        return super().forward(image).float()
