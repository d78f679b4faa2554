"""Whether words and pictures find each other."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

WAYS = 32  # captions that a picture's own is told from, itself among them


class RankingAccuracy(Metric):
    """Share of pictures that their own caption fits best among `WAYS`, the others being drawn from those of the whole split.

    Captions with the same features are the same one: they are no rivals. The rivals depend on a picture's place alone.
    """

    higher_is_better = True
    full_state_update = False
    signature = f"ranking[ways={WAYS}]"
    images: list[Tensor]
    texts: list[Tensor]
    index: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("images", [], dist_reduce_fx="cat")
        self.add_state("texts", [], dist_reduce_fx="cat")
        self.add_state("index", [], dist_reduce_fx="cat")

    def update(self, images: Tensor, texts: Tensor, index: Tensor) -> None:
        """Add normalised features (N, D) of pictures and of their captions, and their places (N,) in the split."""
        self.images.append(images)
        self.texts.append(texts)
        self.index.append(index.to(images.device))

    def compute(self) -> Tensor:
        order = dim_zero_cat(self.index).argsort()  # the same on any number of ranks
        return ranking_accuracy(dim_zero_cat(self.images)[order], dim_zero_cat(self.texts)[order])


def ranking_accuracy(images: Tensor, texts: Tensor) -> Tensor:
    """See `RankingAccuracy`, of features (N, D)."""
    scores = images @ texts.T  # (N, N)
    own = scores.diagonal()
    same = torch.cdist(texts, texts, compute_mode="donot_use_mm_for_euclid_dist") < 1e-4
    numbers = torch.rand(scores.shape, generator=torch.Generator().manual_seed(0)).to(scores.device).masked_fill(same, -1)
    rivals = numbers.topk(min(WAYS, len(scores)) - 1).indices  # (N, WAYS - 1)
    better = (scores.gather(1, rivals) >= own[:, None]) & ~same.gather(1, rivals)
    return (~better.any(1)).float().mean()
