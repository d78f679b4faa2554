"""Two domains of images, a and b, as batches: paired, where image i of b is the answer to
image i of a, or two piles.

A batch holds `a`, `b` and `paired` (whether they belong together). Images are kept at `load_size`
for training, which cuts a random square of `size` out of each and mirrors half of them, the same
way in both of a pair; for evaluation they are kept at `size`.
"""

from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor
from torchvision.transforms import v2

from common.errors import UserError
from datamodules.base import DataModule
from datamodules.images.base import InMemoryImages
from datamodules.images.files import FileImages
from datamodules.samplers import Request, mix_seed
from datamodules.splits import take_subset

Images = InMemoryImages | FileImages


class TwoDomains:
    """Images of both domains, gathered a batch at a time; as long as the longer of them.

    Args:
        a: images of the first domain.
        b: images of the second.
        paired: whether image i of one belongs to image i of the other.
        shuffle: in unpaired data, meet each image of a with any of b, anew each time; otherwise
            with the one of its number.
    """

    def __init__(self, a: Images, b: Images, *, paired: bool, shuffle: bool) -> None:
        if paired and len(a) != len(b):
            raise UserError(
                f"pairs need as many pictures in a as in b, and there are {len(a)} and {len(b)}"
            )
        self.a, self.b, self.paired, self.shuffle = a, b, paired, shuffle

    def __len__(self) -> int:
        return max(len(self.a), len(self.b)) if len(self.a) and len(self.b) else 0

    def __getitems__(self, request: Request) -> dict[str, Any]:
        index = request.index
        other = index % len(self.b)
        if self.shuffle and not self.paired:
            generator = torch.Generator().manual_seed(mix_seed(request.seed, "partners"))
            other = torch.randint(len(self.b), (len(index),), generator=generator)
        a = self.a.__getitems__(Request(index % len(self.a), request.seed))
        b = self.b.__getitems__(Request(other, request.seed))
        return {
            "a": a["image"],
            "b": b["image"],
            "index": index,
            "seed": request.seed,
            "paired": self.paired,
        }


class PairDataModule(DataModule):
    """Base of all corpora of two domains. A subclass provides `load_domains`, and `channels` where
    there are not three.

    Args:
        size: height and width in pixels of what a system gets.
        load_size: height and width at which training images are kept; `size` unless given, which
            leaves nothing to cut.
        paired: train on pairs; otherwise on two piles.
        swap: exchange the two domains.
        flip: mirror half of the training images left to right.
        **kwargs: see `DataModule`; `max_samples` counts in each domain.

    Raises:
        UserError: if `load_size` is below `size`.
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
        """Images of a and of b, as they are kept, and whether they are pairs."""
        raise NotImplementedError

    def load_split(self, split: str) -> TwoDomains:
        a, b, paired = self.load_domains(split)
        if split == "train":
            a, b = take_subset(a, self.max_samples), take_subset(b, self.max_samples)
        if self.swap:
            a, b = b, a
        return TwoDomains(a, b, paired=paired, shuffle=split == "train")

    def domain(self, name: str) -> "Domain":
        """One of "a" and "b" as data of its own, for what measures images."""
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

    def augment(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """A random square of `size` of each image (N, C, L, L), half of them mirrored."""
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
        """(N, C, size, size) in [-1, 1]."""
        if image.shape[-1] != self.size:
            image = v2.functional.resize(
                image, [self.size, self.size], v2.InterpolationMode.BICUBIC, antialias=True
            )
        return image.float().div_(127.5).sub_(1)


class Domain:
    """One domain of two, with all that the callbacks and metrics ask of image data: `data_spec`,
    `split`, `batch`, `fingerprint`.

    Args:
        data: both domains.
        name: "a" or "b".
    """

    def __init__(self, data: PairDataModule, name: str) -> None:
        self.data, self.name, self.root = data, name, data.root

    @property
    def data_spec(self) -> dict[str, Any]:
        """Those of both, and the number of classes where images have labels."""
        labels: Tensor = self.split("train").labels
        return {
            **self.data.data_spec,
            **({"num_classes": int(labels.max()) + 1} if len(labels.unique()) > 1 else {}),
        }

    def split(self, split: str) -> Images:
        """Images of one of "train", "val", "test"."""
        images: Images = getattr(self.data.split(split), self.name)
        return images

    def batch(self, split: str, index: list[int], *, seed: int = 0) -> dict[str, Any]:
        """The named images as they are evaluated: `image` in [-1, 1] and `label`."""
        images = self.split(split)
        batch = images.__getitems__(Request(torch.tensor(index) % len(images), seed))
        return {**batch, "image": self.data.finish(batch["image"])}

    def fingerprint(self, split: str) -> str:
        """Text that differs where the images of a split, as they are evaluated, differ."""
        return f"{self.split(split).fingerprint()} size={self.data.size}"
