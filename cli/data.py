"""Build and prepare the data module of a configuration, for sampling and evaluation."""

import functools
from pathlib import Path
from typing import Any

from cli.classes import import_class
from cli.recipes import read_config
from common.errors import UserError
from datamodules.lazy_batch import LazyBatch


def data_module(config: Path, overrides: dict[str, Any] | None = None) -> Any:
    """Build the data module of a configuration and prepare its data.

    Args:
        config: Recipe, or config.yaml of a run.
        overrides: Arguments that replace those of the configuration.

    Raises:
        UserError: If the file is missing, names no data, or its arguments are wrong.
    """
    if not config.is_file():
        raise UserError(f"{config}: there is no such file; name the data with --data CONFIG")
    entry = read_config(config).get("data")
    if not entry:
        raise UserError(f"{config} has no key data:; name the data with --data CONFIG")
    try:
        arguments = {**entry.get("init_args", {}), **(overrides or {})}
        data = import_class(entry["class_path"])(**arguments)
    except (ImportError, KeyError, TypeError) as error:
        raise UserError(
            f"{config}: cannot build its data module ({error}); correct class_path or init_args"
        ) from error
    data.prepare_data()
    return data


opened = functools.cache(data_module)


def unseen_batch(model: Any, config: Path, seeds: list[int], attribute: str | None) -> LazyBatch:
    """Batch of test samples for `sample`; seed i selects sample i, modulo the split's size.

    The data module is built only when the batch is used.

    Args:
        model: System that samples.
        config: Configuration of the data.
        seeds: One seed per sample.
        attribute: Property of the training images in `positive` that those in `negative` lack.

    Returns:
        Batch that is read on first use; then it raises a UserError if the vocabularies differ.
    """

    def make() -> dict[str, Any]:
        data = opened(config)
        theirs = getattr(data, "tokenizer", None)
        if model.tokenizer and theirs and model.tokenizer.to_json() != theirs.to_json():
            raise UserError(
                f"--data {config} has another vocabulary than the checkpoint; "
                "give the data that the checkpoint was trained on"
            )
        content: dict[str, Any] = data.batch("test", seeds)
        return content | (data.attribute_batch(attribute) if attribute else {})

    return LazyBatch(make)
