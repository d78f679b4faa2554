"""Similarity of a translated image to its reference: mean absolute error, PSNR and SSIM.

Each metric is computed over all images of all ranks.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio

from common.errors import UserError


class L1(MeanAbsoluteError):
    """Mean absolute difference of pixels in [0, 1]."""

    signature = "l1[scale=0..1|mean=values]"


class PSNR(PeakSignalNoiseRatio):
    """Peak signal-to-noise ratio in dB, from the mean squared difference over all images."""

    signature = "psnr[scale=0..1|mse=all]"

    def __init__(self) -> None:
        super().__init__(data_range=1.0)


class SSIM(Metric):
    """Structural similarity (Wang et al. 2004): 1 for equal images.

    The average is taken over positions whose 11x11 Gaussian filter lies completely inside the
    image, as in the authors' code and in scikit-image. The average of torchmetrics includes a
    border of 5 pixels, where the filter covers mirrored padding.
    """

    signature = "ssim[window=gauss11|sigma=1.5|region=valid|mean=images]"
    window = 11
    similarity: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("similarity", "count"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, translated: Tensor, truth: Tensor) -> None:
        """Add translated images and their references, both (N, C, H, W) in [0, 1]."""
        height, width = translated.shape[2:]
        if min(height, width) < self.window:
            raise UserError(
                f"SSIM needs images of at least {self.window}x{self.window} pixels (got "
                f"{height}x{width}): leave out ssim, or give larger images"
            )
        # Variances are differences of squares, which bfloat16 cannot represent accurately.
        with torch.autocast(translated.device.type, enabled=False):
            _, similarity = structural_similarity_index_measure(
                translated, truth, data_range=1.0, return_full_image=True
            )
        valid = slice(self.window // 2, -(self.window // 2))
        self.similarity += similarity[..., valid, valid].mean((1, 2, 3)).sum()
        self.count += len(translated)

    def compute(self) -> Tensor:
        """Return the mean over all images of all ranks."""
        return self.similarity / self.count


FIDELITY: dict[str, type[Metric]] = {"l1": L1, "psnr": PSNR, "ssim": SSIM}


def to_unit_interval(image: Tensor) -> Tensor:
    """Scale images from [-1, 1] to [0, 1]."""
    return (image.clamp(-1, 1) + 1) / 2


def fidelity_metrics(directions: tuple[str, ...], side: int) -> nn.ModuleDict:
    """Create the metrics of all stages and directions, keyed by names such as "val/ssim/a2b".

    Args:
        directions: Directions of translation, such as ("a2b", "b2a").
        side: Length of the smaller side of the images in pixels. Below 11, SSIM is left out.
    """
    fitting = [name for name in FIDELITY if name != "ssim" or side >= SSIM.window]
    names = [
        f"{stage}/{name}/{direction}"
        for stage in ("val", "test")
        for name in fitting
        for direction in directions
    ]
    return nn.ModuleDict({name: FIDELITY[name.split("/")[1]]() for name in names})


def log_fidelity(
    module: Any, translated: Tensor, truth: Tensor, stage: str, direction: str
) -> None:
    """Update and log L1, PSNR and SSIM for one stage and direction.

    Args:
        module: System whose attribute `fidelity` was created by `fidelity_metrics`.
        translated: Translated images (N, C, H, W) in [-1, 1].
        truth: Reference images, with the shape and range of `translated`.
        stage: Stage, "val" or "test".
        direction: Direction of translation, such as "a2b".
    """
    for key, metric in module.fidelity.items():
        if key.startswith(f"{stage}/") and key.endswith(f"/{direction}"):
            metric.update(to_unit_interval(translated.float()), to_unit_interval(truth.float()))
            module.log_metric(key, metric)


def fidelity(
    translated: Tensor, truth: Tensor, names: Iterable[str]
) -> dict[str, tuple[float, str]]:
    """Return the value and signature of each named metric for uint8 images (N, C, H, W)."""
    figures = {}
    for name in names:
        metric: Any = FIDELITY[name]()
        count = max(1, 2**20 // truth[0].numel())  # SSIM uses 50 times its images' memory
        for one, other in zip(translated.split(count), truth.split(count)):
            metric.update(one.float() / 255, other.float() / 255)
        figures[name] = (float(metric.compute()), str(metric.signature))
    return figures
