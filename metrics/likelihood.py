"""Likelihoods, reconstruction errors, active latent units and label accuracy.

The states of the metrics are sums, which are added over ranks. Results are therefore exact for any
number of ranks.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric


def bits_per_dim(nats: Tensor, dims: int, levels: int = 1) -> Tensor:
    """Convert nats per image to bits per dimension.

    Args:
        nats: Negative log-likelihood per image in nats.
        dims: Number of values per image.
        levels: Number of possible original values, such as 256, if `nats` is from a density of
            values scaled to [0, 1]. 1 if `nats` is from a probability of discrete values. The
            number 256 adds 8 bits, because the density of x / 256 is 256 times the density of x.
    """
    return nats / (dims * math.log(2)) + math.log2(levels)


def reconstruction_nll(noisy: Tensor, image: Tensor, deviation: float) -> Tensor:
    """Return -log p(x|y) (N,) in nats for 8-bit images x, each pixel proportional to N(y; x, r^2).

    Args:
        noisy: Images y: images x plus normal noise (N, C, H, W).
        image: Images x (N, C, H, W) with values k / 127.5 - 1, where k is one of 0 to 255.
        deviation: Standard deviation r of the noise.
    """
    levels = torch.linspace(-1, 1, 256, device=noisy.device)
    log_weights = -((noisy[..., None] - levels) / deviation).square() / 2
    chosen = ((image + 1) * 127.5).round().long()
    nll = F.cross_entropy(log_weights.flatten(0, -2), chosen.flatten(), reduction="none")
    return nll.view(len(image), -1).sum(1)


class ImportanceSampledNLL(Metric):
    """Importance-sampled estimate of -log p(x) in nats per image (Burda et al. 2016, Eq. 8).

    The estimate -log(1/k sum_i w_i) with importance weights w_i is an upper bound on -log p(x) in
    expectation.

    Args:
        k: Number of importance samples per image.
        chunk: Number of importance samples evaluated at a time.
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
        """Add a batch of N images.

        Args:
            draw: Function that maps a number n to the log importance weights of n new latent
                samples of each image, shape (n, N).
        """
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
    """Squared error summed over the values of an image, averaged over images.

    Hinton and Salakhutdinov 2006 report this error in Figure 2.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor
    signature = "sse[sum=values|mean=images|scale=0..1]"

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, x: Tensor) -> None:
        """Add reconstructions and images x, both (N, ...) in [0, 1]."""
        self.total += (reconstruction - x).square().double().sum()
        self.count += len(x)

    def compute(self) -> Tensor:
        return (self.total / self.count).float()


class ActiveUnits(Metric):
    """Number of active latent units (Burda et al. 2016, section 5.2).

    Unit j is active if Var_x(mu_j) > 0.01, where mu_j is the posterior mean of latent unit j for an
    image x.

    Args:
        dim: Dimension of the latent space.
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
        """Add posterior means (N, D) of N images."""
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
        rule: Name of the rule that computes the class scores, recorded in the signature string.
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
        """Add the scores (N, classes) and labels (N,) of N images."""
        self.right += (scores.argmax(1) == label).sum()
        self.count += len(label)

    def compute(self) -> Tensor:
        return self.right / self.count
