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
    """A system with a latent space.

    `encode` maps images (N, C, H, W) to z (N, D). `decode` maps z to images, and may take more,
    such as labels.
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
        model: The system that decodes.
        z: Latent vectors (N, S, D), one strip per row.
        *given: Further arguments (N,) of `decode`, such as labels.

    Returns:
        Images (N, S, C, H, W).
    """
    repeated = [value.repeat_interleave(z.shape[1]) for value in given]
    return model.decode(z.flatten(0, 1), *repeated).unflatten(0, z.shape[:2])


def interpolate(
    model: LatentModel, start: Tensor, end: Tensor, steps: int, *given: Tensor
) -> Tensor:
    """Strips (N, steps, C, H, W) on straight lines from latent vectors `start` to `end` (N, D)."""
    weight = torch.linspace(0, 1, steps, device=start.device)[None, :, None]
    return decode_strips(model, torch.lerp(start[:, None], end[:, None], weight), *given)


def traverse(
    model: LatentModel, z: Tensor, dims: list[int], steps: int, *given: Tensor, span: float = 3.0
) -> Tensor:
    """Strips (len(dims), steps, C, H, W) that each vary one latent coordinate.

    In strip i, coordinate `dims[i]` of `z` (D,) runs from -span to span; the others stay fixed.
    """
    rows = z.repeat(len(dims), steps, 1)
    for row, dim in enumerate(dims):
        rows[row, :, dim] = torch.linspace(-span, span, steps, device=z.device)
    return decode_strips(model, rows, *given)


def manifold(model: LatentModel, side: int) -> Tensor:
    """Images (side * side, C, H, W) of a grid over the first two latent coordinates.

    The grid is the unit square mapped through the inverse normal distribution function; the other
    coordinates are 0 (Kingma and Welling 2014, Figure 4).
    """
    quantiles = torch.special.ndtri((torch.arange(side, device=model.device) + 0.5) / side)
    z = torch.zeros(side * side, model.latent_dim, device=model.device)
    z[:, :2] = torch.cartesian_prod(quantiles, quantiles)[:, : model.latent_dim]
    return model.decode(z)


def attribute_direction(model: LatentModel, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean z (D,) of images with an attribute, minus the mean z of images without it."""
    return model.encode(positive).mean(0) - model.encode(negative).mean(0)


def add_attribute(
    model: LatentModel, image: Tensor, direction: Tensor, steps: int, span: float = 4.0
) -> Tensor:
    """Strips (N, steps, C, H, W) that add -span to span times `direction` to z of `image`."""
    scale = torch.linspace(-span, span, steps, device=image.device)[None, :, None]
    return decode_strips(model, model.encode(image)[:, None] + scale * direction)
