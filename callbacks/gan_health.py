"""Measure failures of GAN training that the losses do not show, at every validation.

| failure | value in `health.csv` | sign of failure |
|---|---|---|
| oscillation | `oscillation`: minimum autocorrelation, over all lags, of the discriminator's loss, which is stored once per logging interval | below -0.5 |
| uninformative loss | `accuracy`: accuracy of the discriminator on real and generated images | above 0.99: the discriminator's output tells the generator little (with the minimax loss, the gradient vanishes); `train/wasserstein` still falls as the samples approach the data |
| mode collapse | `diversity`: mean distance between two samples, divided by the mean distance between two real images | below 0.5 |
| mode collapse | `class_entropy`: entropy of the samples' classes, divided by the entropy of the real images' classes. A classifier trained on the data set assigns the classes | below 0.5 |
| mode collapse | `classes`: number of classes that the samples cover | fewer than the data have |
| mode collapse | `modes` (ring data): number of Gaussians that the samples cover | fewer than the data have |
| inaccurate samples | `near` (ring data): share of samples within 3 standard deviations of a Gaussian's centre. A collapsed generator may have a large share too | far below 1 |
| memorising | `novelty` (images): median distance of samples to the nearest training image, divided by the median distance of validation images to the nearest training image | below 0.5 |
| overfitting | `overfitting` (images): discriminator's mean output on training images minus its mean output on validation images, divided by its mean output on training images minus its mean output on generated images | above 0.5; remedy: DiffAugment |

A warning is printed when a value crosses one of these numbers. Sensitivity to hyper-parameters is a
further failure; `sweep.py` measures it with many runs.
"""  # noqa: E501  # a table

import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.preview_batch import spread
from callbacks.publish import log_table, log_values
from callbacks.real_features import corpus_classifier
from callbacks.run_files import CSVLog
from callbacks.targets import Target, targets
from datamodules.images.ring import Ring
from lightning_modules.core.adversarial import AdversarialModule
from lightning_modules.core.module import GenerativeModule
from metrics.classifier import shrink
from metrics.modes import classes_covered, modes_covered

MIN_SIDE = 8  # the classifier needs images with at least this side, in pixels
HISTORY = 100  # maximum number of stored discriminator losses, one per logging interval
LIMITS = {  # a warning is printed below these values
    "oscillation": -0.5,
    "diversity": 0.5,
    "class_entropy": 0.5,
    "novelty": 0.5,
}
UPPER_LIMITS = {"accuracy": 0.99, "overfitting": 0.5}  # a warning is printed above these values
ADVICE = {
    "oscillation": "the losses oscillate: lower a learning rate",
    "accuracy": "the discriminator separates nearly all images: regularise it",
    "diversity": "mode collapse: the samples are less diverse than real images",
    "class_entropy": "mode collapse: most samples belong to few classes",
    "novelty": "the samples are copies of training images: use more data",
    "overfitting": "the discriminator overfits the training images: use more data",
}
R1 = ("r1_weight", 0.0, "--model.r1_weight above 0")
# Options that help: name of a hyper-parameter, its value at which the option is advised, and the
# option. A system without this hyper-parameter gets no such advice.
REMEDIES: dict[str, list[tuple[str, Any, str]]] = {
    "oscillation": [R1],
    "accuracy": [
        ("loss", "minimax", "--model.loss non_saturating"),
        R1,
        ("spectral", False, "--model.spectral true"),
    ],
    "diversity": [R1],
    "class_entropy": [R1],
    "overfitting": [("augment", 0.0, "--model.augment 0.7"), R1],
}


def is_trouble(name: str, value: float) -> bool:
    """Return whether a value is below its entry in `LIMITS` or above it in `UPPER_LIMITS`."""
    return value < LIMITS.get(name, -torch.inf) or value > UPPER_LIMITS.get(name, torch.inf)


