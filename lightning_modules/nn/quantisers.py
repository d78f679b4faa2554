"""From vectors to a finite set of codes, by a softmax that hardens or by the nearest one; equations
are those of `dvae.py`.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VQ_DECAY = 0.99  # d of Eq. 7
UNUSED = 1e-6  # n_k before the first batch
# of the average use: codes that are used less begin anew, and again if a batch later they still are
DEAD = 0.1


def in_full_precision(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of methods that take features: float32 whatever the trainer's precision, for small
    differences tell codes apart.
    """

    @wraps(method)
    def wrapped(self: nn.Module, features: Tensor, *arguments: Any) -> Any:
        with torch.autocast(features.device.type, enabled=False):
            return method(self, features.float(), *arguments)

    return wrapped


def uniform_kl(logits: Tensor) -> Tensor:
    """Eq. 4 of logits (N, K, h, w), in nats: (N,)."""
    log_q = logits.log_softmax(1)
    return (log_q.exp() * (log_q + math.log(logits.shape[1]))).sum((1, 2, 3))


class GumbelQuantiser(nn.Module):
    """Eq. 2; `features` channels come in, the logits."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.features = codes
        self.codebook = nn.Parameter(torch.randn(codes, width))

    @in_full_precision
    def forward(self, features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """z (N, D, h, w), and Eq. 4 (N,)."""
        noise = -torch.empty_like(features).exponential_().log()
        chosen = ((features + noise) / temperature).softmax(1)
        return torch.einsum("nkhw,kd->ndhw", chosen, self.codebook), uniform_kl(features)  # Eq. 2

    def nearest(self, features: Tensor) -> Tensor:
        """The likeliest codes (N, h, w)."""
        return features.argmax(1)


class VectorQuantiser(nn.Module):
    """Vector quantisation, Eq. 6 and 7; `features` channels of the encoder are compared with the
    codes.

    The codebook is computed as `sums / uses`. Averaging both averages the codes, weighted by their
    use.
    """

    uses: Tensor
    sums: Tensor

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.features = width
        # Below every threshold, so that the first batch replaces all codes.
        self.register_buffer("uses", torch.full((codes,), UNUSED))
        self.register_buffer("sums", UNUSED * torch.randn(codes, width))

    @property
    def codebook(self) -> Tensor:
        """e_k of Eq. 7, (K, D)."""
        return self.sums / self.uses[:, None]

    @in_full_precision
    def forward(self, features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """z (N, D, h, w), and the squared distance to it (N,), summed over positions."""
        chosen = F.embedding(self.nearest(features), self.codebook).movedim(3, 1)
        return features + (chosen - features).detach(), (features - chosen.detach()).square().sum(
            (1, 2, 3)
        )  # Eq. 6

    @torch.no_grad()
    @in_full_precision
    def nearest(self, features: Tensor) -> Tensor:
        """The nearest codes (N, h, w)."""
        codebook = self.codebook
        scores = torch.einsum("ndhw,kd->nkhw", features, codebook)
        return (2 * scores - codebook.square().sum(1)[:, None, None]).argmax(1)

    @torch.no_grad()
    @in_full_precision
    def learn(
        self,
        features: Tensor,
        seed: int,
        total: Callable[[Tensor], Tensor],
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Eq. 7 over the batches of all ranks; codes that nobody uses become vectors of these,
        picked at random.

        Args:
            features: of this rank's batch, (N, D, h, w): every `world`-th of all samples.
            seed: of the picks, the same on all ranks.
            total: sum of a tensor over ranks.
            rank: this one.
            world: how many there are.
        """
        rows, chosen = features.movedim(1, 3).flatten(0, 2), self.nearest(features).flatten()
        added = torch.zeros_like(self.sums).index_add_(0, chosen, rows)
        counts = torch.zeros_like(self.uses).index_add_(0, chosen, torch.ones_like(rows[:, 0]))
        places = torch.randint(
            len(rows) * world, self.uses.shape, generator=torch.Generator().manual_seed(seed)
        ).to(rows.device)
        positions = len(rows) // len(features)
        sample = places // positions  # of all ranks' batches
        picked = (
            rows[sample // world * positions + places % positions]
            * (sample % world == rank)[:, None]
        )
        added, counts, picked = total(torch.cat([added, counts[:, None], picked], 1)).split(
            [added.shape[1], 1, added.shape[1]], 1
        )
        self.uses.lerp_(counts[:, 0], 1 - VQ_DECAY)
        self.sums.lerp_(added, 1 - VQ_DECAY)
        least = DEAD * counts.mean()
        dead = self.uses < least
        self.uses.copy_(torch.where(dead, least, self.uses))
        self.sums.copy_(torch.where(dead[:, None], picked * least, self.sums))


QUANTISERS: dict[str, type[GumbelQuantiser] | type[VectorQuantiser]] = {
    "gumbel": GumbelQuantiser,
    "vq": VectorQuantiser,
}
