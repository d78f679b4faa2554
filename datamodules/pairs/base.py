"""Base class of data modules with images of two domains, a and b, paired or unpaired.

A batch contains images `a`, images `b`, and `paired`: whether image i of `b` corresponds to image i
of `a`. Training images are resized to `load_size` and cropped to a random square of `size` pixels.
With `flip`, half of them are also mirrored. Both images of a pair are cropped and mirrored alike.
Evaluation images are resized to `size` and not cropped.
"""

from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor
from torchvision.transforms import v2

from common.errors import UserError
from datamodules.base import DataModule
from datamodules.images.files import Images
from datamodules.samplers import Request, mix_seed
from datamodules.splits import take_subset


class TwoDomains:
    """Dataset of images of two domains. Its length is the size of the larger domain.

    Args:
        a: Images of domain a.
        b: Images of domain b.
        paired: Whether image i of b corresponds to image i of a.
        shuffle: Whether each image of a is combined with a random image of b, newly chosen each
            time. If False, image i of a is combined with image i of b, as it always is for paired
            data.

    Raises:
        UserError: If paired domains have different numbers of images.
    """

    def __init__(self, a: Images, b: Images, *, paired: bool, shuffle: bool) -> None:
        if paired and len(a) != len(b):
            raise UserError(
                f"paired data need equal numbers of images in both domains (got {len(a)} in a and "
                f"{len(b)} in b): add or remove images"
            )
        self.a, self.b, self.paired, self.shuffle = a, b, paired, shuffle

    def __len__(self) -> int:
        return max(len(self.a), len(self.b)) if len(self.a) and len(self.b) else 0

    def __getitems__(self, request: Request) -> dict[str, Any]:
        index = request.index
        other, other_seed = index % len(self.b), request.seed
        if self.shuffle and not self.paired:
            other_seed = mix_seed(request.seed, "b")
            generator = torch.Generator().manual_seed(mix_seed(request.seed, "partners"))
            other = torch.randint(len(self.b), (len(index),), generator=generator)
        a = self.a.__getitems__(Request(index % len(self.a), request.seed))
        b = self.b.__getitems__(Request(other, other_seed))
        return {
            "a": a["image"],
            "b": b["image"],
            "index": index,
            "seed": request.seed,
            "paired": self.paired,
        }


class PairDataModule(DataModule):
    """Base class of data modules with two domains.

    A subclass implements `load_domains`, and sets `channels` if it is not 3.

    Args:
        Pairs:
        size: Height and width in pixels of the images of a batch, after the crop.
        load_size: Height and width in pixels of training images before the random crop to `size`.
            Defaults to `size`, which means no crop.
        paired: Train on pairs of corresponding images. If False, train on unpaired images.
        swap: Exchange domains a and b.
        flip: Mirror each training image left to right with probability 0.5.
        **kwargs: Arguments of `DataModule`; `max_samples` applies to each domain.

    Raises:
        UserError: If `load_size` is below `size`.
    """

    provides = (*DataModule.provides, "image_shape")

    channels = 3

    def __init__(
        self,
        size: PositiveInt = 64,
        load_size: PositiveInt | None = None,
        paired: bool = False,
        swap: bool = False,
        flip: bool = False,
        batch_size: PositiveInt = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        self.size, self.load_size = int(size), int(load_size or size)
        if self.load_size < size:
            raise UserError(
                f"data.load_size {load_size} is below data.size {size}: raise it, or leave it out"
            )
        self.paired, self.swap, self.flip = paired, swap, flip

    @property
    def data_spec(self) -> dict[str, Any]:
        return {"image_shape": [self.channels, self.size, self.size]}

    def load_domains(self, split: str) -> tuple[Images, Images, bool]:
        """Return the images of a and of b in a split, and whether these images are pairs."""
        raise NotImplementedError

    def load_split(self, split: str) -> TwoDomains:
        a, b, paired = self.load_domains(split)
        if split == "train":
            a, b = take_subset(a, self.max_samples), take_subset(b, self.max_samples)
        if self.swap:
            a, b = b, a
        return TwoDomains(a, b, paired=paired, shuffle=split == "train")

    def domain(self, name: str) -> "Domain":
        """Return domain "a" or "b" as image data, for callbacks and metrics."""
        return Domain(self, name)

    def transform(self, batch: dict[str, Any], *, training: bool = False) -> dict[str, Any]:
        if batch["a"].dtype != torch.uint8:
            return batch
        a, b = batch["a"], batch["b"]
        if training:
            generator = torch.Generator(a.device).manual_seed(mix_seed(batch["seed"], "transform"))
            before = generator.get_state()
            a = self.augment(a, generator)
            if batch["paired"]:
                generator.set_state(before)
            b = self.augment(b, generator)
        return {**batch, "a": self.finish(a), "b": self.finish(b)}

    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        return {"a": batch["a"], "b": batch["b"]}

    def augment(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Crop a random square of `size` pixels from each image (N, C, L, L).

        With `flip`, half of the images are mirrored.
        """
        count, span = len(image), image.shape[-1] - self.size + 1
        top, left, coin = torch.rand(3, count, 1, 1, generator=generator, device=image.device)
        steps = torch.arange(self.size, device=image.device)
        rows = (top * span).long() + steps[:, None]  # (N, size, 1)
        columns = (left * span).long() + (
            torch.where(coin < 0.5, steps.flip(0), steps) if self.flip else steps
        )  # (N, 1, size)
        number = torch.arange(count, device=image.device)[:, None, None]
        return image.permute(0, 2, 3, 1)[number, rows, columns].permute(0, 3, 1, 2).contiguous()

    def finish(self, image: Tensor) -> Tensor:
        """Resize uint8 images to (N, C, size, size) if necessary, and scale values to [-1, 1]."""
        if image.shape[-1] != self.size:
            image = v2.functional.resize(
                image, [self.size, self.size], v2.InterpolationMode.BICUBIC, antialias=True
            )
        return image.float().div_(127.5).sub_(1)


class Domain:
    """One of two domains, with the methods of an image data module that callbacks and metrics call.

    Args:
        data: Data module of both domains.
        name: Name of the domain, "a" or "b".
    """

    def __init__(self, data: PairDataModule, name: str) -> None:
        self.data, self.name, self.root = data, name, data.root

    @property
    def data_spec(self) -> dict[str, Any]:
        """Values for a model: `image_shape`, and `num_classes` if the images have labels."""
        labels: Tensor = self.split("train").labels
        return {
            **self.data.data_spec,
            **({"num_classes": int(labels.max()) + 1} if len(labels.unique()) > 1 else {}),
        }

    def split(self, split: str) -> Images:
        """Return the images of the split "train", "val" or "test"."""
        images: Images = getattr(self.data.split(split), self.name)
        return images

    def batch(self, split: str, index: list[int], *, seed: int = 0) -> dict[str, Any]:
        """Return images of a split without augmentation: `image` in [-1, 1] and `label`.

        Indices are taken modulo the number of images.
        """
        images = self.split(split)
        batch = images.__getitems__(Request(torch.tensor(index) % len(images), seed))
        return {**batch, "image": self.data.finish(batch["image"])}

    def fingerprint(self, split: str) -> str:
        """Return a string that changes if the evaluation images of a split change."""
        return f"{self.split(split).fingerprint()} size={self.data.size}"
