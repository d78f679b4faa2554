"""How far generated images are from real ones, as clouds of features (N, D) of one frozen
network.

| name | what it says | source |
|---|---|---|
| fid | distance of the two Gaussians with the clouds' means and covariances; biased upward for few images | Heusel et al. 2017, Eq. 6 |
| kid | squared maximum mean discrepancy with a cubic kernel; unbiased, may be below 0 | Binkowski et al. 2018, section 4 |
| precision | share of generated images among real ones: quality | Kynkaanniemi et al. 2019, Eq. 1 to 3 |
| recall | share of real images among generated ones: variety | the same |
| density | how many real neighbourhoods hold a generated image, over k: precision that outliers do not raise; may exceed 1 | Naeem et al. 2020, Eq. 4 |
| coverage | share of real images with a generated one among their neighbours | Naeem et al. 2020, Eq. 5 |
| is | exp of the mean KL of p(class of an image) from p(class); Inception's classes only | Salimans et al. 2016, section 4 |

All in double precision, so that neither order nor the number of processes shows in a figure.
"""  # noqa: E501  # a table

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D) of a cloud."""

    mean: Tensor
    covariance: Tensor


def gaussian(features: Tensor) -> Gaussian:
    """Moments of features (N, D), N of at least 2; the covariance is the unbiased one."""
    return Gaussian(features.double().mean(0), torch.cov(features.double().T))


def frechet_distance(real: Gaussian, fake: Gaussian) -> float:
    """|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the roots of the eigenvalues of S C2 S with S = C1^(1/2),
    which is symmetric: no complex rounding residue has to be dropped, and singular covariances need
    no ridge.
    """
    values, vectors = torch.linalg.eigh(real.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ fake.covariance @ root).clamp(min=0).sqrt().sum()
    trace = real.covariance.trace() + fake.covariance.trace() - 2 * cross
    return ((real.mean - fake.mean).square().sum() + trace).item()


def kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """Sum of (x_i . y_j / D + 1)^3 over all pairs, a thousand rows at a time."""
    return torch.stack(
        [(chunk @ y.T / x.shape[1] + 1).pow(3).sum() for chunk in x.split(1000)]
    ).sum()


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Unbiased estimate over all pairs; libraries average it over random subsets, with the same
    expectation.
    """
    real, fake = real.double(), fake.double()
    within = 0.0
    for cloud in (real, fake):
        own = (
            (cloud.square().sum(1) / cloud.shape[1] + 1).pow(3).sum()
        )  # pairs of an image with itself
        within += ((kernel_sum(cloud, cloud) - own) / (len(cloud) * (len(cloud) - 1))).item()
    return within - 2 * kernel_sum(real, fake).item() / (len(real) * len(fake))


def radii(cloud: Tensor, k: int) -> Tensor:
    """(N,) distance of each of a cloud to the k-th nearest of the others."""
    return torch.cat(
        [torch.cdist(chunk, cloud).kthvalue(k + 1).values for chunk in cloud.split(1000)]
    )


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Shares of the fake within the balls of the real ones, and of the real within those of the
    fake ones.
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
    """Mean number of real balls around a fake over k, and share of real balls with a fake
    inside.
    """
    real, fake = real.double(), fake.double()
    around = []  # each real ball
    for chunk, radius in zip(real.split(1000), radii(real, k).split(1000)):
        around.append((torch.cdist(chunk, fake) <= radius[:, None]).sum(1))
    count = torch.cat(around)
    return count.sum().item() / (k * len(fake)), (count > 0).double().mean().item()


def inception_score(logits: Tensor, splits: int = 10) -> float:
    """Mean over splits, in order, of exp(E[KL(p(y|x) || p(y))])."""
    scores = []
    for chunk in logits.double().log_softmax(1).tensor_split(splits):
        marginal = (
            chunk.logsumexp(0)
            - torch.tensor(float(len(chunk)), dtype=chunk.dtype, device=chunk.device).log()
        )
        scores.append((chunk.exp() * (chunk - marginal)).sum(1).mean().exp())
    return torch.stack(scores).mean().item()
