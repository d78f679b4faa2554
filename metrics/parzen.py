"""Scores of generated images in pixel space, as in early GAN papers, without a trained network."""

import math

import torch
from torch import Tensor

SIGMAS = [10 ** (-1 + i / 9) for i in range(10)]  # log-spaced from 0.1 to 1


def parzen_log_likelihood(samples: Tensor, x: Tensor, sigma: float) -> Tensor:
    """Compute log-likelihoods under a Gaussian kernel density of samples (Breuleux et al. 2009).

    The density is the distribution of the samples plus Gaussian noise of standard deviation
    `sigma`, not the density of the model.

    Args:
        samples: Generated samples (M, D).
        x: Points to evaluate (N, D), on the scale of `samples`.
        sigma: Standard deviation of the kernel.

    Returns:
        Log-likelihoods (N,) in nats.
    """
    constant = math.log(len(samples)) + samples.shape[1] / 2 * math.log(2 * math.pi * sigma**2)
    parts = [
        (torch.cdist(chunk, samples).square() / (-2 * sigma**2)).logsumexp(1)
        for chunk in x.split(1000)
    ]
    return torch.cat(parts) - constant


def parzen(samples: Tensor, val: Tensor, test: Tensor) -> tuple[float, float, float]:
    """Compute the Parzen log-likelihood as in Goodfellow et al. 2014.

    Of 10 values of sigma, the one with the highest likelihood of the validation images is used.

    Args:
        samples: Generated images, uint8 or in [0, 1]. The authors' `parzen_ll.py` uses 10,000.
        val: Validation images for the selection of sigma. Goodfellow et al. use 1,000.
        test: Test images to evaluate. Goodfellow et al. use the whole test split.

    Returns:
        Mean log-likelihood in nats, its standard error, and sigma.
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
    """Compute the error of the 1-nearest-neighbour classifier in pixel space.

    Radford et al. 2016 report this error in Table 3.

    Args:
        pool: Training images of the classifier (M, C, H, W), uint8, real or generated.
        labels: Classes (M,) of the training images.
        test: Test images (N, C, H, W), uint8.
        test_labels: Classes (N,) of the test images.

    Returns:
        Share of test images whose nearest training image has another class.
    """
    pool, test = pool.flatten(1) / 255.0, test.flatten(1) / 255.0
    nearest = torch.cat([torch.cdist(chunk, pool).argmin(1) for chunk in test.split(500)])
    return (labels[nearest] != test_labels).double().mean().item()
