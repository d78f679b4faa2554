"""Interpolation, traversal, manifold and arithmetic in a latent space, for any system that has
`encode`, `decode` and `latent_dim`.

In a good latent space, a change of the latent vector changes the decoded image in a meaningful way.
The functions move a latent vector from the code of one image to the code of another
(interpolation), along one coordinate (traversal), over a plane (manifold), or along the difference
between the mean codes of two groups of images (attribute arithmetic).
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
    """Decode strips of latent vectors in one call of `decode`.

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
    """Decode `steps` points on each line from `start` to `end` (N, D): (N, steps, C, H, W)."""
    weight = torch.linspace(0, 1, steps, device=start.device)[None, :, None]
    return decode_strips(model, torch.lerp(start[:, None], end[:, None], weight), *given)


def traverse(
    model: LatentModel, z: Tensor, dims: list[int], steps: int, *given: Tensor, span: float = 3.0
) -> Tensor:
    """Decode strips of images (len(dims), steps, C, H, W); each varies one latent coordinate.

    In strip i, coordinate `dims[i]` of `z` (D,) runs from -span to span; the other coordinates stay
    fixed.
    """
    rows = z.repeat(len(dims), steps, 1)
    for row, dim in enumerate(dims):
        rows[row, :, dim] = torch.linspace(-span, span, steps, device=z.device)
    return decode_strips(model, rows, *given)


def manifold(model: LatentModel, side: int) -> Tensor:
    """Decode a grid over the first two latent coordinates to images (side * side, C, H, W).

    The points are evenly spaced in the unit square, then mapped by the inverse cumulative
    distribution function of N(0, 1). All other coordinates are 0. See Kingma and Welling (2014),
    Figure 4.
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
    """Decode z + s * `direction` for `steps` values of s from -span to span.

    z (N, D) are the latent vectors of `image` (N, C, H, W). Returns images (N, steps, C, H, W).
    """
    scale = torch.linspace(-span, span, steps, device=image.device)[None, :, None]
    return decode_strips(model, model.encode(image)[:, None] + scale * direction)
