"""Data module of CelebA: faces with 40 attributes."""

from typing import Any

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt

from common.errors import UserError
from datamodules.images.base import ImageDataModule
from datamodules.images.files import FileImages
from datamodules.images.reading import ImageReader
from datamodules.splits import take_subset


class CelebA(ImageDataModule):
    """CelebA: 202,599 images of faces with 40 binary attributes (Liu et al. 2015).

    Files are stored in torchvision's layout: `<root>/celeba/img_align_celeba/*.jpg`. All attributes
    work with `sample.py --mode attribute`. The download often fails. In that case, get the files
    from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and place them in `<root>/celeba/`.

    Args:
        Corpus:
        size: Height and width in pixels. Each image is cropped to its centre square and resized.
        label: Name of the attribute that serves as class label.
        **kwargs: Arguments of `ImageDataModule`.
    """

    provides = (*ImageDataModule.provides, "num_classes")

    SPLITS = ("train", "val", "test")

    def __init__(
        self,
        size: PositiveInt = 64,
        label: str = "Smiling",
        num_workers: NonNegativeInt = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_workers=num_workers, **kwargs)
        self.size, self.label = int(size), label
        self.folder = self.root / "celeba"

    @property
    def data_spec(self) -> dict[str, Any]:
        return {"image_shape": [3, self.size, self.size], "num_classes": 2}

    def prepare_data(self) -> None:
        if (self.folder / "img_align_celeba").is_dir():
            return
        from torchvision.datasets import CelebA as Download

        try:
            Download(self.root, download=True)
        except Exception as error:  # gdown, a quota or a checksum failed
            raise UserError(
                f"CelebA is not under {self.folder} and could not be downloaded: place "
                "img_align_celeba/, list_attr_celeba.txt and "
                "list_eval_partition.txt there (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html)"
            ) from error

    def load_split(self, split: str) -> FileImages:
        partition = dict(
            line.split()
            for line in (self.folder / "list_eval_partition.txt")
            .read_text(encoding="utf-8")
            .splitlines()
        )
        _, header, *lines = (
            (self.folder / "list_attr_celeba.txt").read_text(encoding="utf-8").splitlines()
        )
        rows = {name: values for name, *values in map(str.split, lines)}
        files = [name for name in rows if partition[name] == str(self.SPLITS.index(split))]
        table = torch.tensor([[value == "1" for value in rows[name]] for name in files])
        attributes = dict(zip(header.split(), table.T))
        if self.label not in attributes:
            raise UserError(
                f"data.label {self.label}: there is no such attribute; give one of "
                f"{', '.join(attributes)}"
            )
        paths = [self.folder / "img_align_celeba" / name for name in files]
        labels = attributes[self.label].long()
        data = FileImages(paths, labels, ImageReader(self.size, 3), attributes)
        return take_subset(data, self.max_samples) if split == "train" else data
