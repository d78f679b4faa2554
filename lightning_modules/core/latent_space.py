"""Previews of a latent space, for whatever has `encode`, `decode` and `latent_dim`.

A code is a representation if moving in it moves the picture in a way that has a meaning: between
two pictures (interpolation), along one axis (traversal), over the whole plane (manifold), or by the
difference of two groups' means (attribute arithmetic).
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class LatentModel(Protocol):
    """What these tools need of a system. `encode` takes (N, C, H, W) to (N, D), `decode` back,
    perhaps with more that is given.
    """

    latent_dim: int

    @property
    def device(self) -> torch.device: ...

    def encode(self, image: Tensor) -> Tensor: ...

    @property
    def decode(self) -> Callable[..., Tensor]: ...


def decode_strips(model: LatentModel, codes: Tensor, *given: Tensor) -> Tensor:
    """Previews (N, S, C, H, W) of codes (N, S, D), decoded in one pass.

    Args:
        model: whose `decode` it is.
        codes: one strip of them per row.
        *given: what else `decode` takes, (N,), such as labels.
    """
    repeated = [value.repeat_interleave(codes.shape[1]) for value in given]
    return model.decode(codes.flatten(0, 1), *repeated).unflatten(0, codes.shape[:2])


def interpolate(
    model: LatentModel, start: Tensor, end: Tensor, steps: int, *given: Tensor
) -> Tensor:
    """Strips (N, steps, C, H, W) on the straight lines between codes `start` and `end` (N, D), both
    included.
    """
    weight = torch.linspace(0, 1, steps, device=start.device)[None, :, None]
    return decode_strips(model, torch.lerp(start[:, None], end[:, None], weight), *given)


def traverse(
    model: LatentModel, code: Tensor, dims: list[int], steps: int, *given: Tensor, span: float = 3.0
) -> Tensor:
    """Strips (len(dims), steps, C, H, W): coordinate `dims[i]` of `code` (D,) runs from -span to
    span, the rest stay.
    """
    codes = code.repeat(len(dims), steps, 1)
    for row, dim in enumerate(dims):
        codes[row, :, dim] = torch.linspace(-span, span, steps, device=code.device)
    return decode_strips(model, codes, *given)


def manifold(model: LatentModel, side: int) -> Tensor:
    """(side * side, C, H, W): the first two coordinates at equally probable values of the prior,
    the others 0.

    Kingma and Welling 2014, Figure 4: the unit square mapped through the inverse normal
    distribution function.
    """
    quantiles = torch.special.ndtri((torch.arange(side, device=model.device) + 0.5) / side)
    codes = torch.zeros(side * side, model.latent_dim, device=model.device)
    codes[:, :2] = torch.cartesian_prod(quantiles, quantiles)[:, : model.latent_dim]
    return model.decode(codes)


def attribute_direction(model: LatentModel, positive: Tensor, negative: Tensor) -> Tensor:
    """(D,) mean code of pictures with a property less the mean code of pictures without it."""
    return model.encode(positive).mean(0) - model.encode(negative).mean(0)


def add_attribute(
    model: LatentModel, image: Tensor, direction: Tensor, steps: int, span: float = 4.0
) -> Tensor:
    """Strips (N, steps, C, H, W): codes of `image` plus -span to span times `direction`; the middle
    adds nothing.
    """
    scale = torch.linspace(-span, span, steps, device=image.device)[None, :, None]
    return decode_strips(model, model.encode(image)[:, None] + scale * direction)
