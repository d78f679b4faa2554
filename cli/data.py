"""Build and prepare the data module of a configuration, for sampling and evaluation."""

import functools
from pathlib import Path
from typing import Any

from cli.classes import import_class
from cli.recipes import read_config
from common.errors import UserError
from datamodules.lazy_batch import LazyBatch


def data_module(
    config: Path | None, overrides: dict[str, Any] | None = None, option: str = "--data"
) -> Any:
    """Build the data module of a configuration and prepare its data.

    Args:
        config: Configuration file: a recipe, or config.yaml of a run. None if the checkpoint is in
            no run.
        overrides: Arguments of the data module that replace arguments in the configuration.
        option: Option of the program that names a configuration, for error messages.

    Raises:
        UserError: If the file is missing, has no key `data`, or gives wrong arguments for the data.
    """
    if config is None:
        raise UserError(f"the checkpoint is in no run; name its data with {option} CONFIG")
    if not config.is_file():
        raise UserError(f"{config}: there is no such file; name the data with {option} CONFIG")
    entry = read_config(config).get("data")
    if not isinstance(entry, dict):
        raise UserError(f"{config} has no key data:; name the data with {option} CONFIG")
    try:
        arguments = {**(entry.get("init_args") or {}), **(overrides or {})}
        data = import_class(entry["class_path"], "data", f"{config}: data")(**arguments)
    except (ImportError, KeyError, TypeError) as error:
        raise UserError(
            f"{config}: cannot build its data module ({error}); correct class_path or init_args"
        ) from error
    data.prepare_data()
    return data


opened = functools.lru_cache(maxsize=4)(data_module)


def unseen_batch(
    model: Any, config: Path | None, seeds: list[int], attribute: str | None
) -> LazyBatch:
    """Return a batch of test samples for the `sample` method, with one test sample per seed.

    Seed i selects sample i modulo the split's size. The data module is built when the batch
    is first used.

    Args:
        model: System whose `sample` method uses the batch.
        config: Configuration of the data; None if the checkpoint is in no run.
        seeds: One seed per sample.
        attribute: Attribute of images, such as a word in their names. If given, the batch also
            has training images with the attribute (`positive`) and without it (`negative`).

    Returns:
        Batch that is loaded on its first use. The first use raises a UserError if the data and the
        model have different vocabularies.
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
