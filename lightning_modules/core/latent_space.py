"""Interpolation, traversal, manifold and arithmetic in a latent space, for any system that has
`encode`, `decode` and `latent_dim`.

A latent space is a representation if moving in it changes the image in a meaningful way: between
two images (interpolation), along one axis (traversal), over the whole plane (manifold), or by the
difference of two groups' means (attribute arithmetic).
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class LatentModel(Protocol):
    """System with a latent space.

    `encode` maps images (N, C, H, W) to latent vectors z (N, D). `decode` maps z to images and may
    take further arguments, such as labels.
    """

    latent_dim: int

    @property
    def device(self) -> torch.device: ...

    def encode(self, image: Tensor) -> Tensor: ...

    @property
    def decode(self) -> Callable[..., Tensor]: ...


def decode_strips(model: LatentModel, z: Tensor, *given: Tensor) -> Tensor:
    """Decode strips of latent vectors in one pass.

    Args:
        model: System that decodes the latent vectors.
        z: Latent vectors (N, S, D), one strip per row.
        *given: Further arguments of `decode`, such as labels, with one value (N,) per strip.

    Returns:
        Images (N, S, C, H, W).
    """
    repeated = [value.repeat_interleave(z.shape[1]) for value in given]
    return model.decode(z.flatten(0, 1), *repeated).unflatten(0, z.shape[:2])


def interpolate(
    model: LatentModel, start: Tensor, end: Tensor, steps: int, *given: Tensor
) -> Tensor:
    """Decode strips (N, steps, C, H, W) on lines from latent vectors `start` to `end` (N, D)."""
    weight = torch.linspace(0, 1, steps, device=start.device)[None, :, None]
    return decode_strips(model, torch.lerp(start[:, None], end[:, None], weight), *given)


def traverse(
    model: LatentModel, z: Tensor, dims: list[int], steps: int, *given: Tensor, span: float = 3.0
) -> Tensor:
    """Decode strips (len(dims), steps, C, H, W) that each vary one latent coordinate.

    In strip i, coordinate `dims[i]` of `z` (D,) runs from -span to span; the other coordinates stay
    fixed.
    """
    rows = z.repeat(len(dims), steps, 1)
    for row, dim in enumerate(dims):
        rows[row, :, dim] = torch.linspace(-span, span, steps, device=z.device)
    return decode_strips(model, rows, *given)


def manifold(model: LatentModel, side: int) -> Tensor:
    """Decode a grid over the first two latent coordinates to images (side * side, C, H, W).

    The points are evenly spaced in the unit square, then mapped through the inverse normal
    distribution function. The other coordinates are 0 (Kingma and Welling 2014, Figure 4).
    """
    quantiles = torch.special.ndtri((torch.arange(side, device=model.device) + 0.5) / side)
    z = torch.zeros(side * side, model.latent_dim, device=model.device)
    z[:, :2] = torch.cartesian_prod(quantiles, quantiles)[:, : model.latent_dim]
    return model.decode(z)


def attribute_direction(model: LatentModel, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the mean z (D,) of images with an attribute minus the mean z of images without it."""
    return model.encode(positive).mean(0) - model.encode(negative).mean(0)


def add_attribute(
    model: LatentModel, image: Tensor, direction: Tensor, steps: int, span: float = 4.0
) -> Tensor:
    """Decode strips (N, steps, C, H, W) of z + s * `direction`, with s from -span to span.

    z (N, D) are the latent vectors of `image` (N, C, H, W).
    """
    scale = torch.linspace(-span, span, steps, device=image.device)[None, :, None]
    return decode_strips(model, model.encode(image)[:, None] + scale * direction)
