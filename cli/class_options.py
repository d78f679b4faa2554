"""Options whose values are classes: optimizers, schedules, callbacks and loggers.

`--model.optimizer.lr 1e-4` without a class changes the learning rate of the system's own optimizer.
"""

import difflib
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from torch.optim import Optimizer

from cli.option_order import values_of
from common.errors import UserError
from common.imports import import_object
from lightning_modules.optim import muon, schedules  # noqa: F401  # found by `subclasses`

NAME = re.compile(r"(?!true|false|null)[A-Za-z_]\w*", re.IGNORECASE)
TRAINER_CLASSES: dict[str, type] = {"--trainer.callbacks": Callback, "--trainer.logger": Logger}
PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def class_parameters(parameters: dict[str, inspect.Parameter]) -> dict[str, type]:
    """Return the base class of each parameter that is a function that builds an object.

    The result is keyed by parameter name. Such parameters are optimizers and their schedules.
    """
    found: dict[str, type] = {}
    for name, parameter in parameters.items():
        kinds = [parameter.annotation, *typing.get_args(parameter.annotation)]
        for kind in kinds:
            if typing.get_origin(kind) is Callable:
                result = typing.get_args(kind)[-1]
                found[name] = (typing.get_args(result) or (result,))[0]
                break
    return found


def with_own_optimizers(
    words: list[str], chosen: dict[str, Any], parameters: dict[str, inspect.Parameter]
) -> list[str]:
    """Name the class of each optimizer of which the command line sets an argument.

    Args:
        words: Words of the command line, after the subcommand.
        chosen: Arguments of the model in configuration files.
        parameters: Parameters of the model, keyed by name.

    Returns:
        The words, preceded by the class and arguments of the system's own optimizer if neither the
        command line nor a configuration file names a class.

    Raises:
        UserError: If an argument of a schedule is set, but the system has no schedule by default.
    """
    typed = values_of(words)
    added: list[str] = []
    for name in class_parameters(parameters):
        option = f"--model.{name}"
        arguments = [one for one, _ in typed if one.startswith(f"{option}.")]
        named = any(one in (option, f"{option}.class_path") for one, _ in typed)
        if not arguments or named or chosen.get(name):
            continue
        own = parameters[name].default
        if not callable(own):
            raise UserError(
                f"{arguments[0]}: no class is chosen; give {option} CLASS, such as "
                f"{option} torch.optim.lr_scheduler.ExponentialLR"
            )
        optimizer: Optimizer = own([torch.nn.Parameter(torch.zeros(1))])
        kind = type(optimizer)
        defaults = inspect.signature(kind).parameters
        added += [option, f"{kind.__module__}.{kind.__name__}"]
        for argument, value in optimizer.defaults.items():
            if argument in defaults and value != defaults[argument].default:
                text = str(list(value)) if isinstance(value, tuple) else str(value)
                added.append(f"{option}.init_args.{argument}={text}")
    return [*added, *words]


def check_class_paths(
    words: list[str], configs: dict[str, dict[str, Any]], parameters: dict[str, inspect.Parameter]
) -> list[str]:
    """Check all classes that are given by path, and return the words with full class paths.

    Args:
        words: Words of the command line, after the subcommand.
        configs: Contents of the configuration files, keyed by their paths.
        parameters: Parameters of the model, keyed by name.

    Raises:
        UserError: If a class does not exist, or if its module cannot be imported.
    """
    bases = class_parameters(parameters)
    for option, value in values_of(words):
        name = option.removeprefix("--model.").removesuffix(".class_path")
        if name in bases and re.fullmatch(r"[\w.]+", value):
            path = class_path_of(option, value, bases[name])
            for number, word in enumerate(words):
                if word == f"{option}={value}":
                    words[number] = f"{option}={path}"
                elif word == value and number and words[number - 1] == option:
                    words[number] = path
        elif option.startswith("--trainer.") and PATH.fullmatch(value):
            class_path_of(option.rstrip("+"), value, None)
        elif option.rstrip("+") in TRAINER_CLASSES and NAME.fullmatch(value):
            class_path_of(option.rstrip("+"), value, TRAINER_CLASSES[option.rstrip("+")])
    for file, config in configs.items():
        arguments = (config.get("model") or {}).get("init_args") or {}
        for name, base in bases.items():
            for key, path in class_paths(arguments.get(name), f"model.{name}"):
                class_path_of(f"{file}: {key}", path, base)
        for key, path in class_paths(config.get("trainer"), "trainer"):
            class_path_of(f"{file}: {key}", path, None)
    return words


def class_paths(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the place and path of every `class_path` in a part of a configuration."""
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield key, value["class_path"]
        for name, part in value.items():
            yield from class_paths(part, f"{key}.{name}")
    elif isinstance(value, list):
        for part in value:
            yield from class_paths(part, key)


def class_path_of(option: str, value: str, base: type | None) -> str:
    """Return the full path of a class, given by its path or, with a base class, by its name.

    Args:
        option: Option or place in a file that names the class, for the error message.
        value: Class path or class name as typed.
        base: Base class of the wanted class; None accepts every class.

    Raises:
        UserError: If there is no such class, or if its module cannot be imported.
    """
    known = subclasses(base) if base else {}
    if "." not in value and value in known:
        return known[value]
    try:
        if "." in value:
            found = import_object(value)
            if base is None or found_is(found, base):
                return value
    except (ModuleNotFoundError, AttributeError):
        pass
    except UserError as error:
        raise UserError(f"{option} {value}: {error}") from error
    name = value.rpartition(".")[2]
    near = difflib.get_close_matches(name.lower(), {one.lower(): one for one in known}, n=3)
    lowered = {one.lower(): path for one, path in known.items()}
    hints = [f"similar names: {', '.join(lowered[one] for one in near)}"] if near else []
    what = base.__name__ if base else "class"
    if "." not in value:
        hints.append(f"a class of your own needs the path of its module: MODULE.{value}")
    advice = "; ".join(hints) or "correct the path, such as callbacks.fid.FID"
    raise UserError(f"{option} {value}: there is no such {what}; {advice}")


def found_is(found: Any, base: type) -> bool:
    """Return whether an object is a subclass of a base class, or a function that builds one."""
    return issubclass(found, base) if isinstance(found, type) else callable(found)


def subclasses(base: type) -> dict[str, str]:
    """Return the paths of all imported public subclasses of a class, keyed by class name."""
    found: dict[str, str] = {}
    children: list[type] = base.__subclasses__()
    for cls in children:
        if not cls.__name__.startswith("_"):
            module = re.sub(r"^torch\.optim\.(?!lr_scheduler)\w+$", "torch.optim", cls.__module__)
            found[cls.__name__] = f"{module}.{cls.__name__}"
        found |= subclasses(cls)
    return found
