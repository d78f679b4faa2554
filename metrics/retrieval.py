"""Ranking accuracy: share of images whose own caption an image-text model ranks first."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from metrics.features import to_bytes

CHUNK = 1024  # number of images that are compared with all captions at a time
WAYS = 32  # number of candidate captions per image, its own caption included
NEGATIVES = "negatives=other-caption-of-other-image"


class RankingAccuracy(Metric):
    """Share of images whose own caption has the highest score among `WAYS` captions.

    The other captions, the negatives, are sampled from the whole split. Captions equal to the
    image's own caption are excluded, as are captions of images with equal pixels. The negatives of
    an image depend only on its position in the split.
    """

    higher_is_better = True
    full_state_update = False
    signature = f"ranking[ways={WAYS}|{NEGATIVES}]"
    images: list[Tensor]
    texts: list[Tensor]
    tokens: list[Tensor]
    keys: list[Tensor]
    index: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("images", [], dist_reduce_fx="cat")
        self.add_state("texts", [], dist_reduce_fx="cat")
        self.add_state("tokens", [], dist_reduce_fx="cat")
        self.add_state("keys", [], dist_reduce_fx="cat")
        self.add_state("index", [], dist_reduce_fx="cat")

    def update(
        self, images: Tensor, texts: Tensor, tokens: Tensor, keys: Tensor, index: Tensor
    ) -> None:
        """Add a batch.

        Args:
            images: Normalised features (N, D) of images.
            texts: Normalised features (N, D) of the images' captions.
            tokens: Token ids (N, T) of the captions.
            keys: Hashes (N,) of the images, from `image_keys`.
            index: Positions (N,) of the images in the split.
        """
        states = (self.images, self.texts, self.tokens, self.keys, self.index)
        for state, values in zip(states, (images, texts, tokens, keys, index)):
            state.append(values.to(images.device))

    def compute(self) -> Tensor:
        order = dim_zero_cat(self.index).argsort()  # makes the result independent of ranks
        states = (self.images, self.texts, self.tokens, self.keys)
        return ranking_accuracy(*(dim_zero_cat(state)[order] for state in states))


def image_keys(images: Tensor) -> Tensor:
    """Return one int64 hash per image, (N,), from images (N, C, H, W) in [-1, 1].

    Equal images have equal hashes on every device and in every batch.
    """
    pixels = to_bytes(images).flatten(1).long()
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, pixels.shape[1:], generator=generator)
    return (pixels * factors.to(pixels.device)).sum(1)  # sums modulo 2^64 are exact in any order


def ranking_accuracy(images: Tensor, texts: Tensor, tokens: Tensor, keys: Tensor) -> Tensor:
    """Compute the share of images whose own caption has the highest score among `WAYS` captions.

    Args:
        images: Normalised features (N, D) of real or generated images.
        texts: Normalised features (N, D) of the images' captions.
        tokens: Token ids (N, T) of the captions.
        keys: Hashes (N,), from `image_keys`, of the real images to which the captions belong.
    """
    size, right = len(images), []
    generator = torch.Generator().manual_seed(0)
    name = tokens.unique(dim=0, return_inverse=True)[1]  # equal captions have equal numbers
    for start in range(0, size, CHUNK):
        rows = slice(start, min(start + CHUNK, size))
        same = (name[rows, None] == name) | (keys[rows, None] == keys)  # (n, N)
        chance = torch.rand(same.shape, generator=generator).to(images.device).masked_fill(same, -1)
        negatives = chance.topk(min(WAYS, size) - 1).indices  # (n, WAYS - 1)
        scores = images[rows] @ texts.mT
        own = (images[rows] * texts[rows]).sum(1, keepdim=True)
        better = (scores.gather(1, negatives) >= own) & ~same.gather(1, negatives)
        right.append(~better.any(1))
    return torch.cat(right).float().mean()
