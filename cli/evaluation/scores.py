"""Compute the selected metrics and their signatures in one pass over the images."""

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from callbacks.real_features import corpus_extractor, real_features
from callbacks.targets import real_images
from cli.evaluation.images import Images
from cli.evaluation.ranking import ranking
from common.errors import UserError
from metrics import distances, parzen
from metrics.features import Extractor, FeatureSet
from metrics.fidelity import fidelity

DISTANCES = ("fid", "kid", "precision", "recall", "density", "coverage")
FIDELITIES = ("l1", "psnr", "ssim")
IN_PIXELS = ("parzen", "nn", "ranking", *FIDELITIES)
METRICS = (*DISTANCES, "is", *IN_PIXELS)
PARZEN_IMAGES = 1000  # number of validation images that select the Parzen kernel's width
NN_NEEDS = (
    "--metrics nn needs class labels; "
    "give the checkpoint of a conditional system and data with labels"
)

Line = dict[str, Any]  # one line of output; keys: metric, value, signature


def line(metric: str, value: float, signature: str) -> Line:
    """Return one line of output: metric, value, and signature, a string with the settings."""
    return {"metric": metric, "value": value, "signature": signature}


def scores(
    images: Images,
    data: Any,
    options: argparse.Namespace,
    note: str,
    suffix: str = "",
    paired: bool = False,
) -> Iterator[Line]:
    """Yield one line of output for each metric in `options.metrics`.

    Args:
        images: Batches of uint8 images (N, C, H, W), each with labels (N,) or None.
        data: Data module of the real images, after `prepare_data`.
        options: Parsed options of `evaluate.py`.
        note: Text appended to each signature, the string that records a metric's settings.
        suffix: Suffix of each metric's name, such as "/a2b".
        paired: Whether image i of `data` is the reference of generated image i.

    Raises:
        UserError: If a metric needs reference images, class labels or more images than there are.
    """
    wanted = options.metrics
    featured = [name for name in wanted if name not in IN_PIXELS]
    check_data(data, options, paired)
    extractor = measured = None
    if featured:
        extractor = corpus_extractor(data, options.extractor).to(options.device)
        measured = FeatureSet(extractor).to(options.device)
    in_memory: list[Tensor] = []
    labels: list[Tensor | None] = []
    for batch, batch_labels in images:
        if "nn" in wanted and batch_labels is None:
            raise UserError(NN_NEEDS)
        if measured is not None:
            measured.update(batch.to(options.device))
        if len(featured) < len(wanted):
            in_memory.append(batch.cpu())
            labels.append(batch_labels)

    if extractor is not None and measured is not None:
        yield from distance_scores(extractor, measured, data, options, note, suffix)
    if not in_memory:
        return
    generated = torch.cat(in_memory)
    asked = None if labels[0] is None else torch.cat([one for one in labels if one is not None])
    if set(FIDELITIES) & set(wanted):
        yield from fidelity_scores(generated, data, options, note, suffix)
    if "ranking" in wanted:
        yield from ranking(generated, data, options, note)
    if {"parzen", "nn"} & set(wanted):
        yield from pixel_scores(generated, asked, data, options, note, suffix)


def check_data(data: Any, options: argparse.Namespace, paired: bool) -> None:
    """Check what the metrics of images in pixel space need, before images are generated.

    Raises:
        UserError: If a metric needs reference images, class labels or more images than there are.
    """
    wanted, size = set(options.metrics), len(data.split("val"))
    if set(FIDELITIES) & wanted and not paired:
        raise UserError(
            "--metrics l1, psnr and ssim need reference images; "
            "give the checkpoint of an image translation and paired data"
        )
    least = PARZEN_IMAGES + (options.split == "val")
    if "parzen" in wanted and size < least:
        raise UserError(
            f"--metrics parzen needs {least:,} validation images (got {size}); "
            "give data with more, or leave it out"
        )
    if "nn" in wanted and not data.data_spec.get("num_classes"):
        raise UserError(NN_NEEDS)


