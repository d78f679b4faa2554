"""Features of real images and the networks that compute them, cached beside the corpora."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from callbacks.targets import real_images
from common.errors import UserError
from common.files import ROOT, atomic_save
from metrics.classifier import Classifier, train_classifier
from metrics.distances import Gaussian, gaussian
from metrics.features import ClassifierFeatures, Extractor, FeatureSet, InceptionFeatures

CHUNK = 250  # images read at a time


class RealFeatures(NamedTuple):
    """Features (N, D) of real images and their moments."""

    features: Tensor
    moments: Gaussian


def cache_path(data: Any, *key: object) -> Path:
    """File for a value that depends on `key`: beside the corpora, or in this project where those
    are read-only.
    """
    home = data.root if os.access(data.root, os.W_OK) else ROOT / "data"
    name = hashlib.blake2b(repr(key).encode(), digest_size=12).hexdigest()
    return Path(home / "metrics" / f"{name}.pt")


def corpus_classifier(data: Any) -> Classifier:
    """The small classifier trained on the training split with a fixed seed; trained once, then read
    from the cache.

    Raises:
        UserError: if the data has no labels.
    """
    data_spec = data.data_spec
    if not data_spec.get("num_classes"):
        raise UserError(
            "the classifier that measures pictures needs labels, and this data has none: "
            "use the extractor inception"
        )
    path = cache_path(data, "classifier", data.fingerprint("train"))
    if not path.exists():
        print("training the classifier that measures pictures, once for this data", file=sys.stderr)
        images, labels = real_images(data, "train", list(range(len(data.split("train")))))
        assert labels is not None
        weights = train_classifier(images, labels, data_spec["num_classes"]).state_dict()
        atomic_save(path, lambda file: torch.save(weights, file))
    model = Classifier(data_spec["image_shape"][0], data_spec["num_classes"])
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def corpus_extractor(data: Any, kind: Literal["classifier", "inception"]) -> Extractor:
    """The network on whose features images of this data are compared.

    Raises:
        UserError: if the data has no images.
    """
    if "image_shape" not in data.data_spec:
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
) -> RealFeatures:
    """Features of all images of a split and their moments, computed once per data, split,
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
            index = list(range(start, min(size, start + CHUNK)))
            measured.update(real_images(data, split, index)[0].to(device))
        features = torch.cat(measured.features).cpu()
        atomic_save(path, lambda file: torch.save((features, *gaussian(features)), file))
    features, *moments = torch.load(path, weights_only=True)
    return RealFeatures(features, Gaussian(*moments))
