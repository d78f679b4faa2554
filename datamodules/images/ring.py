"""A ring of eight Gaussians in the plane: a p(x) that one can look at, where mode collapse and its
cures show in a minute.
"""

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
    """Points as images of shape (2, 1, 1), labelled by the Gaussian they come from.

    Args:
        modes: number of Gaussians, evenly spread.
        radius: of the ring; images live in [-1, 1].
        deviation: of each Gaussian in both directions.
        **kwargs: see `DataModule`.
    """

    embedded = True
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
        """(modes, 2) means of the Gaussians."""
        angle = 2 * math.pi * torch.arange(self.modes) / self.modes
        return self.radius * torch.stack([angle.cos(), angle.sin()], 1)

    def mean_image(self) -> Tensor:
        """Mean (2, 1, 1) of the training points, moved to [0, 1], in double precision."""
        points: InMemoryImages = self.split("train")  # type: ignore[assignment]
        return (points.images.double().mean(0) + 1) / 2

    def load_split(self, split: str) -> InMemoryImages:
        """Points drawn once with a seed of the split's own, so that no two splits share one."""
        generator = torch.Generator().manual_seed(mix_seed("ring", split))
        label = torch.randint(self.modes, (SIZES[split],), generator=generator)
        points = self.centres[label] + self.deviation * torch.randn(
            len(label), 2, generator=generator
        )
        data = InMemoryImages(points[:, :, None, None], label)
        return take_subset(data, self.max_samples) if split == "train" else data
