"""Images that a system generates, and the real images that they are compared with."""

import inspect
import typing
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from common.errors import UserError
from datamodules.lazy_batch import LazyBatch
from lightning_modules.core.module import GenerativeModule
from metrics.features import to_bytes

TRANSLATED = 16  # number of images translated at a time; small, because images may be large
READ = 250  # number of real images read at a time


class Generate(Protocol):
    """Function that maps N seeds to images (N, C, H, W) in [-1, 1].

    Its keyword arguments are passed to the system's `sample` method.
    """

    def __call__(self, seeds: list[int], **options: Any) -> Tensor: ...


class Target(NamedTuple):
    """Images that a system generates, and the real images that they are compared with.

    Attributes:
        suffix: Suffix of the names of logged values: "/a2b" for a translation, "" otherwise.
        data: Data module of the real images.
        generate: Function that generates one image per seed. If the system needs an input image
            or caption, seed i selects sample i of the split as the input.
        inputs: Number of input images of a translation; None if the system needs no input images.
        paired: Whether image i of `data` is the reference for the image generated from seed i.
    """

    suffix: str
    data: Any
    generate: Generate
    inputs: int | None = None
    paired: bool = False


def targets(model: GenerativeModule, data: Any, split: str = "val") -> list[Target]:
    """Return what a system generates, with the real images to compare it with.

    An image translation system has one `Target` per direction, every other system a single one.

    Args:
        model: System that generates images.
        data: Data module of the system.
        split: Split that provides the input images or captions, if the system needs any.

    Raises:
        UserError: If `generate` samples strips of images, such as an image and its reconstruction.
    """
    if model.modality == "image-to-image":
        return [translation(model, data, split, direction) for direction in directions(model)]
    takes_batch = "batch" in inspect.signature(model.sample).parameters

    def generate(seeds: list[int], **options: Any) -> Tensor:
        if takes_batch:
            options["batch"] = LazyBatch(lambda: data.batch(split, seeds))
        images: Tensor = model.sample(seeds, **options)  # type: ignore[assignment]
        if images.dim() != 4:
            raise UserError(
                f"{type(model).__name__} samples strips of images, but FID and other comparisons "
                "need single images: leave out --fid.count, or give evaluate.py a folder of images"
            )
        return images

    return [Target("", data, generate)]


def directions(model: GenerativeModule) -> tuple[str, ...]:
    """Return the choices of the sampling option `direction`, such as ("a2b", "b2a")."""
    parameter = inspect.signature(model.sample).parameters["direction"]
    return typing.get_args(parameter.annotation)


def translation(model: GenerativeModule, data: Any, split: str, direction: str) -> Target:
    """Return the `Target` of one direction of image translation, such as "a2b"."""

    def generate(seeds: list[int], **options: Any) -> Tensor:
        chunks = [seeds[i : i + TRANSLATED] for i in range(0, len(seeds), TRANSLATED)]
        images = [
            model.sample(chunk, batch=data.batch(split, chunk), direction=direction, **options)
            for chunk in chunks
        ]
        return torch.cat(images)  # type: ignore[arg-type]

    inputs = len(data.domain(direction[0]).split(split))
    paired = data.split(split).paired
    return Target(f"/{direction}", data.domain(direction[-1]), generate, inputs, paired)


def real_images(data: Any, split: str, index: list[int]) -> tuple[Tensor, Tensor | None]:
    """Return real images (N, C, H, W) in uint8, and labels (N,) or None if data has none.

    The images are read in parts, because a batch in float32 needs several times their memory.

    Raises:
        UserError: If `index` is empty.
    """
    if not index:
        raise UserError(f"the {split} split has no samples: add some")
    images, labels = [], []
    for start in range(0, len(index), READ):
        batch = data.batch(split, index[start : start + READ], seed=start)
        images.append(to_bytes(batch["image"]))
        labels.append(batch.get("label"))
    return torch.cat(images), None if labels[0] is None else torch.cat(labels)
