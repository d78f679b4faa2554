"""Feature extractors and features of real images, cached in the data folder."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from callbacks.preview_batch import spread
from callbacks.targets import real_images
from common.errors import UserError
from common.files import ROOT, atomic_save
from common.progress import track
from metrics.classifier import Classifier, shrink, train_classifier
from metrics.distances import Gaussian, gaussian
from metrics.features import ClassifierFeatures, Extractor, FeatureSet, InceptionFeatures

CHUNK = 250  # number of images loaded and processed at a time
MIN_IMAGES = 10  # minimum number of images for feature distances
MAX_TRAINING = 60_000  # maximum number of images that train the classifier


class RealFeatures(NamedTuple):
    """Features (N, D) of real images, and the mean and covariance of these features."""

    features: Tensor
    moments: Gaussian


def cache_path(data: Any, *key: object) -> Path:
    """Return the path of the cache file whose name is a hash of `key`.

    The file is in the data root, or in the repository's `data/` if the data root is read-only.
    """
    home = data.root if os.access(data.root, os.W_OK) else ROOT / "data"
    name = hashlib.blake2b(repr(key).encode(), digest_size=12).hexdigest()
    return Path(home / "metrics" / f"{name}.pt")


def why_no_features(data: Any, kind: Literal["classifier", "inception"]) -> str | None:
    """Return why the images of a data set have no features; None if they have features.

    Args:
        data: Data module of the images.
        kind: Kind of extractor, as for `corpus_extractor`.
    """
    if "image_shape" not in data.data_spec or not hasattr(data, "fingerprint"):  # points in a plane
        name = type(data).__name__
        return f"FID and other feature distances need images, and {name} has none: leave them out"
    if kind == "classifier" and not data.data_spec.get("num_classes"):
        return (
            "the feature extractor classifier needs labels, and this data has none: "
            "use the extractor inception"
        )
    return None


def corpus_classifier(data: Any) -> Classifier:
    """Return the small classifier of a data set, trained with a fixed seed.

    The first call trains the classifier on the training split, or on 60,000 of its images, and
    caches its weights. Later calls load these weights.

    Raises:
        UserError: If the data has no images or no labels.
    """
    data_spec = data.data_spec
    if reason := why_no_features(data, "classifier"):
        raise UserError(reason)
    shape, classes = data_spec["image_shape"], data_spec["num_classes"]
    path = cache_path(data, "classifier", data.fingerprint("train"), shape, classes)
    if not path.exists():
        print("training the feature extractor (a classifier), once per data set", file=sys.stderr)
        index, images, labels = spread(len(data.split("train")), MAX_TRAINING), [], []
        for start in track(range(0, len(index), CHUNK), "reading training images"):
            part, label = real_images(data, "train", index[start : start + CHUNK])
            assert label is not None
            images.append(shrink(part))
            labels.append(label)
        weights = train_classifier(torch.cat(images), torch.cat(labels), classes).state_dict()
        atomic_save(path, lambda file: torch.save(weights, file))
    model = Classifier(shape[0], classes)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def corpus_extractor(data: Any, kind: Literal["classifier", "inception"]) -> Extractor:
    """Return the feature extractor for the images of a data set.

    Args:
        data: Data module of the images.
        kind: Kind of extractor: a "classifier" trained on the data set, or "inception" (v3).

    Raises:
        UserError: If the data has no images, or no labels for training the classifier.
    """
    if reason := why_no_features(data, kind):
        raise UserError(reason)
    if kind == "inception":
        return InceptionFeatures(
            data.root / "metrics" / "weights-inception-2015-12-05-6726825d.pth"
        )
    return ClassifierFeatures(corpus_classifier(data))


def real_features(
    data: Any, split: str, extractor: Extractor, device: torch.device | str = "cpu"
) -> RealFeatures:
    """Return the features of all images of a split, and the mean and covariance of the features.

    The features are computed once for each combination of split, preprocessing and extractor. Later
    calls load them from a cache file.

    Raises:
        UserError: If the split has fewer than 10 images.
    """
    size = len(data.split(split))
    if size < MIN_IMAGES:
        raise UserError(
            f"the {split} split has {size} images, but feature distances need at least "
            f"{MIN_IMAGES}: use another split"
        )
    path = cache_path(
        data, "features", data.fingerprint(split), data.data_spec["image_shape"], extractor.name
    )
    if not path.exists():
        measured = FeatureSet(extractor).to(device)
        for start in track(range(0, size, CHUNK), f"features of real images ({split}), once"):
            index = list(range(start, min(size, start + CHUNK)))
            measured.update(real_images(data, split, index)[0].to(device))
        features = torch.cat(measured.features).cpu()
        atomic_save(path, lambda file: torch.save((features, *gaussian(features)), file))
    features, *moments = torch.load(path, weights_only=True)
    return RealFeatures(features, Gaussian(*moments))
