"""FID and KID of generated images during training."""

from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.real_features import (
    MIN_IMAGES,
    RealFeatures,
    corpus_extractor,
    real_features,
    why_no_features,
)
from callbacks.targets import Target, targets
from common.errors import UserError
from common.progress import track
from lightning_modules.core.modes import sampling_note
from lightning_modules.core.module import GenerativeModule
from metrics.distances import frechet_distance, gaussian, kernel_distance
from metrics.features import Extractor, FeatureSet, to_bytes

CHUNK = 250  # number of images generated at a time


class FID(Callback):
    """Computes FID and KID between generated and validation images at every validation.

    Logs `val/classifier-fid` and `val/classifier-kid`, or `val/fid` and `val/kid` with Inception
    features. For image translation, the names end with the direction, such as `val/fid/a2b`.
    Each rank generates an equal share of the samples.

    Args:
        count: Number of generated samples for FID and KID. 0 disables both metrics. Image
            translation generates at most one sample per validation image. FID is biased upwards
            for few samples: compare values only at equal counts.
        extractor: Feature extractor: "classifier" is a small network trained on the data set
            itself; "inception" is Inception-v3, which needs downloaded weights.
    """

    def __init__(
        self,
        count: NonNegativeInt = 0,
        extractor: Literal["classifier", "inception"] = "classifier",
    ) -> None:
        self.count, self.extractor = int(count), extractor
        self.best_metric: tuple[str, str] | None = None  # FID, of the first direction
        self._prepared: dict[str, tuple[Extractor, RealFeatures]] = {}  # by suffix of a target

    def watches(self, model: LightningModule) -> bool:
        """Return whether `count` is above 0, which enables this callback."""
        return self.count > 0

    def check(self, model: GenerativeModule, data: Any) -> None:
        """Raise an error if `count` is above 0 and FID cannot be measured.

        Args:
            model: System that is trained.
            data: Data module of the run, which has read no files yet.

        Raises:
            UserError: If the system or its data have no images, the data have no labels, or `count`
                is below 10.
        """
        if not self.count:
            return
        reason = why_no_fid(model, data, self.extractor)
        if reason is None and self.count < MIN_IMAGES:
            reason = f"FID needs at least {MIN_IMAGES} images"
        if reason:
            raise UserError(f"--fid.count {self.count}: {reason}")

    def on_fit_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        """Raise an error before training if the extractor's weights or the images are missing."""
        for target in targets(pl_module, trainer.datamodule):  # type: ignore[attr-defined]
            if target.inputs is not None and target.inputs < MIN_IMAGES:
                raise UserError(
                    f"--fid.count {self.count}: the validation split has {target.inputs} images to "
                    f"translate, but FID needs at least {MIN_IMAGES}: leave out --fid.count"
                )
            extractor, _ = self._prepare(trainer, pl_module, target)
            name = f"val/{extractor.prefix}fid{target.suffix}"
            self.best_metric = self.best_metric or (name, "min")

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        for target in targets(pl_module, trainer.datamodule):  # type: ignore[attr-defined]
            self._measure(trainer, pl_module, target)

    def _prepare(
        self, trainer: Trainer, pl_module: GenerativeModule, target: Target
    ) -> tuple[Extractor, RealFeatures]:
        """Return extractor and real features; rank 0 fills the caches before other ranks load."""
        if target.suffix not in self._prepared:
            for turn in (True, False):
                if trainer.is_global_zero == turn:
                    extractor = corpus_extractor(target.data, self.extractor).to(pl_module.device)
                    real = real_features(target.data, "val", extractor, pl_module.device)
                trainer.strategy.barrier()
            self._prepared[target.suffix] = extractor, real
        return self._prepared[target.suffix]

    def _measure(self, trainer: Trainer, pl_module: GenerativeModule, target: Target) -> None:
        extractor, real = self._prepare(trainer, pl_module, target)
        count = min(self.count, target.inputs or self.count)
        generated = FeatureSet(extractor).to(pl_module.device)
        seeds = list(range(count))[trainer.global_rank :: trainer.world_size]
        for start in track(range(0, len(seeds), CHUNK), "generating images for FID"):
            generated.update(to_bytes(target.generate(seeds[start : start + CHUNK])))
        fake = generated.compute()[0].cpu()
        values = {
            "fid": frechet_distance(real.moments, gaussian(fake)),
            "kid": kernel_distance(real.features, fake),
        }
        counts = f"n_real={len(real.features)}|n_fake={count}{sampling_note(pl_module)}"
        for name, value in values.items():
            key = f"val/{extractor.prefix}{name}{target.suffix}"
            pl_module.log(key, value)  # the same value on every rank
            pl_module.signatures[key] = (
                f"{extractor.prefix}{name}[extractor={extractor.name}|split=val|{counts}]"
            )


def why_no_fid(
    model: GenerativeModule, data: Any, kind: Literal["classifier", "inception"] = "classifier"
) -> str | None:
    """Return why FID of a system cannot be measured; None if no reason is known yet.

    Args:
        model: System that is trained.
        data: Data module of the run, which need not have read its files.
        kind: Feature extractor.
    """
    if type(model).sample is GenerativeModule.sample or "image" not in model.modality:
        name = type(model).__name__
        return f"FID needs a system that generates images, and {name} generates none: leave it out"
    if model.modality == "image-to-image":  # the labels of its domains are in the files
        return None
    return why_no_features(data, kind)
