"""Images as batches: uint8 in memory, one gather per batch, scaling and augmentation on the
device.
"""

import hashlib
from typing import Any, cast

import torch
from torch import Tensor

from common.errors import UserError
from datamodules.base import DataModule
from datamodules.samplers import Request, mix_seed


class InMemoryImages:
    """uint8 images (N, C, H, W) with int64 labels (N,) and optional names, gathered a batch at a
    time.

    Args:
        images: all images.
        labels: their classes.
        names: a text for each image, or none.
    """

    def __init__(self, images: Tensor, labels: Tensor, names: list[str] | None = None) -> None:
        self.images, self.labels, self.names = images, labels, names

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, request: Request) -> dict[str, Any]:
        index = request.index
        return {
            "image": self.images[index],
            "label": self.labels[index],
            "index": index,
            "seed": request.seed,
        }

    def fingerprint(self) -> str:
        """Hash of all images and labels."""
        digest = hashlib.blake2b(self.images.contiguous().numpy().data, digest_size=16)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()

    def subset(self, index: Tensor) -> "InMemoryImages":
        names = None if self.names is None else [self.names[i] for i in index.tolist()]
        return InMemoryImages(self.images[index], self.labels[index], names)

    def having(self, attribute: str) -> Tensor:
        """(N,) bool: images whose name contains `attribute` as a whole word or phrase."""
        if self.names is None:
            raise UserError("these pictures have no names or attributes; OpenMoji and CelebA do")
        return torch.tensor([f" {attribute.lower()} " in f" {name} " for name in self.names])


class ImageDataModule(DataModule):
    """Images in [-1, 1], with the augmentations that apply to any of them.

    Args:
        flip: mirror half of the training images left to right.
        binarize: draw each pixel from a Bernoulli with its grey value, anew at each presentation
            ("dynamic binarisation", Burda et al. 2015, section 5.1); the result is in {-1, 1}. Also
            in evaluation, with the batch's fixed seed.
        **kwargs: see `DataModule`.
    """

    provides = (*DataModule.provides, "image_shape")

    def __init__(self, flip: bool = False, binarize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flip, self.binarize = flip, binarize

    def transform(self, batch: dict[str, Any], *, training: bool = False) -> dict[str, Any]:
        """Scale `image` to [-1, 1] and augment it; a `mask` (N, 1, H, W) is flipped with it."""
        image = batch.get("image")
        if image is None or image.dtype != torch.uint8:
            return batch
        batch, image = dict(batch), image.float() / 255
        flip = self.flip and training
        if flip or self.binarize:
            seed = mix_seed(batch["seed"], "transform")
            generator = torch.Generator(image.device).manual_seed(seed)
        if flip:
            coin = torch.rand(len(image), 1, 1, 1, generator=generator, device=image.device)
            image = torch.where(coin < 0.5, image.flip(-1), image)
            if "mask" in batch:
                batch["mask"] = torch.where(coin < 0.5, batch["mask"].flip(-1), batch["mask"])
        if self.binarize:
            image = torch.bernoulli(image, generator=generator)
        return {**batch, "image": image.mul_(2).sub_(1)}

    def fingerprint(self, split: str) -> str:
        """Text that differs where the images of a split, as they are evaluated, differ."""
        return f"{self.split(split).fingerprint()} binarize={self.binarize}"  # type: ignore[attr-defined]

    def mean_image(self) -> Tensor:
        """Mean (C, H, W) of the training images, in [0, 1] and double precision, before any
        augmentation.

        All images that are kept in memory count; of those that are read from files, about 1,000
        spread evenly.
        """
        data = self.split("train")
        stride = 1 if isinstance(data, InMemoryImages) else -(-len(data) // 1000)
        rows = torch.arange(0, len(data), stride)
        total = sum(
            data.__getitems__(Request(part, 0))["image"].sum(0, dtype=torch.float64)
            for part in rows.split(1000)
        )
        return cast(Tensor, total) / (255 * len(rows))

    def attribute_batch(self, attribute: str) -> dict[str, Tensor]:
        """Training images in [-1, 1] that have a property, and that lack it: `positive` and
        `negative`, at most 1,000 each.

        Args:
            attribute: part of a name, or an attribute of the corpus.

        Raises:
            UserError: if no training image has it, or all have it.
        """
        data = self.split("train")
        mask = data.having(attribute)  # type: ignore[attr-defined]
        groups = {"positive": mask.nonzero()[:, 0], "negative": (~mask).nonzero()[:, 0]}
        for name, index in groups.items():
            if not len(index):
                raise UserError(
                    f"--attribute {attribute!r}: there are no {name} examples in the training "
                    "split; give another"
                )
        return {
            name: self.batch("train", index[:: -(-len(index) // 1000)].tolist())["image"]
            for name, index in groups.items()
        }
