"""Cheap models beside which the learned ones stand. Each takes (train, test) data in memory and gives value and signature.

A reproduction that names one of these functions instead of a model runs it.
"""

import torch
from torch import Tensor


def pca_sse(train: Tensor, test: Tensor, components: int = 30) -> tuple[float, str]:
    """Test error of the best linear code: squared error summed over pixels in [0, 1], mean over pictures.

    Args:
        train: uint8 pictures (N, C, H, W) that mean and components are fitted on.
        test: uint8 pictures (M, C, H, W).
        components: size of the code.

    Returns:
        The error and its signature.
    """
    fit, x = (images.flatten(1).double() / 255 for images in (train, test))
    mean = fit.mean(0)
    covariance = (fit - mean).T @ (fit - mean) / len(fit)
    basis = torch.linalg.eigh(covariance).eigenvectors[:, -components:]  # (D, components), largest eigenvalues last
    centred = x - mean
    error = (centred - centred @ basis @ basis.T).square().sum(1).mean().item()
    return error, f"sse[sum=values|mean=pictures|scale=0..1|pca={components}|n_fit={len(fit)}|n_test={len(x)}]"
