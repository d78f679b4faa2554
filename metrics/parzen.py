"""Scores of a set of generated images in pixel space: the ones of the first papers, which need no
trained network.
"""

import math

import torch
from torch import Tensor

SIGMAS = [10 ** (-1 + i / 9) for i in range(10)]  # log-spaced from 0.1 to 1


def parzen_log_likelihood(samples: Tensor, x: Tensor, sigma: float) -> Tensor:
    """log of the mean Gaussian of width sigma around the samples (Breuleux et al. 2009).

    Args:
        samples: (M, D).
        x: (N, D) on the same scale.

    Returns:
        (N,) nats. At that sigma; a likelihood of the blurred samples, not of the model.
    """
    constant = math.log(len(samples)) + samples.shape[1] / 2 * math.log(2 * math.pi * sigma**2)
    parts = [
        (torch.cdist(chunk, samples).square() / (-2 * sigma**2)).logsumexp(1)
        for chunk in x.split(1000)
    ]
    return torch.cat(parts) - constant


def parzen(samples: Tensor, val: Tensor, test: Tensor) -> tuple[float, float, float]:
    """The protocol of Goodfellow et al. 2014: sigma by the likelihood of validation images, then
    that of the test images.

    Args:
        samples: uint8 or [0, 1] images; 10,000 in the released `parzen_ll.py`.
        val: 1,000 of those that choose among 10 widths.
        test: all of them.

    Returns:
        Mean in nats, its standard error, and sigma.
    """
    samples, val, test = (
        one.flatten(1) / 255.0 if one.dtype == torch.uint8 else one.flatten(1)
        for one in (samples, val, test)
    )
    sigma = max(SIGMAS, key=lambda width: parzen_log_likelihood(samples, val, width).mean().item())
    likelihood = parzen_log_likelihood(samples, test, sigma)
    return likelihood.mean().item(), (likelihood.std() / math.sqrt(len(test))).item(), sigma


def nearest_neighbour_error(
    pool: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor
) -> float:
    """Share of test images whose nearest neighbour in the pool is of another class (Radford et
    al. 2016, Table 3).

    Args:
        pool: uint8 images (M, C, H, W), real or generated.
        labels: their classes (M,).
        test: uint8 images (N, C, H, W).
        test_labels: their classes (N,).
    """
    pool, test = pool.flatten(1) / 255.0, test.flatten(1) / 255.0
    nearest = torch.cat([torch.cdist(chunk, pool).argmin(1) for chunk in test.split(500)])
    return (labels[nearest] != test_labels).double().mean().item()
