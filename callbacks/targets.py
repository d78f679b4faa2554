"""What a system generates, and the real images that it is compared with."""

import inspect
import typing
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from datamodules.lazy_batch import LazyBatch
from lightning_modules.core.module import GenerativeModule
from metrics.features import to_bytes

TRANSLATED = 16  # images translated at a time, which may be large


class Generate(Protocol):
    """Images (N, C, H, W) in [-1, 1] for N seeds; options are those of `sample`."""

    def __call__(self, seeds: list[int], **options: Any) -> Tensor: ...


class Target(NamedTuple):
    """One distribution of images that a system generates.

    Attributes:
        suffix: Suffix of logged names: "/a2b" for a translation, "" otherwise.
        data: Image data to compare with.
        generate: Images for seeds; where data is read, seed i reads sample i of the split.
        inputs: Number of different images for a translation; more would only repeat them.
        paired: Whether image i of `data` is the reference of image i.
    """

    suffix: str
    data: Any
    generate: Generate
    inputs: int | None = None
    paired: bool = False


def targets(model: GenerativeModule, data: Any, split: str = "val") -> list[Target]:
    """The images that a system generates: one target, or one per direction of a translation.

    Args:
        model: System that generates images.
        data: Its data module.
        split: Split whose images are translated, or whose captions are used.
    """
    if model.modality == "image-to-image":
        return [translation(model, data, split, direction) for direction in directions(model)]
    takes_batch = "batch" in inspect.signature(model.sample).parameters

    def generate(seeds: list[int], **options: Any) -> Tensor:
        if takes_batch:
            options["batch"] = LazyBatch(lambda: data.batch(split, seeds))
        images: Tensor = model.sample(seeds, **options)  # type: ignore[assignment]
        return images

    return [Target("", data, generate)]


def directions(model: GenerativeModule) -> tuple[str, ...]:
    """Choices of the option `direction` of a system that translates images."""
    parameter = inspect.signature(model.sample).parameters["direction"]
    return typing.get_args(parameter.annotation)


def translation(model: GenerativeModule, data: Any, split: str, direction: str) -> Target:
    """The target of one direction, such as "a2b"."""

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
    """uint8 images (N, C, H, W) and labels (N,) of a split as they are evaluated."""
    batch = data.batch(split, index)
    return to_bytes(batch["image"]), batch.get("label")
