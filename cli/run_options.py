"""Options of `train.py` besides those of the trainer, the model and the data."""

import re
from collections.abc import Callable
from typing import Any

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from pytorch_lightning.cli import LightningArgumentParser

from callbacks.checkpoint import RunCheckpoint
from callbacks.fid import FID
from callbacks.previews import Previews
from cli.classes import init_parameters
from cli.loggers import WandbOptions
from common.errors import UserError
from common.imports import import_object

# Options that concern one start of the program only, so config.yaml does not contain them.
START_OPTIONS = (
    *("config", "run_dir", "init_from", "ckpt_path", "dry_run", "extend"),
    *("verbose", "weights_only"),
)
# Options that only `fit` uses.
FIT_OPTIONS = (
    *("fid", "previews", "checkpoint", "wandb", "tensorboard", "gradient_histograms"),
    *("updates_per_step", "graph_updates", "extend"),
)


def check_used(subcommand: str | None, words: list[str]) -> None:
    """Check that the words of a command line have no option that the subcommand does not use.

    Raises:
        UserError: If the subcommand is not `fit`, and an option is for `fit` only.
    """
    for word in words if subcommand != "fit" else []:
        if word.startswith("--") and re.split("[.=]", word[2:])[0] in FIT_OPTIONS:
            raise UserError(f"{subcommand} does not use {word.partition('=')[0]}; leave it out")


def saved_options(parser: LightningArgumentParser, options: Namespace) -> dict[str, Any]:
    """Return the options of a run as config.yaml stores them.

    Options that are None are left out if their default is None, which keeps the file readable.
    """
    config = yaml.safe_load(parser.dump(options, skip_unset=False))
    for name in START_OPTIONS:
        config.pop(name, None)

    def is_default(name: str) -> bool:
        try:
            return parser.get_default(name) is None
        except KeyError:  # jsonargparse's: an option of a class, whose default is in the class
            return True

    return without_nulls(config, is_default)


def without_nulls(
    config: dict[str, Any], is_default: Callable[[str], bool], prefix: str = ""
) -> dict[str, Any]:
    """Return a configuration without options that are None by default.

    Args:
        config: Nested options.
        is_default: Returns whether the option of a dotted name is None by default.
        prefix: Dotted name of `config`, with a dot at its end.
    """
    kept: dict[str, Any] = {}
    for name, value in config.items():
        if value is None and is_default(prefix + name):
            continue
        if isinstance(value, dict) and "class_path" in value:
            kept[name] = class_without_nulls(value)
        elif isinstance(value, dict):
            kept[name] = without_nulls(value, is_default, f"{prefix}{name}.")
        elif isinstance(value, list):
            kept[name] = [
                class_without_nulls(one) if isinstance(one, dict) and "class_path" in one else one
                for one in value
            ]
        else:
            kept[name] = value
    return kept


def class_without_nulls(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a class without arguments that are None by default."""
    parameters = init_parameters(import_object(config["class_path"]))
    arguments = without_nulls(
        config.get("init_args", {}),
        lambda name: name not in parameters or parameters[name].default is None,
    )
    return {**config, "init_args": arguments} if arguments else {"class_path": config["class_path"]}


def add_run_options(parser: LightningArgumentParser) -> None:
    """Add the options of the run directory, the loggers and the configurable callbacks."""
    parser.add_class_arguments(RunCheckpoint, "checkpoint")
    parser.add_class_arguments(Previews, "previews")
    parser.add_class_arguments(FID, "fid")
    parser.add_argument(
        "--run_dir",
        type=str | None,
        metavar="DIR",
        help="Directory for the run's files; runs/<system>/<dataset>/<time> if not given.",
    )
    parser.add_argument(
        "--init_from",
        type=str | None,
        metavar="FILE",
        help="Checkpoint to initialise a new run: weights of equal name and shape are copied.",
    )
    parser.add_argument(
        "--compile",
        type=str | None,
        metavar="BACKEND",
        help="Compile the networks with this torch.compile backend, such as inductor.",
    )
    parser.add_argument(
        "--updates_per_step",
        type=PositiveInt | None,
        metavar="N",
        help="Number of updates per step of the trainer, without influence on the results; "
        "chosen from the speed if not given.",
    )
    parser.add_argument(
        "--graph_updates",
        action="store_true",
        help="Record each kind of update as a CUDA graph and replay it, which saves the time to "
        "start its kernels. Needs one process on a GPU, and a loss without state in Python.",
    )
    parser.add_class_arguments(WandbOptions, "wandb")
    parser.add_argument("--tensorboard", action="store_true", help="Also log to TensorBoard.")
    parser.add_argument(
        "--gradient_histograms",
        action="store_true",
        help="Log a histogram of each parameter's gradient per logging interval.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Print the configuration, layers, data sizes and steps, then exit.",
    )
    parser.add_argument(
        "--extend",
        action="store_true",
        help="Accept that another length of a resumed run changes the learning rate.",
    )
