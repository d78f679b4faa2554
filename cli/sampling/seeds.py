"""Functions for all modalities: seeds, arguments of `sample`, and sampling in chunks."""

import argparse
import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from cli.data import unseen_batch
from cli.options import parse_seeds, sample_arguments, sample_parameters
from lightning_modules.core.module import GenerativeModule

CHUNK = 64  # number of seeds per call of `sample`; limits the memory


def wanted_seeds(options: argparse.Namespace) -> list[int]:
    """Return the seeds of `--seeds`, or `--num` seeds starting at `--seed`.

    Raises:
        UserError: If `--seeds` is malformed.
    """
    if options.seeds:
        return parse_seeds(options.seeds)
    return list(range(options.seed, options.seed + options.num))


def arguments_of(model: GenerativeModule, options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the model's `sample` method from the parsed options."""
    return sample_arguments(
        vars(options), sample_parameters(model.sample), model.hparams.get("image_shape")
    )


def sample_chunks(
    model: GenerativeModule,
    options: argparse.Namespace,
    seeds: list[int],
    arguments: dict[str, Any],
    size: int = CHUNK,
) -> Iterator[tuple[list[int], Tensor | list[str]]]:
    """Call the `sample` method with `size` seeds at a time.

    If the method has a parameter `batch`, it receives samples of the test split.

    Yields:
        Seeds of the chunk, and one sample (image or text) per seed.
    """
    takes_batch = "batch" in inspect.signature(model.sample).parameters
    for start in range(0, len(seeds), size):
        chunk = seeds[start : start + size]
        given = dict(arguments)
        for name in ("image", "mask"):  # the same file is used for all seeds
            if isinstance(given.get(name), Tensor):
                given[name] = given[name].expand(len(chunk), -1, -1, -1)
        if takes_batch:
            given["batch"] = unseen_batch(model, options.data, chunk, given.get("attribute"))
        yield chunk, model.sample(chunk, **given)
