"""Base class of image data modules: uint8 images, scaled and augmented on the device."""

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import torch
from jsonargparse.typing import NonNegativeInt, restricted_number_type
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from datamodules.base import BatchedDataset, DataModule
from datamodules.samplers import Request, mix_seed

Blur = restricted_number_type("Blur", float, [(">=", 0), ("<=", 2)])
MAX_DEVICE_SHARE = 0.1  # maximum share of a GPU's memory for training images


def has_words(names: list[str] | None, words: str) -> Tensor:
    """Return a bool mask (N,), True where a name contains `words` as whole words.

    Raises:
        UserError: If there are no names.
    """
    if names is None:
        raise UserError(
            "these images have no names or attributes; use data with names or attributes, such "
            "as OpenMoji or CelebA"
        )
    return torch.tensor([contains(name, words) for name in names])


def contains(name: str, words: str) -> bool:
    """Return whether a name contains whole words, in upper or lower case."""
    return f" {words.lower()} " in f" {name.lower()} "


def shifted(image: Tensor, offset: Tensor) -> Tensor:
    """Shift each image (N, C, H, W) down and right by its own offset; border pixels are repeated.

    Args:
        image: Images (N, C, H, W).
        offset: Offsets in pixels, int64 (2, N): down and right.
    """
    _, _, height, width = image.shape
    down, right = offset[:, :, None, None, None]
    rows = (torch.arange(height, device=image.device)[:, None] - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=image.device) - right).clamp(0, width - 1)
    return image.take_along_dim(rows, 2).take_along_dim(columns, 3)


def blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image (N, C, H, W) with its own Gaussian kernel of 9x9; border pixels are repeated.

    Args:
        image: Images (N, C, H, W).
        sigma: Standard deviation of each Gaussian in pixels, (N,); must be positive.
    """
    taps = torch.arange(-4, 5, device=image.device)
    kernel = (-((taps / sigma[:, None]) ** 2) / 2).softmax(1)[:, None, None, :, None]
    for _ in range(2):  # the rows, then the columns
        padded = F.pad(image, (4, 4, 0, 0), mode="replicate")
        image = (padded.unfold(3, 9, 1) @ kernel).squeeze(-1).mT
    return image


class InMemoryImages:
    """Dataset of images in memory.

    Args:
        images: Images (N, C, H, W), usually uint8.
        labels: Class of each image, int64 (N,).
        names: Name of each image in lower case. None if images have no names.
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
        """Return a hash of all images and labels."""
        digest = hashlib.blake2b(self.images.contiguous().numpy().data, digest_size=16)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()

    def on(self, device: torch.device) -> "DeviceImages":
        """Return a copy of the data on a device, which gathers batches there."""
        return DeviceImages(self.images.to(device), self.labels.to(device), self.names)

    def subset(self, index: Tensor) -> "InMemoryImages":
        names = None if self.names is None else [self.names[i] for i in index.tolist()]
        return InMemoryImages(self.images[index], self.labels[index], names)

    def having(self, attribute: str) -> Tensor:
        """Return a bool mask (N,), True where a name contains `attribute` as whole words."""
        return has_words(self.names, attribute)


class DeviceImages(InMemoryImages):
    """Dataset of images in the memory of a GPU, whose batches need no transfer from the CPU.

    On a GPU, gathering a batch on the CPU and copying it takes most of an update of a small
    network.
    """

    on_device = True

    def __getitems__(self, request: Request) -> dict[str, Any]:
        index = request.index
        if self.images.is_cuda:  # a copy from pinned memory does not wait for the GPU
            index = index.pin_memory().to(self.images.device, non_blocking=True)
        return super().__getitems__(Request(index, request.seed))


