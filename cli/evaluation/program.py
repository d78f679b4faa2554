"""Scores of a checkpoint, or of a folder of images."""

import argparse
from collections.abc import Iterator

from callbacks.targets import targets
from cli.data import data_module
from cli.device import move_to
from cli.evaluation.images import folder_images, generated_images
from cli.evaluation.ranking import load_ranker
from cli.evaluation.scores import Line, scores
from common.errors import UserError
from datamodules.pairs.base import PairDataModule
from lightning_modules import load


def evaluate(options: argparse.Namespace) -> Iterator[Line]:
    """All lines of the answer."""
    return folder_scores(options) if options.source.is_dir() else checkpoint_scores(options)


def folder_scores(options: argparse.Namespace) -> Iterator[Line]:
    """Scores of a folder of images, against one domain of data that has two."""
    data = data_module(options.against)
    if isinstance(data, PairDataModule):
        data = data.domain(options.domain)
    if options.ranker is not None:
        raise UserError(
            f"{options.source}: nobody knows the captions of a folder's pictures: "
            "give --ranker with a checkpoint"
        )
    images = folder_images(options.source, data.data_spec["image_shape"], options)
    yield from scores(images, data, options, "")


def checkpoint_scores(options: argparse.Namespace) -> Iterator[Line]:
    """Scores of the images that a system generates, with averaged and with live weights."""
    data = data_module(options.against)
    model = load(options.source)
    move_to(model, options.device)
    if model.modality not in ("images", "image-to-image", "text-to-image"):
        raise UserError(
            f"{options.source}: {type(model).__name__} draws no pictures, "
            "and these metrics are for pictures"
        )
    if options.ranker is not None:
        options.ranker = load_ranker(data, options)
    for target in targets(model, data, options.split):
        most = target.inputs or options.num or len(data.split(options.split))
        count = min(options.num or most, most)  # more inputs than there are would repeat
        for averaged in (True, False) if model.has_averaged_weights else (False,):
            note = f"|seed={options.seed}"
            if model.has_averaged_weights:
                note += f"|ema={int(averaged)}"
            with model.averaged_weights(averaged):
                images = generated_images(target, model, options, count)
                lines = scores(images, target.data, options, note, target.suffix, target.paired)
                for line in lines:
                    yield {**line, "weights": "ema" if averaged else "live"}
