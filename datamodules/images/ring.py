"""Ring of Gaussians in the plane: toy data that show mode collapse of a GAN within a minute."""

import math
from typing import Any

import torch
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor

from datamodules.base import DataModule
from datamodules.images.base import InMemoryImages
from datamodules.samplers import mix_seed
from datamodules.splits import take_subset

SIZES = {"train": 10_000, "val": 1_000, "test": 2_000}


class Ring(DataModule):
    """Points sampled from Gaussians on a ring, as images of shape (2, 1, 1).

    The label of a point is the index of its Gaussian.

    Args:
        Corpus:
        modes: Number of Gaussians, evenly spaced on the ring.
        radius: Radius of the ring around the origin. Choose it below 1, because values should lie
            in [-1, 1].
        deviation: Standard deviation of each Gaussian along both axes.
        **kwargs: Arguments of `DataModule`.
    """

    embedded = True
    licence = "none; samples of a mixture of Gaussians"
    provides = (*DataModule.provides, "image_shape", "num_classes")

    def __init__(
        self,
        modes: PositiveInt = 8,
        radius: PositiveFloat = 0.8,
        deviation: PositiveFloat = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.modes, self.radius, self.deviation = int(modes), radius, deviation

    @property
    def data_spec(self) -> dict[str, Any]:
        return {"image_shape": [2, 1, 1], "num_classes": self.modes}

    @property
    def centres(self) -> Tensor:
        """Means of the Gaussians (modes, 2)."""
        angle = 2 * math.pi * torch.arange(self.modes) / self.modes
        return self.radius * torch.stack([angle.cos(), angle.sin()], 1)

    def mean_image(self) -> Tensor:
        """Return the mean training point, float64 (2, 1, 1), mapped from [-1, 1] to [0, 1]."""
        points: InMemoryImages = self.split("train")  # type: ignore[assignment]
        return (points.images.double().mean(0) + 1) / 2

    def load_split(self, split: str) -> InMemoryImages:
        """Sample the points of a split with a fixed seed; no two splits share a point."""
        generator = torch.Generator().manual_seed(mix_seed("ring", split))
        label = torch.randint(self.modes, (SIZES[split],), generator=generator)
        points = self.centres[label] + self.deviation * torch.randn(
            len(label), 2, generator=generator
        )
        data = InMemoryImages(points[:, :, None, None], label)
        return take_subset(data, self.max_samples) if split == "train" else data

    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        return {"image": batch["image"]}
