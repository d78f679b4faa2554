"""Frozen networks that turn images into features, and the set of features that all distances
share.

An extractor takes uint8 images (N, C, H, W) and returns features (N, D) and class logits (N, K).
Its `name` goes into every signature, its `prefix` before the metric's name: a distance on a
classifier's features is called `classifier-fid`, since its figures have nothing to do with those on
Inception.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from common.errors import UserError
from metrics.classifier import Classifier, weights_hash

INCEPTION_DIGEST = "6726825d"  # SHA-256 of the published file begins with it, as its name says


class Extractor(nn.Module):
    """Base of both extractors.

    Attributes:
        name: of network and weights.
        prefix: of the metrics' names.
    """

    name: str
    prefix: str

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class ClassifierFeatures(Extractor):
    """Penultimate layer of the small classifier that was trained on the data itself.

    Args:
        classifier: trained.
    """

    prefix = "classifier-"

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier.eval().requires_grad_(False)
        self.name = f"classifier:{weights_hash(classifier)}"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.classifier.body(images.float() / 127.5 - 1)
        return hidden, self.classifier.head(hidden)


class InceptionFeatures(Extractor):
    """Pool-3 features (2048) of the Inception network of 2015 as torch-fidelity ports it, its
    resizing to 299 pixels included.

    Args:
        weights: torch-fidelity's file.
        digest: first digits of the file's SHA-256.

    Raises:
        UserError: if the package or the file is missing (the message says what to download and
            where to put it), or if the file is another one than its name says.
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
                "the Inception metrics need a package that is not installed: pip install "
                "torch-fidelity"
            ) from error
        if not weights.is_file():
            raise UserError(
                f"no Inception weights: download {URL_INCEPTION_V3} to {weights}, or use "
                "--extractor classifier"
            )
        self.name = "inception-2015" if digest == INCEPTION_DIGEST else f"inception:{digest}"
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
        if not found.startswith(digest):  # before it is read, since reading it may run code
            raise UserError(
                f"{weights}: its SHA-256 begins with {found[:8]}, not {digest}: download it again"
            )
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], str(weights)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.network(images.expand(-1, 3, -1, -1).contiguous())
        return features, logits


def to_bytes(image: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, rounded to the nearest; scaled uint8 images come back
    unchanged.
    """
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte()


class FeatureSet(Metric):
    """Features and logits of all images that any rank has seen.

    Args:
        extractor: frozen.
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
        """Add uint8 images (N, C, H, W)."""
        features, logits = self.extractor(images)
        self.features.append(features)
        self.logits.append(logits)

    def compute(self) -> tuple[Tensor, Tensor]:
        """(N, D) features and (N, K) logits."""
        return tuple(
            torch.cat(part) if isinstance(part, list) else part
            for part in (self.features, self.logits)
        )  # type: ignore[return-value]
