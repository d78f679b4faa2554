"""Images in memory that are cropped at random positions along their longer side."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from datamodules.images.base import has_words
from datamodules.samplers import Request, mix_seed


def random_crops(images: list[Tensor], size: int, seed: int) -> Tensor:
    """Crop images (C, H, W) to squares at random positions; return uint8 (N, C, size, size).

    The position is a share of the free pixels, drawn from the seed of the batch. So two images of a
    pair, which have the same place in their batches, are cropped alike.
    """
    generator = torch.Generator().manual_seed(mix_seed(seed, "crop"))
    crops = []
    for image, place in zip(images, torch.rand(len(images), generator=generator).tolist()):
        top, left = (int(place * (side - size + 1)) for side in image.shape[1:])
        crops.append(image[:, top : top + size, left : left + size])
    return torch.stack(crops)


class ImageStrips:
    """Dataset of images in memory whose shorter side has `size` pixels; batches have random crops.

    Args:
        images: Images (C, H, W), uint8.
        labels: Class of each image, int64 (N,).
        size: Height and width of the crops.
        names: Name of each image in lower case. None if images have no names.
    """

    def __init__(
        self, images: list[Tensor], labels: Tensor, size: int, names: list[str] | None = None
    ) -> None:
        self.images, self.labels, self.size, self.names = images, labels, size, names

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, request: Request) -> dict[str, Any]:
        index = request.index
        # Slices of single images are 14 times as fast as one gather over all of their pixels.
        chosen = [self.images[i] for i in index.tolist()]
        return {
            "image": random_crops(chosen, self.size, request.seed),
            "label": self.labels[index],
            "index": index,
            "seed": request.seed,
        }

    def fingerprint(self) -> str:
        """Return a hash of all images and labels."""
        digest = hashlib.blake2b(self.labels.numpy().tobytes(), digest_size=16)
        for image in self.images:
            digest.update(f"{tuple(image.shape)}".encode())
            digest.update(image.contiguous().numpy().data)
        return digest.hexdigest()

    def subset(self, index: Tensor) -> "ImageStrips":
        rows = index.tolist()
        names = None if self.names is None else [self.names[i] for i in rows]
        return ImageStrips([self.images[i] for i in rows], self.labels[index], self.size, names)

    def having(self, attribute: str) -> Tensor:
        """Return a bool mask (N,), True where a name contains `attribute` as whole words."""
        return has_words(self.names, attribute)
