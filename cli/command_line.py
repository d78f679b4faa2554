"""What a command line of `train.py` names, checked before it is parsed.

jsonargparse knows neither which options a class would accept nor which of them come from the data.
Here both classes are resolved first, so that a mistake can be answered with the nearest option.
"""

import difflib
import itertools
from pathlib import Path
from typing import Any

from cli.classes import FOLDERS, full_class_paths, import_class, init_parameters
from cli.recipes import read_config
from common.errors import UserError

Given = dict[str, Any]

A_RECIPE = "a recipe has them: give --config FILE, `python train.py` lists what there is"

# Lines of jsonargparse's messages that list the alternatives it tried.
ALTERNATIVES = (
    *("Does not validate", "Subtypes: ", "Errors:", "Problem with given class_path"),
    *("Expected a <class 'NoneType'>", "Given value type: "),
    *("Given value: NestedArg", "Given value: {", "Given value: Namespace"),
)


class CommandLine:
    """Words of a command line, the configurations it names, and the classes of model and data.

    Args:
        argv: Words as typed.

    Attributes:
        words: Words with full class paths.
        configs: Content of the configuration files in their order.
        classes: Class of "model" and of "data", where one is named; the last one counts.

    Raises:
        UserError: if a file or a class does not exist.
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
        """Names of the values that the data passes to the model."""
        provides: tuple[str, ...] = getattr(self.classes.get("data"), "provides", ())
        return provides

    def given(self, key: str) -> set[str]:
        """Arguments of "model" or "data" that command line or configurations set."""
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
        """Refuse options that do not exist, or that only the data can give.

        Args:
            options: Options of the subcommand, such as `--trainer.max_steps`.

        Raises:
            UserError: naming the nearest option.
        """
        missing = [f"{self.words[0]}.{key}" for key in FOLDERS if key not in self.classes]
        if self.classes and missing and not any(word.endswith("help") for word in self.words):
            raise UserError(f"the following arguments are required: {missing[0]}; {A_RECIPE}")
        for name in sorted(self.given("model") & set(self.provided)):
            raise UserError(
                f"model.{name} is a fact of the data and cannot be given by hand: leave it out"
            )
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
                        f"{self.classes['data'].__name__} does not have: choose other data"
                    )


def flat_names(config: Given, options: set[str]) -> set[str]:
    """Option names of a configuration, "section.name" for a section; model and data left out."""
    names: set[str] = set()
    for key, value in config.items():
        if key in ("model", "data"):
            continue
        section = isinstance(value, dict) and "class_path" not in value
        names |= {f"{key}.{name}" for name in value} if section else {key}
    return names


def no_such_option(name: str, known: set[str]) -> str:
    """What to say of an option that does not exist: the nearest ones that do."""
    names = {option.lstrip("-"): option for option in known}
    names |= {option.rpartition(".")[2]: option for option in known}
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    hint = " or ".join(dict.fromkeys(names[one] for one in near))
    return f"there is no option {name}" + (f"; did you mean {hint}?" if hint else "")


def parser_message(message: str, known: set[str]) -> str:
    """One line of jsonargparse's message: the option, what is expected, and the value."""
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown != message:
        return no_such_option(unknown.split()[0].lstrip("-").partition("=")[0], known)
    if "arguments are required" in message:
        return f"{message}; {A_RECIPE}"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    keys = [line.split('"')[1] for line in lines if line.startswith('Parser key "')]
    rest = [
        plain_words(line)
        for line in lines
        if line and not line.startswith(('Parser key "', *ALTERNATIVES))
    ]
    return ": ".join([".".join(keys), " ".join(rest)] if keys else rest)


def plain_words(line: str) -> str:
    """A line of jsonargparse's messages without its names of Python types."""
    rule = "does not conform to restriction v"
    if rule in line:  # Not of type PositiveInt: 0 does not conform to restriction v>0
        return line.partition(": ")[2].replace(rule, "must be ")
    return line.replace("<class '", "").replace("'>", "").replace("typing.", "")