def advice(name: str, model: LightningModule) -> str:
    """Return what to do about a failure; it names only options that the system has.

    Args:
        name: Key of `ADVICE`.
        model: System that is trained.
    """
    options = [
        option
        for parameter, value, option in REMEDIES.get(name, [])
        if parameter in model.hparams and model.hparams[parameter] == value
    ]
    return f"{ADVICE[name]}; try {' or '.join(options)}" if options else ADVICE[name]


def meaning(name: str, model: LightningModule) -> tuple[str, str]:
    """Return when a value is a sign of failure, and the advice; "" for a value without limit."""
    name = name.partition("/")[0]
    if name in LIMITS:
        return f"below {LIMITS[name]}", advice(name, model)
    return (
        (f"above {UPPER_LIMITS[name]}", advice(name, model)) if name in UPPER_LIMITS else ("", "")
    )


def lowest_autocorrelation(values: Tensor) -> float:
    """Return the minimum autocorrelation of a series (T,) over the lags 1 to T / 2.

    The linear trend is removed first. The result is 0 for a constant or linear series.
    """
    time = torch.linspace(-1, 1, len(values), dtype=torch.float64)
    values = values.double() - values.double().mean()
    values = values - time * (values @ time) / (time @ time)
    power = values @ values
    if power == 0:
        return 0.0
    return min(
        float(values[lag:] @ values[:-lag] / power) for lag in range(1, len(values) // 2 + 1)
    )


def pairwise(images: Tensor) -> Tensor:
    """Return the mean Euclidean distance over all pairs of images (N, C, H, W)."""
    return torch.pdist(images.flatten(1)).mean()


def nearest(images: Tensor, pool: Tensor) -> Tensor:
    """Return the median distance from images (N, C, H, W) to the nearest image in `pool`."""
    return torch.cdist(images.flatten(1), pool.flatten(1)).amin(1).median()


class GanHealth(Callback):
    """Measures failures of GAN training after each validation and warns about new failures.

    Writes the measured values to `health.csv`. The docstring of the module `callbacks.gan_health`
    defines each value.

    Args:
        count: Maximum number of generated images, and maximum number of validation images that
            they are compared with.
        pool: Maximum number of training images among which nearest neighbours are searched.
    """

    update_periods: ClassVar[list[int]] = []  # may act after several updates

    def __init__(self, count: int = 256, pool: int = 5000) -> None:
        self.count, self.pool = count, pool
        self._losses: list[float] = []
        self._troubles: set[str] = set()
        self._figures: dict[str, float] = {}  # of the last validation
        self._measured_at = 0  # update of the last validation
        self._totals: dict[str, int] = {}  # numbers of modes or classes of the data
        self._real: dict[tuple[str, str], Tensor] = {}  # real images by target and split
        self._classifiers: dict[str, nn.Module] = {}  # by target

    @staticmethod
    def watches(model: LightningModule) -> bool:
        """Return whether a system is adversarial and generates images."""
        return isinstance(model, AdversarialModule) and model.modality in (
            "images",
            "image-to-image",
        )

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._losses, "troubles": sorted(self._troubles)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._losses, self._troubles = list(state_dict["losses"]), set(state_dict["troubles"])

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._log = CSVLog(
            Path(trainer.default_root_dir) / "health.csv", keep_until=trainer.global_step
        )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        due = not pl_module.mid_update and trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if due and "train/loss_d" in trainer.callback_metrics:
            self._losses = [*self._losses, trainer.callback_metrics["train/loss_d"].item()][
                -HISTORY:
            ]

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        figures = self._figures = self.measure(trainer, pl_module)
        self._measured_at = trainer.global_step
        self._log.log_metrics(figures, trainer.global_step)
        named = {f"health/{name}": value for name, value in figures.items()}
        log_values(trainer, named, trainer.global_step)
        troubles = {
            name for name, value in figures.items() if is_trouble(name.partition("/")[0], value)
        }
        for name in sorted(troubles - self._troubles):
            print(
                f"warning: step {trainer.global_step}: {name} {figures[name]:.2f}: "
                f"{advice(name.partition('/')[0], pl_module)}",
                file=sys.stderr,
            )
        self._troubles = troubles

    def on_train_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        """Log a table of the last values and what they mean; print the covered modes or classes."""
        if not trainer.is_global_zero or not self._figures:
            return
        for name, total in self._totals.items():
            print(f"{name}: {self._figures[name]:.0f} of {total} at update {self._measured_at:,}")
        rows = [
            [name, f"{value:.4g}", *meaning(name, pl_module)]
            for name, value in self._figures.items()
        ]
        for logger in trainer.loggers:
            columns = ["figure", "last value", "sign of failure", "advice"]
            log_table(logger, "health", columns, rows, trainer.global_step)

    def measure(self, trainer: Trainer, pl_module: GenerativeModule) -> dict[str, float]:
        """Return all values that apply to this system and data, keyed by column of `health.csv`."""
        logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
        figures: dict[str, float] = {}
        if len(self._losses) >= HISTORY // 4:
            figures["oscillation"] = lowest_autocorrelation(torch.tensor(self._losses))
        if "train/accuracy_d" in logged:
            figures["accuracy"] = logged["train/accuracy_d"]
        outputs = {"train/d_real", "train/d_fake", "val/d_real"}
        # Points of a plane cannot be memorised, and the outputs soon hardly differ.
        if outputs <= logged.keys() and not isinstance(trainer.datamodule, Ring):  # type: ignore[attr-defined]
            width = logged["train/d_real"] - logged["train/d_fake"]
            figures["overfitting"] = (
                (logged["train/d_real"] - logged["val/d_real"]) / width if width > 0 else 0.0
            )
        for target in targets(pl_module, trainer.datamodule):  # type: ignore[attr-defined]
            measured, totals = self._measure_images(target, pl_module)
            figures |= {f"{name}{target.suffix}": value for name, value in measured.items()}
            self._totals |= {f"{name}{target.suffix}": total for name, total in totals.items()}
        return figures

    def _measure_images(
        self, target: Target, pl_module: GenerativeModule
    ) -> tuple[dict[str, float], dict[str, int]]:
        """Compare images generated for a target with its real training and validation images.

        Returns:
            Values, and the numbers of modes or classes that the data have.
        """
        data = target.data
        unseen = self._images(target, "val", self.count).to(pl_module.device)
        samples = shrink(target.generate(list(range(min(self.count, target.inputs or self.count)))))
        figures = {"diversity": float(pairwise(samples) / pairwise(unseen))}
        if isinstance(data, Ring):
            points = samples.flatten(1).cpu()
            modes, near = modes_covered(points, data.centres, data.deviation)
            return figures | {"modes": float(modes), "near": near}, {"modes": data.modes}
        train = self._images(target, "train", self.pool).to(pl_module.device)
        figures["novelty"] = float(nearest(samples, train) / nearest(unseen, train))
        classes = data.data_spec.get("num_classes")
        if not classes or min(data.data_spec["image_shape"][1:]) < MIN_SIDE:
            return figures, {}
        if target.suffix not in self._classifiers:
            self._classifiers[target.suffix] = corpus_classifier(data).to(pl_module.device)
        classifier = self._classifiers[target.suffix]
        drawn, real = (classifier(images).argmax(1) for images in (samples, unseen))
        covered, entropy = classes_covered(drawn, real, classes)
        figures |= {"classes": float(covered), "class_entropy": entropy}
        return figures, {"classes": classes}

    def _images(self, target: Target, split: str, count: int) -> Tensor:
        """Return at most `count` images, evenly spaced in a split, read at the first call."""
        key = (target.suffix, split)
        if key not in self._real:
            data, index = target.data, spread(len(target.data.split(split)), count)
            parts = [
                shrink(data.batch(split, index[start : start + 250])["image"])
                for start in range(0, len(index), 250)
            ]
            self._real[key] = torch.cat(parts)
        return self._real[key]
