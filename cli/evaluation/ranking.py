"""Compute ranking accuracy: the share of images whose own caption a CLIP ranks first."""

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from callbacks.targets import real_images
from common.errors import UserError
from lightning_modules import load
from metrics.classifier import weights_hash
from metrics.retrieval import NEGATIVES, WAYS, image_keys, ranking_accuracy


def load_ranker(data: Any, options: argparse.Namespace) -> Any:
    """Load the CLIP of `--ranker`.

    Raises:
        UserError: If the checkpoint is not a CLIP, the data has no captions, or `--num` is above
            the number of captions and not a multiple of this number.
    """
    ranker = load(options.ranker)
    if not (ranker.scores_captions and ranker.modality == "embeddings"):
        raise UserError(
            f"--ranker {options.ranker} is a {type(ranker).__name__}; give the checkpoint of a CLIP"
        )
    if "text_length" not in data.data_spec:
        raise UserError(
            "--metrics ranking needs captions, and this data has none; give data with captions"
        )
    size = len(data.split(options.split).captions)
    if options.num and options.num > size and options.num % size:
        raise UserError(
            f"--num must be a multiple of the {size} captions, for ranking (got {options.num})"
        )
    return ranker.to(options.device)


def ranking(
    generated: Tensor, data: Any, options: argparse.Namespace, note: str
) -> Iterator[dict[str, Any]]:
    """Yield the ranking accuracy for generated images, for real images and for shuffled captions.

    If there are k times as many images as captions, the value is the mean over k passes through
    the captions.

    Args:
        generated: Generated images (N, C, H, W) in uint8. With M captions, image i belongs to
            caption `(seed + i) % M`.
        data: Data module with captions, after `prepare_data`.
        options: Parsed options of `evaluate.py`.
        note: Text appended to each signature, the string that records a metric's settings.
    """
    captions, ranker = data.split(options.split).captions, options.ranker
    size = min(len(captions), len(generated))
    tokens = ranker.tokenize(captions).cpu()
    count = options.batch_size
    chunks = [captions[start : start + count] for start in range(0, len(captions), count)]
    texts = torch.cat([ranker.features(chunk).cpu() for chunk in chunks])
    truth = real_images(data, options.split, list(range(len(captions))))[0]
    keys = torch.cat([image_keys(to_float(part)) for part in truth.split(count)])

    def accuracy(images: Tensor, order: list[int], shift: int = 0) -> Tensor:
        parts = images.split(count)
        features = torch.cat([ranker.features(to_float(part)).cpu() for part in parts])
        candidates = (part[order].roll(shift, 0) for part in (texts, tokens, keys))
        return ranking_accuracy(features, *candidates)

    order = [(options.seed + number) % len(captions) for number in range(len(generated))]
    passes = [slice(start, start + size) for start in range(0, len(generated), size)]
    right = torch.stack([accuracy(generated[one], order[one]) for one in passes])
    wrong = torch.stack([accuracy(generated[one], order[one], size // 2) for one in passes])
    real = accuracy(truth, list(range(len(captions))))
    base = (
        f"ways={min(WAYS, size)}|{NEGATIVES}|split={options.split}|n={size}"
        f"|ranker=clip:{weights_hash(ranker)}"
    )
    spread = f"passes={len(passes)}|std={right.std(correction=0):.3f}{note}"
    for name, value, extra in (
        ("ranking", right.mean(), spread),
        ("ranking-real", real, "images=real"),
        ("ranking-shuffled", wrong.mean(), f"captions=shuffled{note}"),
    ):
        yield {"metric": name, "value": value.item(), "signature": f"ranking[{base}|{extra}]"}


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images to float images in [-1, 1]."""
    return images.float() / 127.5 - 1
