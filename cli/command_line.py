"""Check the options of `train.py` before jsonargparse parses them.

jsonargparse does not know which model parameters the data module provides. For an unknown option,
it suggests no similar option. This file first finds the classes of the model and the data. Then it
checks every option against the parameters of both classes.
"""

import difflib
import itertools
import re
from pathlib import Path
from typing import Any

from cli.classes import FOLDERS, full_class_paths, import_class, init_parameters
from cli.recipes import read_config
from common.errors import UserError

Given = dict[str, Any]

A_RECIPE = "give --config FILE with a recipe (`python train.py` lists the recipes)"

# Starts of lines in which jsonargparse lists the types that it tried; our messages omit them.
ALTERNATIVES = (
    *("Does not validate", "Subtypes: ", "Errors:", "Problem with given class_path"),
    *("Expected a <class 'NoneType'>", "Given value type: "),
    *("Given value: NestedArg", "Given value: {", "Given value: Namespace"),
)

# Lines of jsonargparse's messages. The groups `rule`, `choices` and `value` match the expected type
# or range, the allowed values, and the given value.
EXPECTED = (
    r"Not of type \w+: (?P<value>.*?) ?does not conform to restriction v(?P<rule>.*)",
    r"Not of type \w+: invalid literal for (?P<rule>int)\(\) .*?: '(?P<value>.*)'",
    r"Not of type \w+: could not convert string to (?P<rule>float): '(?P<value>.*)'",
    r"Expected a <class '(?P<rule>\w+)'>(\. Got value: (?P<value>.*))?",
    r"Expected a typing\.Literal\[(?P<choices>.*)\](\. Got value: (?P<value>.*))?",
    r"Given value: (?P<value>.*)",
)
TYPES = {"bool": "true or false", "int": "an integer", "float": "a number"}


class CommandLine:
    """Command line of `train.py`: words, configuration files, and classes of model and data.

    Args:
        argv: Words of the command line as typed.

    Attributes:
        words: Words of the command line, with full class paths.
        configs: Content of each configuration file, in the order of the command line.
        classes: Classes of model and data, keyed by "model" and "data". If a key is given twice,
            the last class is used.

    Raises:
        UserError: If a file or a class does not exist.
    """

    def __init__(self, argv: list[str]) -> None:
        self.words = full_class_paths(argv)
        self.configs: list[Given] = []
        paths: dict[str, str] = {}
        for option, value in itertools.pairwise(self.words):
            if option in ("-c", "--config"):
                self.configs.append(read_config(Path(value)))
                for key in ("model", "data"):
                    section = self.configs[-1].get(key)
                    if isinstance(section, dict) and "class_path" in section:
                        paths[key] = section["class_path"]
            elif option in ("--model", "--data"):
                paths[option.removeprefix("--")] = value
        self.class_paths = paths
        self.classes = {key: import_class(path) for key, path in paths.items()}

    @property
    def provided(self) -> tuple[str, ...]:
        """Names of the values that the data module passes to the model."""
        provides: tuple[str, ...] = getattr(self.classes.get("data"), "provides", ())
        return provides

    def given(self, key: str) -> set[str]:
        """Return the names of the arguments of "model" or "data" (`key`) that the user sets."""
        options = (
            word.removeprefix(f"--{key}.") for word in self.words if word.startswith(f"--{key}.")
        )
        names = {
            word.removeprefix("init_args.").partition("=")[0].partition(".")[0].rstrip("+")
            for word in options
        }  # fmt: skip
        for config in self.configs:
            section = config.get(key)
            if not isinstance(section, dict):
                continue
            if section.get("class_path", self.class_paths.get(key)) == self.class_paths.get(key):
                names |= set(section.get("init_args") or {})
        return names - {"help", "class_path", "init_args", "dict_kwargs"}

    def check(self, options: set[str]) -> None:
        """Check that all options exist and that no option sets a value that the data provides.

        Args:
            options: Options of the subcommand, such as `--trainer.max_steps`.

        Raises:
            UserError: If an option is unknown, missing or provided by the data.
        """
        missing = [key for key in FOLDERS if key not in self.classes]
        if self.classes and missing and not any(word.endswith("help") for word in self.words):
            raise UserError(f"the following arguments are required: --{missing[0]}; {A_RECIPE}")
        for name in sorted(self.given("model") & set(self.provided)):
            raise UserError(f"model.{name} is provided by the data and cannot be set; leave it out")
        accepted = {key: init_parameters(cls) for key, cls in self.classes.items()}
        known = options | {f"--{key}.{name}" for key in accepted for name in accepted[key]}
        for key, parameters in accepted.items():
            for name in sorted(self.given(key) - set(parameters)):
                raise UserError(no_such_option(name, known))
        for config in self.configs:
            for name in sorted(flat_names(config, options)):
                if f"--{name}" not in options:
                    raise UserError(no_such_option(name, known))
        if "model" in accepted and "data" in accepted:
            given = self.given("model") | set(self.provided)
            for name, parameter in accepted["model"].items():
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


def no_such_option(name: str, known: set[str]) -> str:
    """Return the error message for an unknown option, with similar options."""
    names = {option.lstrip("-"): option for option in known}
    names |= {option.rpartition(".")[2]: option for option in known}
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    hint = " or ".join(dict.fromkeys(names[one] for one in near))
    return f"there is no option {name}" + (f"; did you mean {hint}?" if hint else "")


def parser_message(message: str, known: set[str]) -> str:
    """Shorten a message of jsonargparse to one line with option, expected type and given value."""
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown != message:
        return no_such_option(unknown.split()[0].lstrip("-").partition("=")[0], known)
    if "arguments are required" in message:
        return re.sub(r"\b(fit|validate|test)\.", "--", f"{message}; {A_RECIPE}")
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    key = ".".join(line.split('"')[1] for line in lines if line.startswith('Parser key "'))
    lines = [
        line for line in lines if line and not line.startswith(('Parser key "', *ALTERNATIVES))
    ]
    matches = [match_line(line) for line in lines]
    expected = [text for text, _ in matches if text]
    values = [value for _, value in matches if value]
    if key and expected and values and all(map(any, matches)):
        return f"{key} must be {' or '.join(expected)} (got {values[-1]})"
    plain = (re.sub(r"<class '(.*?)'>", r"\1", line.replace("typing.", "")) for line in lines)
    return ": ".join([*([key] if key else []), " ".join(plain)])


def match_line(line: str) -> tuple[str, str]:
    """Return the expected type or range, and the given value, of a line of jsonargparse's message.

    A part that the line does not contain is "".
    """
    for pattern in EXPECTED:
        if match := re.fullmatch(pattern, line):
            found = match.groupdict(default="")
            rule = found.get("rule", "").replace(" and v", " and ")  # from "v>=0 and v<=1"
            choices = found.get("choices") and f"one of {found['choices']}"
            return choices or TYPES.get(rule, rule), found.get("value", "")
    return "", ""
