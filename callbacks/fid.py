"""FID and KID while training, and what they share with `evaluate.py`: targets, the corpus'
classifier, cached real features.
"""

import hashlib
import inspect
import os
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from common.errors import UserError
from common.files import ROOT, atomic_save
from datamodules.lazy_batch import LazyBatch
from metrics.classifier import Classifier, train_classifier
from metrics.distances import Gaussian, frechet_distance, gaussian, kernel_distance
from metrics.features import ClassifierFeatures, Extractor, FeatureSet, InceptionFeatures, to_bytes

CHUNK = 250  # pictures that are drawn or read at a time
TRANSLATED = 16  # pictures that are translated at a time, which may be large ones


class Real(NamedTuple):
    """What is cached of the real pictures: features (N, D) and their moments."""

    features: Tensor
    moments: Gaussian


class Target(NamedTuple):
    """What a system draws, and the pictures it should look like.

    Attributes:
        suffix: of the figures' names: "/a2b" where a system translates, "" otherwise.
        data: image data to compare with.
        draw: pictures (N, C, H, W) in [-1, 1] for N seeds; where it needs data, seed i takes sample
            i of the split.
        inputs: how many different ones that are, where a system translates; more would only repeat
            them.
        paired: whether picture i of `data` is the answer to picture i.
    """

    suffix: str
    data: Any
    draw: Callable[..., Tensor]
    inputs: int | None = None
    paired: bool = False


def targets(model: Any, data: Any, split: str = "val") -> list[Target]:
    """One, or where a system translates, one per direction.

    Args:
        model: with a `sample` that draws pictures.
        data: its data module.
        split: whose pictures are translated, or captions drawn.
    """

    def target(direction: str) -> Target:
        def translate(seeds: list[int], **options: Any) -> Tensor:
            chunks = [
                seeds[start : start + TRANSLATED] for start in range(0, len(seeds), TRANSLATED)
            ]
            drawn = [
                model.sample(chunk, batch=data.batch(split, chunk), direction=direction, **options)
                for chunk in chunks
            ]
            return torch.cat(drawn)

        inputs = len(data.domain(direction[0]).split(split))
        return Target(
            f"/{direction}", data.domain(direction[-1]), translate, inputs, data.split(split).paired
        )

    def draw(seeds: list[int], **options: Any) -> Tensor:
        batch = (
            {"batch": LazyBatch(lambda: data.batch(split, seeds))} if "batch" in parameters else {}
        )
        drawn: Tensor = model.sample(seeds, **batch, **options)
        return drawn

    parameters = inspect.signature(model.sample).parameters
    if "direction" in parameters:
        return [target(choice) for choice in typing.get_args(parameters["direction"].annotation)]
    return [Target("", data, draw)]


def pictures(data: Any, split: str, index: list[int]) -> tuple[Tensor, Tensor | None]:
    """uint8 pictures (N, C, H, W) and labels (N,) of a split as they are evaluated."""
    batch = data.batch(split, index)
    return to_bytes(batch["image"]), batch.get("label")


def cache_path(data: Any, *key: object) -> Path:
    """File of a value that depends on `key`, beside the corpora, or in this project where those may
    only be read.
    """
    home = data.root if os.access(data.root, os.W_OK) else ROOT / "data"
    return Path(
        home / "metrics" / f"{hashlib.blake2b(repr(key).encode(), digest_size=12).hexdigest()}.pt"
    )


def corpus_classifier(data: Any) -> Classifier:
    """The small classifier trained on the training split with a fixed seed, once: later calls read
    it from the cache.

    Raises:
        UserError: if the data has no labels.
    """
    data_spec = data.data_spec
    if not data_spec.get("num_classes"):
        raise UserError(
            "the classifier that measures pictures needs labels, and this data has none: use the extractor inception"
        )
    path = cache_path(data, "classifier", data.fingerprint("train"))
    if not path.exists():
        print("training the classifier that measures pictures, once for this data", file=sys.stderr)
        images, labels = pictures(data, "train", list(range(len(data.split("train")))))
        assert labels is not None
        atomic_save(
            path,
            lambda file: torch.save(
                train_classifier(images, labels, data_spec["num_classes"]).state_dict(), file
            ),
        )
    model = Classifier(data_spec["image_shape"][0], data_spec["num_classes"])
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def corpus_extractor(data: Any, kind: Literal["classifier", "inception"]) -> Extractor:
    """The network on whose features pictures of this data are compared.

    Raises:
        UserError: if the data has no pictures.
    """
    if not hasattr(data, "fingerprint"):
        raise UserError(
            f"{type(data).__name__} has no pictures that could be compared by their features"
        )
    if kind == "inception":
        return InceptionFeatures(
            data.root / "metrics" / "weights-inception-2015-12-05-6726825d.pth"
        )
    return ClassifierFeatures(corpus_classifier(data))