def distance_scores(
    extractor: Extractor,
    measured: FeatureSet,
    data: Any,
    options: argparse.Namespace,
    note: str,
    suffix: str,
) -> Iterator[Line]:
    """Yield the metrics that compare the features of generated and real images."""
    wanted = options.metrics
    fake, logits = (one.cpu() for one in measured.compute())
    real = real_features(data, options.split, extractor, options.device)
    counts = f"n_real={len(real.features)}|n_fake={len(fake)}"
    size = data.data_spec["image_shape"][-1]
    base = f"extractor={extractor.name}|split={options.split}|{counts}|size={size}"
    values: dict[str, tuple[float, str]] = {}
    if "fid" in wanted:
        values["fid"] = (distances.frechet_distance(real.moments, distances.gaussian(fake)), "")
    if "kid" in wanted:
        values["kid"] = (distances.kernel_distance(real.features, fake), "|pairs=all")
    if {"precision", "recall"} & set(wanted):
        precision, recall = distances.precision_recall(real.features, fake)
        values |= {"precision": (precision, "|k=3"), "recall": (recall, "|k=3")}
    if {"density", "coverage"} & set(wanted):
        density, coverage = distances.density_coverage(real.features, fake)
        values |= {"density": (density, "|k=5"), "coverage": (coverage, "|k=5")}
    if "is" in wanted:
        values["is"] = (distances.inception_score(logits), "|splits=10")
    for name in wanted:
        if name in values:
            value, extra = values[name]
            name = extractor.prefix + name
            yield line(name + suffix, value, f"{name}[{base}{extra}{note}]")


def fidelity_scores(
    generated: Tensor, data: Any, options: argparse.Namespace, note: str, suffix: str
) -> Iterator[Line]:
    """Yield the metrics that compare each translated image with its reference image."""
    index = list(range(options.seed, options.seed + len(generated)))
    references, _ = real_images(data, options.split, index)
    names = [name for name in FIDELITIES if name in options.metrics]
    extra = f"split={options.split}|n={len(references)}{note}"
    for name, (value, signature) in fidelity(generated, references, names).items():
        yield line(name + suffix, value, f"{signature[:-1]}|{extra}]")


def pixel_scores(
    generated: Tensor,
    asked: Tensor | None,
    data: Any,
    options: argparse.Namespace,
    note: str,
    suffix: str,
) -> Iterator[Line]:
    """Yield the Parzen log-likelihood and the error of a nearest-neighbour classifier in percent.

    The first 1,000 validation images select the width of the Parzen kernel. They are left out of
    the likelihood of the validation split.

    Args:
        generated: Generated images (N, C, H, W) in uint8.
        asked: Class labels (N,) of the generated images; None for an unconditional system.
        data: Data module of the real images, after `prepare_data`.
        options: Parsed options of `evaluate.py`.
        note: Text appended to each signature, the string that records a metric's settings.
        suffix: Suffix of each metric's name, such as "/a2b".
    """
    split = options.split
    real, labels = real_images(data, split, list(range(len(data.split(split)))))
    if "parzen" in options.metrics:
        chosen_on, _ = real_images(data, "val", list(range(PARZEN_IMAGES)))
        scored = real[PARZEN_IMAGES:] if split == "val" else real
        mean, error, sigma = parzen.parzen(generated, chosen_on, scored)
        counts = f"n_fake={len(generated)}|n_{split}={len(scored)}"
        extra = f"sigma={sigma:.3f}|se={error:.2g}{note}"
        yield line(f"parzen{suffix}", mean, f"parzen[{counts}|{extra}]")
    if "nn" in options.metrics:
        assert asked is not None
        assert labels is not None
        value = 100 * parzen.nearest_neighbour_error(generated, asked, real, labels)
        counts = f"n_fake={len(generated)}|n_{split}={len(real)}"
        yield line(f"nn-error{suffix}", value, f"nn-error[{counts}|distance=euclidean{note}]")
