"""Whether words and pictures find each other."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

CHUNK = 1024  # pictures at a time
WAYS = 32  # captions that a picture's own is told from, itself among them


class RankingAccuracy(Metric):
    """Share of pictures that their own caption fits best among `WAYS`, the others being drawn from those of the whole split.

    Equal captions are the same one: they are no rivals. The rivals depend on a picture's place alone.
    """

    higher_is_better = True
    full_state_update = False
    signature = f"ranking[ways={WAYS}]"
    images: list[Tensor]
    texts: list[Tensor]
    tokens: list[Tensor]
    index: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("images", [], dist_reduce_fx="cat")
        self.add_state("texts", [], dist_reduce_fx="cat")
        self.add_state("tokens", [], dist_reduce_fx="cat")
        self.add_state("index", [], dist_reduce_fx="cat")

    def update(self, images: Tensor, texts: Tensor, tokens: Tensor, index: Tensor) -> None:
        """Add normalised features (N, D) of pictures and of their captions, these as tokens (N, T), and their places (N,)."""
        for state, values in ((self.images, images), (self.texts, texts), (self.tokens, tokens), (self.index, index)):
            state.append(values.to(images.device))

    def compute(self) -> Tensor:
        order = dim_zero_cat(self.index).argsort()  # the same on any number of ranks
        return ranking_accuracy(*(dim_zero_cat(state)[order] for state in (self.images, self.texts, self.tokens)))


def ranking_accuracy(images: Tensor, texts: Tensor, tokens: Tensor) -> Tensor:
    """See `RankingAccuracy`, of features (N, D) and (N, D) and tokens (N, T)."""
    size, right = len(images), []
    generator = torch.Generator().manual_seed(0)
    name = tokens.unique(dim=0, return_inverse=True)[1]  # equal captions have one
    for start in range(0, size, CHUNK):
        rows = slice(start, min(start + CHUNK, size))
        same = name[rows, None] == name  # (n, N)
        chance = torch.rand(same.shape, generator=generator).to(images.device).masked_fill(same, -1)
        rivals = chance.topk(min(WAYS, size) - 1).indices  # (n, WAYS - 1)
        scores = images[rows] @ texts.mT
        own = (images[rows] * texts[rows]).sum(1, keepdim=True)
        better = (scores.gather(1, rivals) >= own) & ~same.gather(1, rivals)
        right.append(~better.any(1))
    return torch.cat(right).float().mean()
