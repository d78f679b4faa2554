"""FID while training, and what it shares with `evaluate.py`: the corpus' classifier and cached features of real pictures."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from console import ROOT, UserError
from datamodules.base import atomic_save
from metrics.classifier import Classifier, train_classifier
from metrics.distances import Gaussian, frechet_distance, gaussian
from metrics.features import ClassifierFeatures, Extractor, FeatureSet, InceptionFeatures, to_bytes

CHUNK = 250  # pictures that are drawn or read at a time


class Real(NamedTuple):
    """What is cached of the real pictures: features (N, D) and their moments."""

    features: Tensor
    moments: Gaussian


def pictures(data: Any, split: str, index: list[int]) -> tuple[Tensor, Tensor | None]:
    """uint8 pictures (N, C, H, W) and labels (N,) of a split as they are evaluated."""
    batch = data.batch(split, index)
    return to_bytes(batch["image"]), batch.get("label")


def cache_path(data: Any, *key: object) -> Path:
    """File of a value that depends on `key`, beside the corpora, or in this project where those may only be read."""
    home = data.root if os.access(data.root, os.W_OK) else ROOT / "data"
    return Path(home / "metrics" / f"{hashlib.blake2b(repr(key).encode(), digest_size=12).hexdigest()}.pt")


def corpus_classifier(data: Any) -> Classifier:
    """The small classifier trained on the training split with a fixed seed, once: later calls read it from the cache.

    Raises:
        UserError: if the data has no labels.
    """
    facts = data.facts
    if not facts.get("num_classes"):
        raise UserError("the classifier that measures pictures needs labels, and this data has none: use --extractor inception")
    path = cache_path(data, "classifier", data.fingerprint("train"))
    if not path.exists():
        print("training the classifier that measures pictures, once for this data", file=sys.stderr)
        images, labels = pictures(data, "train", list(range(len(data.split("train")))))
        assert labels is not None
        atomic_save(path, lambda file: torch.save(train_classifier(images, labels, facts["num_classes"]).state_dict(), file))
    model = Classifier(facts["image_shape"][0], facts["num_classes"])
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def corpus_extractor(data: Any, kind: Literal["classifier", "inception"]) -> Extractor:
    """The network on whose features pictures of this data are compared."""
    if kind == "inception":
        return InceptionFeatures(data.root / "metrics" / "weights-inception-2015-12-05-6726825d.pth")
    return ClassifierFeatures(corpus_classifier(data))


def real_features(data: Any, split: str, extractor: Extractor, device: torch.device | str = "cpu") -> Real:
    """Features of all pictures of a split and their moments, computed once per data, split, preprocessing and extractor.

    Raises:
        UserError: if the split is too small to compare with.
    """
    size = len(data.split(split))
    if size < 10:
        raise UserError(f"the {split} split has {size} pictures, too few to compare with: use another split")
    path = cache_path(data, "features", data.fingerprint(split), data.facts["image_shape"], extractor.name)
    if not path.exists():
        measured = FeatureSet(extractor).to(device)
        for start in range(0, size, CHUNK):
            measured.update(pictures(data, split, list(range(start, min(size, start + CHUNK))))[0].to(device))
        features = torch.cat(measured.features).cpu()
        atomic_save(path, lambda file: torch.save((features, *gaussian(features)), file))
    features, *moments = torch.load(path, weights_only=True)
    return Real(features, Gaussian(*moments))


class Fid(Callback):
    """Frechet distance of fresh samples to the validation pictures, as `val/classifier-fid` or `val/fid`, at every validation.

    Each rank draws its share of the samples.

    Args:
        count: samples to draw; 0 for no FID. Figures compare only at an equal count, since few samples raise it.
        extractor: the corpus' own classifier, or Inception where its weights are.
    """

    def __init__(self, count: int = 0, extractor: Literal["classifier", "inception"] = "classifier") -> None:
        self.count, self.extractor = count, extractor

    def watches(self, model: LightningModule) -> bool:
        """Whether samples are wanted."""
        return self.count > 0

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for turn in (True, False):  # rank 0 fills the caches, then all ranks read them
            if trainer.is_global_zero == turn:
                extractor = corpus_extractor(data, self.extractor).to(pl_module.device)
                real = real_features(data, "val", extractor, pl_module.device)
            trainer.strategy.barrier()
        fake = FeatureSet(extractor).to(pl_module.device)
        seeds = list(range(self.count))[trainer.global_rank :: trainer.world_size]
        for start in range(0, len(seeds), CHUNK):
            fake.update(to_bytes(pl_module.sample(seeds[start : start + CHUNK])))  # type: ignore[operator]
        value = frechet_distance(real.moments, gaussian(fake.compute()[0].cpu()))
        name = f"val/{extractor.prefix}fid"
        pl_module.log(name, value, rank_zero_only=True)
        signature = f"fid[extractor={extractor.name}|split=val|n_real={len(real.features)}|n_fake={self.count}]"
        pl_module.signatures[name] = extractor.prefix + signature  # type: ignore[index, operator, assignment]
