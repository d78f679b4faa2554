"""Check the options of `train.py` before jsonargparse parses them.

jsonargparse does not know which model parameters the data module provides. For an unknown option,
it suggests no similar option. This file first finds the classes of the model and the data. Then it
checks every option against the parameters of both classes.
"""

import inspect
import re
from pathlib import Path
from typing import Any

from cli.class_options import check_class_paths, with_own_optimizers
from cli.classes import FOLDERS, full_class_paths, import_class, init_parameters
from cli.option_order import CONFIG, in_order, values_of
from cli.parser_messages import A_RECIPE, no_such_option
from cli.recipes import read_config
from common.errors import UserError

Given = dict[str, Any]


class CommandLine:
    """Command line of `train.py`: words, configuration files, and classes of model and data.

    Args:
        argv: Words of the command line as typed: the subcommand, then options in any order.
        required: Classes that must be given, of "model" and "data".

    Attributes:
        words: Words of the command line, with full class paths, in the order that jsonargparse
            needs.
        configs: Content of each configuration file, keyed by its path as typed.
        classes: Classes of model and data, keyed by "model" and "data". If a key is given twice,
            the last class is used.

    Raises:
        UserError: If the subcommand is not the first word, or a file or a class does not exist.
    """

    def __init__(self, argv: list[str], required: tuple[str, ...]) -> None:
        self.required = required
        if argv[0].startswith("-"):
            raise UserError(
                f"{argv[0]}: the subcommand comes first; write `python train.py fit {argv[0]} ...`"
            )
        for word in argv:
            if re.match(r"-[A-Za-z][\w.]+", word):
                raise UserError(f"{word}: there is no such option; did you mean -{word}?")
        options = in_order(full_class_paths(argv[1:]))
        self.configs: dict[str, Given] = {}
        paths: dict[str, str] = {}
        places: dict[str, str] = {}  # where the class is named
        for option, value in values_of(options):
            if option in CONFIG:
                self.configs.pop(value, None)  # a file that is given twice counts at its last place
                config = self.configs[value] = read_config(Path(value))
                for key in FOLDERS:
                    section = config.get(key)
                    if isinstance(section, dict) and isinstance(section.get("class_path"), str):
                        paths[key], places[key] = section["class_path"], f"{value}: {key}"
            elif option in ("--model", "--data"):
                key = option.removeprefix("--")
                paths[key], places[key] = value, option
        self.class_paths = paths
        self.classes = {key: import_class(path, key, places[key]) for key, path in paths.items()}
        if "model" in self.classes:
            parameters = init_parameters(self.classes["model"])
            options = check_class_paths(options, self.configs, parameters)
            chosen = self.given_in_configs("model")
            options = in_order(with_own_optimizers(options, chosen, parameters))
        self.words = [argv[0], *options]

    @property
    def provided(self) -> tuple[str, ...]:
        """Names of the values that the data module passes to the model."""
        provides: tuple[str, ...] = getattr(self.classes.get("data"), "provides", ())
        return provides

    def given_in_configs(self, key: str) -> dict[str, str]:
        """Return the arguments of "model" or "data" (`key`) that configuration files set.

        The result maps each name to the place that sets it, such as "mine.yaml: model.width".
        """
        found: dict[str, str] = {}
        for path, config in self.configs.items():
            section = config.get(key)
            if not isinstance(section, dict):
                continue
            if section.get("class_path", self.class_paths.get(key)) == self.class_paths.get(key):
                found |= {name: f"{path}: {key}.{name}" for name in section.get("init_args") or {}}
        return found

    def given(self, key: str) -> dict[str, str]:
        """Return the arguments of "model" or "data" (`key`) that the user sets.

        The result maps each name to the option or the place in a file that sets it.
        """
        found = self.given_in_configs(key)
        for word in self.words:
            if word.startswith(f"--{key}."):
                option = word.partition("=")[0].rstrip("+")
                name = option.removeprefix(f"--{key}.").removeprefix("init_args.").partition(".")[0]
                found[name] = option
        for name in ("help", "class_path", "init_args", "dict_kwargs"):
            found.pop(name, None)
        return found

    def typed(self, key: str) -> str:
        """Return an option as the user typed it: `--model.width`, or its place in a file.

        Args:
            key: Name of an option, such as "model.width" or "trainer.max_steps".
        """
        names = {option.replace(".init_args.", ".") for option, _ in values_of(self.words)}
        if any(name.rstrip("+").startswith(f"--{key}") for name in names):
            return f"--{key}"
        for path, config in reversed(self.configs.items()):
            value: Any = config
            for name in key.split("."):
                value = value.get("init_args", value) if isinstance(value, dict) else None
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                return f"{path}: {key}"
        return f"--{key}"

    def known(self, options: set[str]) -> set[str]:
        """Return the options of the subcommand (`options`), of the model and of the data."""
        own = {
            f"--{key}.{name}" for key, cls in self.classes.items() for name in init_parameters(cls)
        }
        return options | own

    def check(self, options: set[str]) -> None:
        """Check that all options exist and that no option sets a value that the data provides.

        Args:
            options: Options of the subcommand, such as `--trainer.max_steps`.

        Raises:
            UserError: If an option is unknown, missing or provided by the data.
        """
        missing = [key for key in self.required if key not in self.classes]
        if self.classes and missing and not any(word.endswith("help") for word in self.words):
            raise UserError(f"the following arguments are required: --{missing[0]}; {A_RECIPE}")
        for name, place in sorted(self.given("model").items()):
            if name in self.provided:
                raise UserError(f"{place} is provided by the data and cannot be set; leave it out")
        accepted = {key: init_parameters(cls) for key, cls in self.classes.items()}
        known = self.known(options)
        for key, parameters in accepted.items():
            for name, place in sorted(self.given(key).items()):
                if name not in parameters:
                    raise UserError(no_such_option(place, known))
        for path, config in self.configs.items():
            for name in sorted(flat_names(config, options)):
                if f"--{name}" not in options:
                    raise UserError(no_such_option(f"{path}: {name}", known))
        if "model" in accepted and "data" in accepted:
            self.check_required(accepted["model"])

    def check_required(self, parameters: dict[str, inspect.Parameter]) -> None:
        """Check that every required parameter of the model is given, or provided by the data."""
        given = self.given("model").keys() | set(self.provided)
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in given:
                raise UserError(
                    f"model {self.classes['model'].__name__} needs {name}, which "
                    f"{self.classes['data'].__name__} does not provide; choose other data"
                )


def flat_names(config: Given, options: set[str]) -> set[str]:
    """Return option names of a configuration, such as "trainer.max_steps".

    Options of the model and the data are left out.
    """
    names: set[str] = set()
    for key, value in config.items():
        if key in ("model", "data"):
            continue
        section = isinstance(value, dict) and "class_path" not in value
        names |= {f"{key}.{name}" for name in value} if section else {key}
    return names
