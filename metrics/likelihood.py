"""Likelihoods, reconstruction errors and code usage; all states are sums, so that ranks add up
exactly.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric


def bits_per_dim(nats: Tensor, dims: int, levels: int = 1) -> Tensor:
    """Nats per image as bits per dimension.

    Args:
        nats: negative log-likelihood of an image.
        dims: number of values in an image.
        levels: 1 for the probability of discrete values; for a density over values scaled to [0,
            1], how many levels the original had: the density of x / 256 is 256 times that of x,
            which adds 8 bits.
    """
    return nats / (dims * math.log(2)) + math.log2(levels)


class ImportanceSampledNLL(Metric):
    """-log p(x) in nats per image, estimated by -log 1/k sum_i w_i (Burda et al. 2016, Eq. 8); an
    upper bound in expectation.

    Args:
        k: importance samples per image.
        chunk: how many of them are drawn at a time.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, k: int = 5000, chunk: int = 50) -> None:
        super().__init__()
        self.k, self.chunk = k, chunk
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def signature(self) -> str:
        return f"nll[k={self.k}]"

    def update(self, draw: Callable[[int], Tensor]) -> None:
        """Add a batch of N images; `draw(n)` gives log w of n fresh samples, shape (n, N)."""
        log_sum: Tensor | None = None
        for start in range(0, self.k, self.chunk):
            chunk = draw(min(self.chunk, self.k - start)).logsumexp(0)  # (N,)
            log_sum = chunk if log_sum is None else torch.logaddexp(log_sum, chunk)
        assert log_sum is not None
        self.total += (math.log(self.k) - log_sum).double().sum()
        self.count += len(log_sum)

    def compute(self) -> Tensor:
        return (self.total / self.count).float()


class SquaredError(Metric):
    """Squared error summed over the values of an image, mean over images (Hinton and
    Salakhutdinov 2006, Figure 2).
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor
    signature = "sse[sum=values|mean=pictures|scale=0..1]"

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, x: Tensor) -> None:
        """Add images in [0, 1], both (N, ...)."""
        self.total += (reconstruction - x).square().double().sum()
        self.count += len(x)

    def compute(self) -> Tensor:
        return (self.total / self.count).float()


class ActiveUnits(Metric):
    """Number of latent coordinates whose posterior mean varies with the image: Var_x(mu_j) > 0.01
    (Burda et al., section 5.2).

    Args:
        dim: size of the code.
    """

    higher_is_better = None
    full_state_update = False
    signature = "active_units[threshold=0.01]"
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, mean: Tensor) -> None:
        """Add posterior means (N, D)."""
        mean = mean.double()
        self.total += mean.sum(0)
        self.squares += mean.square().sum(0)
        self.count += len(mean)

    def compute(self) -> Tensor:
        variance = self.squares / self.count - (self.total / self.count).square()
        return (variance > 0.01).sum().float()


class LabelAccuracy(Metric):
    """Share of images whose most likely class is their label.

    Args:
        rule: how the scores came about, for the signature.
    """

    higher_is_better = True
    full_state_update = False
    right: Tensor
    count: Tensor

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.add_state("right", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def signature(self) -> str:
        return f"accuracy[rule={self.rule}]"

    def update(self, scores: Tensor, label: Tensor) -> None:
        """Add scores (N, classes) and labels (N,)."""
        self.right += (scores.argmax(1) == label).sum()
        self.count += len(label)

    def compute(self) -> Tensor:
        return self.right / self.count