class ImageDataModule(DataModule):
    """Base class of image data modules; images have values in [-1, 1].

    Args:
        Augmentation:
        flip: Mirror each training image left to right with probability 0.5.
        shift: Maximum random shift of training images in pixels, horizontally and vertically; 0
            disables shifts. Pixels at the border are repeated.
        blur: Maximum standard deviation in pixels of a Gaussian blur of training images, at most 2;
            0 disables blur. The standard deviation of each image is uniform between 0 and `blur`.
        binarize: Sample each pixel from {-1, 1} each time an image is loaded. The probability of
            1 is the grey value of the pixel in [0, 1] ("dynamic binarisation", Burda et al. 2015,
            section 5.1). In evaluation, this sampling has fixed seeds.
        **kwargs: Arguments of `DataModule`.

    Attributes:
        class_names: Names of classes, keyed by label; classes without a name show their number.
    """

    provides = (*DataModule.provides, "image_shape")
    class_names: Mapping[int, str] = {}

    def __init__(
        self,
        flip: bool = False,
        shift: NonNegativeInt = 0,
        blur: Blur = 0.0,  # type: ignore[valid-type]
        binarize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.flip, self.shift, self.binarize = flip, int(shift), binarize
        self.blur = float(blur)
        self._on_device: DeviceImages | None = None  # training images

    def loader_dataset(self, split: str) -> BatchedDataset:
        """Return the dataset of a split; on a GPU, training images are kept in its memory.

        They are kept there if they are in memory, take at most a tenth of the GPU's memory, and are
        loaded by this process.
        """
        data = super().loader_dataset(split)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if split != "train" or device.type != "cuda" or self.num_workers:
            return data
        if not isinstance(data, InMemoryImages):
            return data
        share = data.images.nbytes / torch.cuda.get_device_properties(device).total_memory
        if share > MAX_DEVICE_SHARE:
            return data
        if self._on_device is None:
            self._on_device = data.on(device)
        return self._on_device

    def transform(self, batch: dict[str, Any], *, training: bool = False) -> dict[str, Any]:
        """Scale `image` to [-1, 1] and augment it.

        `mask` (N, 1, H, W) is mirrored and shifted with the image, but not blurred.
        """
        image = batch.get("image")
        if image is None or image.dtype != torch.uint8:
            return batch
        batch, image = dict(batch), image.float() / 255
        flip, shift = self.flip and training, self.shift if training else 0
        blur = self.blur if training else 0.0
        if flip or shift or blur or self.binarize:
            seed = mix_seed(batch["seed"], "transform")
            generator = torch.Generator(image.device).manual_seed(seed)
        if flip:
            coin = torch.rand(len(image), 1, 1, 1, generator=generator, device=image.device)
            image = torch.where(coin < 0.5, image.flip(-1), image)
            if "mask" in batch:
                batch["mask"] = torch.where(coin < 0.5, batch["mask"].flip(-1), batch["mask"])
        if shift:
            offset = torch.randint(
                -shift, shift + 1, (2, len(image)), generator=generator, device=image.device
            )
            image = shifted(image, offset)
            if "mask" in batch:
                batch["mask"] = shifted(batch["mask"], offset)
        if blur:
            sigma = 1 - torch.rand(len(image), generator=generator, device=image.device)
            image = blurred(image, blur * sigma).clamp_(0, 1)  # the weights' sum is rounded
        if self.binarize:
            image = torch.bernoulli(image, generator=generator)
        return {**batch, "image": image.mul_(2).sub_(1)}

    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        if "num_classes" not in self.data_spec:
            return {"image": batch["image"]}
        classes = [self.class_names.get(i, str(i)) for i in batch["label"].tolist()]
        return {"image": batch["image"], "class": classes}

    def fingerprint(self, split: str) -> str:
        """Return a string that changes if the evaluation images of a split change."""
        return f"{self.split(split).fingerprint()} binarize={self.binarize}"  # type: ignore[attr-defined]

    def mean_image(self) -> Tensor:
        """Return the mean of the training images without augmentation, float64 (C, H, W) in [0, 1].

        The mean is over all images of an `InMemoryImages`, else over about 1,000 evenly spaced
        images.
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
        """Return training images with and without an attribute.

        Args:
            attribute: Word or phrase in the names of images, or an attribute such as Smiling.

        Returns:
            Dictionary of `positive` (images with the attribute) and `negative` (images without it):
            at most 1,000 images each, (N, C, H, W) in [-1, 1].

        Raises:
            UserError: If all or none of the training images have the attribute.
        """
        data = self.split("train")
        mask = data.having(attribute)  # type: ignore[attr-defined]
        groups = {"positive": mask.nonzero()[:, 0], "negative": (~mask).nonzero()[:, 0]}
        for name, index in groups.items():
            if not len(index):
                raise UserError(
                    f"--attribute {attribute!r}: there are no {name} examples in the training "
                    "split; give another attribute"
                )
        return {
            name: self.batch("train", index[:: -(-len(index) // 1000)].tolist())["image"]
            for name, index in groups.items()
        }
