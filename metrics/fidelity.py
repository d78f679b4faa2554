"""How near a translation is to the known answer: mean absolute error, PSNR and SSIM, over all
images of all ranks.
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
    """Mean absolute difference of pixels."""

    signature = "l1[scale=0..1|mean=values]"


class PSNR(PeakSignalNoiseRatio):
    """Decibels of the mean squared difference over all images."""

    signature = "psnr[scale=0..1|mse=all]"

    def __init__(self) -> None:
        super().__init__(data_range=1.0)


class SSIM(Metric):
    """Structural similarity (Wang et al. 2004): 1 for equal images.

    Averages the positions whose whole 11x11 Gaussian window lies inside the image, as the authors'
    code and scikit-image do. torchmetrics' own average includes a border of 5 pixels whose windows
    reach into mirrored padding.
    """

    signature = "ssim[window=gauss11|sigma=1.5|region=valid|mean=pictures]"
    window = 11
    similarity: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("similarity", "count"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, translated: Tensor, truth: Tensor) -> None:
        """Add images (N, C, H, W) in [0, 1]."""
        height, width = translated.shape[2:]
        if min(height, width) < self.window:
            raise UserError(
                f"SSIM needs images of at least {self.window}x{self.window} pixels (got "
                f"{height}x{width})"
            )
        with torch.autocast(
            translated.device.type, enabled=False
        ):  # variances are differences of squares: bfloat16 loses them
            _, similarity = structural_similarity_index_measure(
                translated, truth, data_range=1.0, return_full_image=True
            )
        valid = slice(self.window // 2, -(self.window // 2))
        self.similarity += similarity[..., valid, valid].mean((1, 2, 3)).sum()
        self.count += len(translated)

    def compute(self) -> Tensor:
        """Mean over all images of all ranks."""
        return self.similarity / self.count


FIDELITY: dict[str, type[Metric]] = {"l1": L1, "psnr": PSNR, "ssim": SSIM}


def to_unit_interval(image: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1]."""
    return (image.clamp(-1, 1) + 1) / 2


def fidelity_metrics(directions: tuple[str, ...], side: int) -> nn.ModuleDict:
    """Metrics of each direction and stage by the names that they are logged under, such as
    "val/ssim/a2b".

    Args:
        directions: Directions of translation, such as "a2b".
        side: Smaller side of the images in pixels; below SSIM's window there is no SSIM.
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
    """Update and log those of one stage and direction.

    Args:
        module: a `GenerativeModule` whose `fidelity` are `fidelity_metrics`.
        translated: (N, C, H, W) in [-1, 1].
        truth: the same shape.
        stage: "val" or "test".
        direction: such as "a2b".
    """
    for key, metric in module.fidelity.items():
        if key.startswith(f"{stage}/") and key.endswith(f"/{direction}"):
            metric.update(to_unit_interval(translated.float()), to_unit_interval(truth.float()))
            module.log_metric(key, metric)


def fidelity(
    translated: Tensor, truth: Tensor, names: Iterable[str]
) -> dict[str, tuple[float, str]]:
    """Value and signature of each named metric for uint8 images (N, C, H, W)."""
    figures = {}
    for name in names:
        metric: Any = FIDELITY[name]()
        count = max(
            1, 2**20 // truth[0].numel()
        )  # SSIM needs some fifty times the memory of its images
        for one, other in zip(translated.split(count), truth.split(count)):
            metric.update(one.float() / 255, other.float() / 255)
        figures[name] = (float(metric.compute()), str(metric.signature))
    return figures
