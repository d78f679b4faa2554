"""Data modules of a configuration, built and prepared for sampling and evaluation."""

import functools
from pathlib import Path
from typing import Any

from cli.classes import import_class
from cli.recipes import read_config
from common.errors import UserError
from datamodules.lazy_batch import LazyBatch


def data_module(config: Path, overrides: dict[str, Any] | None = None) -> Any:
    """The data module of a configuration, prepared.

    Args:
        config: Recipe, or the config.yaml of a run.
        overrides: Arguments that replace those of the configuration.

    Raises:
        UserError: if the file is missing or names no data.
    """
    if not config.is_file():
        raise UserError(f"{config}: no such file; give the data with --data CONFIG")
    entry = read_config(config).get("data")
    if not entry:
        raise UserError(f"{config}: there is no `data:` in it; give the data with --data CONFIG")
    try:
        arguments = {**entry.get("init_args", {}), **(overrides or {})}
        data = import_class(entry["class_path"])(**arguments)
    except (ImportError, KeyError, TypeError) as error:
        raise UserError(
            f"{config}: its data cannot be made ({error}); correct its class_path or init_args"
        ) from error
    data.prepare_data()
    return data


opened = functools.cache(data_module)


def unseen_batch(model: Any, config: Path, seeds: list[int], attribute: str | None) -> LazyBatch:
    """The batch that `sample` may ask for: seed i picks sample `i` of the test split, modulo its
    size.

    Args:
        model: System that samples.
        config: Configuration of the data.
        seeds: One seed per sample.
        attribute: Property that `positive` training images have and `negative` ones have not.
    """

    def make() -> dict[str, Any]:
        data = opened(config)
        theirs = getattr(data, "tokenizer", None)
        if model.tokenizer and theirs and model.tokenizer.to_json() != theirs.to_json():
            raise UserError(
                f"--data {config}: its texts have another vocabulary than the checkpoint's; "
                "give the data of its run"
            )
        content: dict[str, Any] = data.batch("test", seeds)
        return content | (data.attribute_batch(attribute) if attribute else {})

    return LazyBatch(make)
