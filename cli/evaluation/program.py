"""Evaluate a checkpoint, or a folder of images."""

import argparse
from collections.abc import Iterator
from typing import Any

from callbacks.targets import targets
from cli.data import data_module
from cli.device import move_to
from cli.evaluation.images import folder_images, generated_images
from cli.evaluation.options import is_images
from cli.evaluation.own_figures import own_figures
from cli.evaluation.ranking import load_ranker
from cli.evaluation.record import Evaluation
from cli.evaluation.scores import Line, scores
from common.errors import UserError
from datamodules.pairs.base import PairDataModule
from lightning_modules import load
from lightning_modules.core.modes import sampling_note
from lightning_modules.core.module import GenerativeModule

FOR_CHECKPOINTS = ("seed", "weights", "unknown")


def evaluate(options: argparse.Namespace) -> Iterator[Line]:
    """Evaluate the checkpoint or folder, and yield one line per metric.

    The metrics of a checkpoint are also written to `evaluation.csv` in the directory of its run,
    and logged to W&B and TensorBoard, if the run is.
    """
    if is_images(options.source):
        yield from folder_scores(options)
        return
    evaluation = Evaluation(options.source)
    try:
        for line in checkpoint_scores(options):
            name = f"evaluate/{options.split}/{line['metric']}/{line['weights']}"
            evaluation.add(name, line["value"], line["signature"])
            yield line
    finally:  # a later metric may fail
        evaluation.log()


def folder_scores(options: argparse.Namespace) -> Iterator[Line]:
    """Yield the metrics of a folder of images.

    If the data has two domains, `options.domain` selects the domain of the real images.

    Raises:
        UserError: If the real data are not images, or if an option for checkpoints is given.
    """
    if unused := [f"--{name}" for name in FOR_CHECKPOINTS if name in options.changed]:
        raise UserError(
            f"{options.source} is a folder of images; leave out {' and '.join(unused)}, which "
            "checkpoints need"
        )
    data = data_module(options.against, option="--against")
    if isinstance(data, PairDataModule):
        data = data.domain(options.domain)
    if "image_shape" not in data.data_spec:
        raise UserError(
            f"--against {options.against} has no images: name a configuration with image data"
        )
    if options.ranker is not None:
        raise UserError(
            f"{options.source}: a folder of images has no captions; give a checkpoint for --ranker"
        )
    images = folder_images(options.source, data.data_spec["image_shape"], options)
    yield from scores(images, data, options, "")


def checkpoint_scores(options: argparse.Namespace) -> Iterator[Line]:
    """Yield the metrics of a system with its averaged and with its trained weights, or with one.

    Generated images are compared with real images. A system that generates no images is evaluated
    by the metrics of its `test_step`.
    """
    model = load(options.source)
    replace = options.unknown == "replace"
    if replace and model.modality not in ("text", "embeddings"):
        raise UserError("--unknown replace is for systems that are trained on text; leave it out")
    data = data_module(
        options.against, {"unknown": "replace"} if replace else None, option="--against"
    )
    move_to(model, options.device)
    if model.modality not in ("images", "image-to-image", "text-to-image"):
        check_vocabulary(model, data, options)
        for averaged in weight_choices(model, options.weights):
            with model.averaged_weights(averaged):
                for line in own_figures(model, data, options):
                    if replace:
                        line["signature"] = line["signature"].replace("]", "|unknown=replace]", 1)
                    yield {**line, "weights": "averaged" if averaged else "trained"}
        return
    check_shape(model, data, options)
    if options.ranker is not None:
        options.ranker = load_ranker(data, options)
    for target in targets(model, data, options.split):
        most = target.inputs or options.num or len(data.split(options.split))
        count = min(options.num or most, most)  # translating an input twice adds nothing
        for averaged in weight_choices(model, options.weights):
            note = f"|seed={options.seed}"
            if model.has_averaged_weights:
                note += f"|ema={int(averaged)}"
            note += sampling_note(model)
            with model.averaged_weights(averaged):
                images = generated_images(target, model, options, count)
                lines = scores(images, target.data, options, note, target.suffix, target.paired)
                for line in lines:
                    yield {**line, "weights": "averaged" if averaged else "trained"}


def check_shape(model: GenerativeModule, data: Any, options: argparse.Namespace) -> None:
    """Check that a system generates images of the shape of the real ones.

    Raises:
        UserError: If the shapes differ. Image translations are not checked: their inputs, which are
            images of the data, determine the size.
    """
    shapes = (model.hparams.get("image_shape"), data.data_spec.get("image_shape"))
    if model.modality != "image-to-image" and shapes[0] and shapes[1] and shapes[0] != shapes[1]:
        sides = ["x".join(map(str, shape)) for shape in shapes]
        raise UserError(
            f"{options.source} generates images of {sides[0]} (channels, height, width), and those "
            f"of --against {options.against} have {sides[1]}; give data of the same shape"
        )


def check_vocabulary(model: GenerativeModule, data: Any, options: argparse.Namespace) -> None:
    """Check that a text system and the data of `--against` have the same tokenizer.

    Raises:
        UserError: If they have different tokenizers: equal ids would be different texts.
    """
    theirs = getattr(data, "tokenizer", None)
    if model.tokenizer and theirs and model.tokenizer.to_json() != theirs.to_json():
        raise UserError(
            f"--against {options.against} has another vocabulary than {options.source}; set "
            f"data.tokenizer_file to {options.source} in it"
        )


def weight_choices(model: GenerativeModule, wanted: str) -> tuple[bool, ...]:
    """Return whether to use averaged weights, for each pass of an evaluation.

    Args:
        model: System. Without averaged weights, only the trained weights are used.
        wanted: `averaged`, `trained` or `both`.
    """
    if not model.has_averaged_weights:
        return (False,)
    return {"averaged": (True,), "trained": (False,), "both": (True, False)}[wanted]
