"""Frozen feature extractors, and a metric that collects the features of a set of images.

An extractor maps uint8 images (N, C, H, W) to features (N, D) and class logits (N, K). All
distances between image sets are computed from these features.

The `name` of the extractor is part of the signature of each metric, the string that records its
settings. The `prefix` of the extractor is put before the name of each metric. For example, FID on
the features of a classifier is called `classifier-fid`, because it is not comparable with FID on
the features of Inception.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from common.errors import UserError
from metrics.classifier import Classifier, weights_hash

INCEPTION_DIGEST = "6726825d"  # first digits of the weights file's SHA-256; part of its name


class Extractor(nn.Module):
    """Base class of the feature extractors.

    Attributes:
        name: Name of the network and its weights, recorded in the signatures of metrics.
        prefix: Prefix of the names of metrics, such as "classifier-".
    """

    name: str
    prefix: str

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class ClassifierFeatures(Extractor):
    """Feature extractor from the penultimate layer of a classifier trained on the real data.

    Args:
        classifier: Trained classifier.
    """

    prefix = "classifier-"

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier.eval().requires_grad_(False)
        self.name = f"classifier:{weights_hash(classifier)}"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.classifier.penultimate(images.float() / 127.5 - 1)
        return hidden, self.classifier.head(hidden)


class InceptionFeatures(Extractor):
    """Feature extractor from the pool-3 layer of the 2015 Inception network, features (N, 2048).

    The network is the port of torch-fidelity. Images are resized to 299x299 pixels as in the
    original network.

    Args:
        weights: Path of the weights file of torch-fidelity.
        digest: First digits of the SHA-256 of the weights file.

    Raises:
        UserError: If torch-fidelity or the weights file is missing, or if the SHA-256 of the file
            does not start with `digest`.
    """

    prefix = ""

    def __init__(self, weights: Path, digest: str = INCEPTION_DIGEST) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import (
                URL_INCEPTION_V3,
                FeatureExtractorInceptionV3,
            )
        except ImportError as error:
            raise UserError(
                "Inception metrics need the package torch-fidelity, which is not installed: "
                "pip install torch-fidelity"
            ) from error
        if not weights.is_file():
            raise UserError(
                f"no Inception weights: download {URL_INCEPTION_V3} to {weights}, or use "
                "the extractor classifier"
            )
        self.name = "inception-2015" if digest == INCEPTION_DIGEST else f"inception:{digest}"
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
        if not found.startswith(digest):  # before loading: it may run code in the file
            raise UserError(
                f"{weights}: its SHA-256 starts with {found[:8]}, not {digest}: download it again"
            )
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], str(weights)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.network(images.expand(-1, 3, -1, -1).contiguous())
        return features, logits


def to_bytes(image: Tensor) -> Tensor:
    """Convert images in [-1, 1] to uint8, rounding to the nearest value.

    Images that were scaled from uint8 to [-1, 1] are recovered exactly.
    """
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte()


class FeatureSet(Metric):
    """Metric that collects the features and logits of all images of all ranks.

    Args:
        extractor: Frozen feature extractor.
    """

    full_state_update = False
    features: list[Tensor]
    logits: list[Tensor]

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("logits", [], dist_reduce_fx="cat")

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Add a batch of uint8 images (N, C, H, W)."""
        features, logits = self.extractor(images)
        self.features.append(features)
        self.logits.append(logits)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return features (N, D) and logits (N, K)."""
        return tuple(
            torch.cat(part) if isinstance(part, list) else part
            for part in (self.features, self.logits)
        )  # type: ignore[return-value]