def real_features(
    data: Any, split: str, extractor: Extractor, device: torch.device | str = "cpu"
) -> Real:
    """Features of all pictures of a split and their moments, computed once per data, split,
    preprocessing and extractor.

    Raises:
        UserError: if the split is too small to compare with.
    """
    size = len(data.split(split))
    if size < 10:
        raise UserError(
            f"the {split} split has {size} pictures, too few to compare with: use another split"
        )
    path = cache_path(
        data, "features", data.fingerprint(split), data.data_spec["image_shape"], extractor.name
    )
    if not path.exists():
        measured = FeatureSet(extractor).to(device)
        for start in range(0, size, CHUNK):
            measured.update(
                pictures(data, split, list(range(start, min(size, start + CHUNK))))[0].to(device)
            )
        features = torch.cat(measured.features).cpu()
        atomic_save(path, lambda file: torch.save((features, *gaussian(features)), file))
    features, *moments = torch.load(path, weights_only=True)
    return Real(features, Gaussian(*moments))


class FID(Callback):
    """Frechet and kernel distance of fresh samples to the validation pictures, at every validation.

    They are `val/classifier-fid` or `val/fid`, and `kid` alike, with `/a2b` and so on behind them
    where a system translates the validation pictures. Each rank draws its share of the samples.

    Args:
        count: samples to draw, of a translation at most one per picture; 0 for no FID. Figures
            compare only at an equal count, since few samples raise FID.
        extractor: the corpus' own classifier, or Inception where its weights are.
    """

    def __init__(
        self, count: int = 0, extractor: Literal["classifier", "inception"] = "classifier"
    ) -> None:
        self.count, self.extractor = count, extractor

    def watches(self, model: LightningModule) -> bool:
        """Whether samples are wanted."""
        return self.count > 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Whatever is missing for it is told of now and not after the first epoch."""
        for target in targets(pl_module, trainer.datamodule):  # type: ignore[attr-defined]
            self._prepare(trainer, pl_module, target)

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for target in targets(pl_module, trainer.datamodule):  # type: ignore[attr-defined]
            self._measure(trainer, pl_module, target)

    def _prepare(
        self, trainer: Trainer, pl_module: LightningModule, target: Target
    ) -> tuple[Extractor, Real]:
        """Rank 0 fills the caches, then all ranks read them."""
        for turn in (True, False):
            if trainer.is_global_zero == turn:
                extractor = corpus_extractor(target.data, self.extractor).to(pl_module.device)
                real = real_features(target.data, "val", extractor, pl_module.device)
            trainer.strategy.barrier()
        return extractor, real

    def _measure(self, trainer: Trainer, pl_module: Any, target: Target) -> None:
        extractor, real = self._prepare(trainer, pl_module, target)
        count = min(self.count, target.inputs or self.count)
        drawn = FeatureSet(extractor).to(pl_module.device)
        seeds = list(range(count))[trainer.global_rank :: trainer.world_size]
        for start in range(0, len(seeds), CHUNK):
            drawn.update(to_bytes(target.draw(seeds[start : start + CHUNK])))
        fake = drawn.compute()[0].cpu()
        values = {
            "fid": frechet_distance(real.moments, gaussian(fake)),
            "kid": kernel_distance(real.features, fake),
        }
        for name, value in values.items():
            key = f"val/{extractor.prefix}{name}{target.suffix}"
            pl_module.log(key, value, rank_zero_only=True)
            clouds = (
                f"extractor={extractor.name}|split=val|n_real={len(real.features)}|n_fake={count}"
            )
            pl_module.signatures[key] = f"{extractor.prefix}{name}[{clouds}]"
