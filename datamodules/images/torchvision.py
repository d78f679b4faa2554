"""MNIST, FashionMNIST, KMNIST and CIFAR-10, downloaded by torchvision and kept in memory."""

from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt
from torchvision import datasets

from common.errors import UserError
from datamodules.images.base import ImageDataModule, InMemoryImages
from datamodules.splits import take_subset

SHAPES = {
    "MNIST": [1, 28, 28],
    "FashionMNIST": [1, 28, 28],
    "KMNIST": [1, 28, 28],
    "CIFAR10": [3, 32, 32],
}


class TorchvisionImages(ImageDataModule):
    """Small labelled images of ten classes, stored in torchvision's layout below `root`.

    Training, validation and test images are disjoint. MNIST and FashionMNIST contain no two
    pixel-identical images. 3 % of CIFAR-10's test images have a near-duplicate in the training set
    (Barz and Denzler 2020).

    Args:
        Corpus:
        dataset: Name of the data set.
        val_size: Number of images at the end of the training set that are used for validation
            only. 0 disables validation.
        pad: Number of black pixels added on each side. For example, 2 turns 28 x 28 images into
            32 x 32, which can be halved five times.
        **kwargs: Arguments of `ImageDataModule`.
    """

    provides = (*ImageDataModule.provides, "num_classes")

    def __init__(
        self,
        dataset: Literal["MNIST", "FashionMNIST", "KMNIST", "CIFAR10"] = "MNIST",
        val_size: NonNegativeInt = 5000,
        pad: NonNegativeInt = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset, self.val_size, self.pad = dataset, val_size, int(pad)

    @property
    def data_spec(self) -> dict[str, Any]:
        channels, height, width = SHAPES[self.dataset]
        return {
            "image_shape": [channels, height + 2 * self.pad, width + 2 * self.pad],
            "num_classes": 10,
        }

    def prepare_data(self) -> None:
        for train in (True, False):
            self._dataset(train)

    def _dataset(self, train: bool) -> Any:
        try:
            return getattr(datasets, self.dataset)(self.root, train=train, download=True)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{self.dataset} is not under {self.root} and could not be downloaded ({error}): "
                "try again, or place it there"
            ) from error

    def load_split(self, split: str) -> InMemoryImages:
        dataset = self._dataset(split != "test")
        images = torch.as_tensor(dataset.data)
        images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)
        labels = torch.as_tensor(dataset.targets)
        if split != "test":
            if self.val_size >= len(images):
                raise UserError(
                    f"data.val_size {self.val_size} leaves none of the {len(images)} training "
                    "images: lower it"
                )
            border = len(images) - self.val_size
            part = slice(0, border) if split == "train" else slice(border, None)
            images, labels = images[part], labels[part]
        if self.pad:
            images = torch.nn.functional.pad(images, [self.pad] * 4)
        data = InMemoryImages(images.contiguous(), labels)
        return take_subset(data, self.max_samples) if split == "train" else data
