"""How near a translation is to the known answer: mean absolute error, PSNR and SSIM, over all pictures of all ranks."""

from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure


class L1(MeanAbsoluteError):
    """Mean absolute difference of pixels."""

    signature = "l1[scale=0..1|mean=values]"


class PSNR(PeakSignalNoiseRatio):
    """Decibels of the mean squared difference over all pictures."""

    signature = "psnr[scale=0..1|mse=all]"

    def __init__(self) -> None:
        super().__init__(data_range=1.0)


class SSIM(StructuralSimilarityIndexMeasure):
    """Structural similarity (Wang et al. 2004): 1 for equal pictures."""

    signature = "ssim[window=gauss11|sigma=1.5|mean=pictures]"

    def __init__(self) -> None:
        super().__init__(data_range=1.0)


FIDELITY: dict[str, type[Metric]] = {"l1": L1, "psnr": PSNR, "ssim": SSIM}


def unit(image: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1]."""
    return (image.clamp(-1, 1) + 1) / 2


def fidelity_metrics(directions: tuple[str, ...]) -> nn.ModuleDict:
    """All three for each direction and stage, by the names that they are logged under, such as "val/ssim/a2b"."""
    names = [f"{stage}/{name}/{direction}" for stage in ("val", "test") for name in FIDELITY for direction in directions]
    return nn.ModuleDict({name: FIDELITY[name.split("/")[1]]() for name in names})


def log_fidelity(module: Any, made: Tensor, truth: Tensor, stage: str, direction: str) -> None:
    """Update and log those of one stage and direction.

    Args:
        module: a `GenerativeModule` whose `fidelity` are `fidelity_metrics`.
        made: (N, C, H, W) in [-1, 1].
        truth: the same shape.
        stage: "val" or "test".
        direction: such as "a2b".
    """
    for name in FIDELITY:
        key = f"{stage}/{name}/{direction}"
        module.fidelity[key].update(unit(made.float()), unit(truth.float()))
        module.log_metric(key, module.fidelity[key])


def fidelity(made: Tensor, truth: Tensor) -> dict[str, tuple[float, str]]:
    """Value and signature of each metric for uint8 pictures (N, C, H, W)."""
    found = {}
    for name, kind in FIDELITY.items():
        metric: Any = kind()
        count = max(1, 2**20 // truth[0].numel())  # SSIM needs some fifty times the memory of its pictures
        for one, other in zip(made.split(count), truth.split(count)):
            metric.update(one.float() / 255, other.float() / 255)
        found[name] = (float(metric.compute()), str(metric.signature))
    return found
