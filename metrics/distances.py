"""Distances between real and generated images, from features (N, D) of one frozen network.

| name | meaning | source |
|---|---|---|
| fid | Fréchet distance of the Gaussians with the features' means and covariances; biased upwards for few images | Heusel et al. 2017, Eq. 6 |
| kid | squared maximum mean discrepancy with a cubic kernel; unbiased, may be below 0 | Binkowski et al. 2018, section 4 |
| precision | share of generated images within the neighbourhoods of real images; measures quality | Kynkaanniemi et al. 2019, Eq. 1 to 3 |
| recall | share of real images within the neighbourhoods of generated images; measures diversity | Kynkaanniemi et al. 2019, Eq. 1 to 3 |
| density | mean number of real neighbourhoods that contain a generated image, divided by k; real outliers raise precision but not density; may exceed 1 | Naeem et al. 2020, Eq. 4 |
| coverage | share of real neighbourhoods that contain a generated image | Naeem et al. 2020, Eq. 5 |
| is | Inception score: exp of the mean KL divergence of p(class of an image) from p(class); needs the class probabilities of Inception | Salimans et al. 2016, section 4 |

All distances are computed in double precision, so the order of images and the number of processes
do not change the printed digits.
"""  # noqa: E501  # a table

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D) of a set of features."""

    mean: Tensor
    covariance: Tensor


def gaussian(features: Tensor) -> Gaussian:
    """Compute the mean and the unbiased covariance of features (N, D); N must be at least 2."""
    return Gaussian(features.double().mean(0), torch.cov(features.double().T))


def frechet_distance(real: Gaussian, fake: Gaussian) -> float:
    """Compute the Fréchet distance of two Gaussians (m1, C1) and (m2, C2).

    The distance is |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    Tr (C1 C2)^(1/2) is computed as the sum of the square roots of the eigenvalues of S C2 S, where
    S = C1^(1/2). The matrix S C2 S is symmetric, so its eigenvalues are real, and singular
    covariances need no regularisation.
    """
    values, vectors = torch.linalg.eigh(real.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ fake.covariance @ root).clamp(min=0).sqrt().sum()
    trace = real.covariance.trace() + fake.covariance.trace() - 2 * cross
    return ((real.mean - fake.mean).square().sum() + trace).item()


def kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """Sum the kernel (x_i . y_j / D + 1)^3 over all rows x_i of (N, D) and y_j of (M, D)."""
    # Chunks of 1,000 rows of x limit the memory.
    return torch.stack(
        [(chunk @ y.T / x.shape[1] + 1).pow(3).sum() for chunk in x.split(1000)]
    ).sum()


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Compute the kernel inception distance, an unbiased estimate from all pairs of features.

    Other libraries average the estimate over random subsets, which has the same expectation.
    """
    real, fake = real.double(), fake.double()
    within = 0.0
    for cloud in (real, fake):
        # Pairs of an image with itself do not count.
        own = (cloud.square().sum(1) / cloud.shape[1] + 1).pow(3).sum()
        within += ((kernel_sum(cloud, cloud) - own) / (len(cloud) * (len(cloud) - 1))).item()
    return within - 2 * kernel_sum(real, fake).item() / (len(real) * len(fake))


def radii(cloud: Tensor, k: int) -> Tensor:
    """Return the distance (N,) from each point of a cloud to its k-th nearest neighbour."""
    return torch.cat(
        [torch.cdist(chunk, cloud).kthvalue(k + 1).values for chunk in cloud.split(1000)]
    )


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Compute precision and recall of generated features (Kynkaanniemi et al. 2019).

    Precision is the share of generated points that lie in the neighbourhood of a real point. Recall
    is the share of real points that lie in the neighbourhood of a generated point.

    The neighbourhood of a point is a ball around the point. Its radius is the distance to the k-th
    nearest other point of the same set.
    """
    real, fake = real.double(), fake.double()

    def share_within(points: Tensor, cloud: Tensor) -> float:
        reach = radii(cloud, k)
        return (
            torch.cat([(torch.cdist(chunk, cloud) <= reach).any(1) for chunk in points.split(1000)])
            .double()
            .mean()
            .item()
        )

    return share_within(fake, real), share_within(real, fake)


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """Compute density and coverage of generated features (Naeem et al. 2020).

    Density is the mean number of real neighbourhoods that contain a generated point, divided by k.
    Coverage is the share of real neighbourhoods that contain a generated point.

    The neighbourhood of a real point is a ball around the point. Its radius is the distance to the
    k-th nearest other real point.
    """
    real, fake = real.double(), fake.double()
    around = []  # number of generated points in each real neighbourhood
    for chunk, radius in zip(real.split(1000), radii(real, k).split(1000)):
        around.append((torch.cdist(chunk, fake) <= radius[:, None]).sum(1))
    count = torch.cat(around)
    return count.sum().item() / (k * len(fake)), (count > 0).double().mean().item()


def inception_score(logits: Tensor, splits: int = 10) -> float:
    """Compute the Inception score exp(E[KL(p(y|x) || p(y))]) from class logits (N, K).

    The images are cut into `splits` consecutive parts, and the scores of the parts are averaged.
    """
    scores = []
    for chunk in logits.double().log_softmax(1).tensor_split(splits):
        marginal = (
            chunk.logsumexp(0)
            - torch.tensor(float(len(chunk)), dtype=chunk.dtype, device=chunk.device).log()
        )
        scores.append((chunk.exp() * (chunk - marginal)).sum(1).mean().exp())
    return torch.stack(scores).mean().item()
