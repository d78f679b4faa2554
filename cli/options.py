"""Command-line options: one-line errors, lists of seeds, and the options of a `sample` method."""

import argparse
import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

from common.errors import UserError

NOT_OPTIONS = ("seeds", "batch")  # arguments of `sample` that are not set by options


class OptionParser(argparse.ArgumentParser):
    """Parser that reports an error in one line and does not accept abbreviated options.

    Line breaks of the description are printed unchanged in the help.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(self.clear(message))

    def clear(self, message: str) -> str:
        """Return a message of argparse that names the option as typed and says what to do."""
        if match := re.fullmatch(r"argument (-\S+): must (.*)", message):
            return f"{match[1]} must {match[2]}"
        if match := re.fullmatch(r"argument (-\S+): expected (one|at least one) argument", message):
            return f"{match[1]} needs a value; give {match[1]} VALUE"
        if match := re.fullmatch(
            r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message
        ):
            name, value, choices = match[1], match[2], match[3].replace("'", "")
            if name.startswith("-"):
                return f"{name} must be one of {choices} (got {value})"
            return f"{value}: there is no such {name}; give one of {choices}"
        if match := re.fullmatch(r"unrecognized arguments: (\S+).*", message):
            return self.no_such_option(match[1])
        return f"{message}; {self.help_advice}"

    def no_such_option(self, word: str) -> str:
        """Return the error message for a word that is no option, with similar options."""
        if not word.startswith("-"):
            return f"{word} belongs to no option; put quotes around a value with spaces"
        name = word.partition("=")[0]
        commands = [
            parser
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for parser in action.choices.values()
        ]
        known = [one for parser in (self, *commands) for one in parser._option_string_actions]
        near = [f"--{one}" for one in similar(name.lstrip("-"), (one.lstrip("-") for one in known))]
        advice = f"did you mean {' or '.join(near)}?" if near else self.help_advice
        return f"{name}: there is no such option; {advice}"

    @property
    def help_advice(self) -> str:
        """Where the options are listed."""
        return f"`python {self.prog} --help` lists the options"


def similar(name: str, known: Iterable[str]) -> list[str]:
    """Return the known name that is nearly equal to `name`, or else at most two similar ones."""
    names = list(dict.fromkeys(known))  # subcommands may have the same options
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
    return near or difflib.get_close_matches(name, names, n=2, cutoff=0.6)


def parse_seeds(text: str) -> list[int]:
    """Parse numbers and inclusive ranges such as `0-31,85` into a list of seeds.

    Raises:
        UserError: If the text has another form, or has no seeds, such as "5-3".
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise UserError(f"--seeds must be numbers and ranges, such as 0-31,85 (got {text!r})")
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds:
        raise UserError(f"--seeds {text}: the range is empty; give its smaller number first")
    return seeds


def sample_parameters(sample: typing.Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a `sample` method that become options, keyed by name."""
    parameters = inspect.signature(sample).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if name not in NOT_OPTIONS and parameter.kind is not parameter.VAR_KEYWORD
    }


def parameter_help(sample: typing.Callable[..., Any]) -> dict[str, str]:
    """Return the `Args:` entries of a method's docstring, keyed by parameter."""
    from docstring_parser import parse

    return {
        entry.arg_name: " ".join((entry.description or "").split())
        for entry in parse(sample.__doc__ or "").params
    }


def add_sample_options(parser: argparse.ArgumentParser, sample: typing.Callable[..., Any]) -> None:
    """Add an option for each parameter of a `sample` method; the help text is its `Args:` entry."""
    described = parameter_help(sample)
    for name, parameter in sample_parameters(sample).items():
        add_option(parser, parameter, described.get(name, ""))


def base_type(parameter: inspect.Parameter) -> Any:
    """Return the type of a parameter, without `| None`."""
    kind = parameter.annotation
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def is_tensor(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter is a tensor; on the command line, it is given as an image file."""
    return getattr(base_type(parameter), "__name__", "") == "Tensor"


def option_name(parameter: inspect.Parameter) -> str:
    """Return the option name of a parameter: `input` for `image`, otherwise its own name."""
    return "input" if parameter.name == "image" else parameter.name


def number(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a function that parses an option's value; its error states the allowed range.

    Args:
        kind: Type of the value: int, float, str, or a restricted number of `jsonargparse.typing`.
    """

    base = kind if isinstance(kind, type) else str

    def parse(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            rule = str(error).partition("does not conform to restriction v")[2]
            rule = rule.replace(" and v", " and ")  # from "v>=0 and v<=1"
            plain = "an integer" if issubclass(base, int) else "a number"
            reason = f"must be {rule or plain} (got {text})"
            raise argparse.ArgumentTypeError(reason) from error

    return parse


def add_option(parser: argparse.ArgumentParser, parameter: inspect.Parameter, text: str) -> None:
    """Add the option of one parameter.

    A bool becomes the options `--x` and `--no-x`. A Literal becomes an option with choices. A list
    becomes a repeatable option. A Tensor becomes an option that takes an image file.
    """
    kind, flag = base_type(parameter), f"--{option_name(parameter)}"
    if is_tensor(parameter):  # on the command line, an image tensor is given as an image file
        text = re.sub(r" \([A-Z0-9, ]+\)( in \[-1, 1\])?", " file", text, count=1)
    required = parameter.default is parameter.empty
    help_text = text
    if not required and parameter.default not in (None, "", []):
        help_text = f"{text.removesuffix('.')} (default: {parameter.default})."
    common: dict[str, Any] = {
        "dest": parameter.name,
        "default": None if required else parameter.default,
        "required": required,
        "help": help_text.replace("%", "%%"),
    }
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
    elif typing.get_origin(kind) is Literal:
        parser.add_argument(flag, choices=typing.get_args(kind), **common)
    elif is_tensor(parameter):
        parser.add_argument(flag, type=Path, metavar="IMAGE", **common)
    elif typing.get_origin(kind) is list:
        parser.add_argument(flag, action="append", type=number(typing.get_args(kind)[0]), **common)
    else:
        parser.add_argument(flag, type=number(kind), **common)


def sample_arguments(
    options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], shape: list[int] | None
) -> dict[str, Any]:
    """Convert parsed options to arguments of `sample`; read and resize image files.

    Args:
        options: Parsed options, keyed by name.
        parameters: Parameters of `sample` that have an option, keyed by name.
        shape: Shape (C, H, W) of the system's images; None for a system without images.

    Raises:
        UserError: If an image file cannot be read.
    """
    from cli.image_inputs import image_input, mask_input

    arguments = {name: options[name] for name in parameters}
    for name, parameter in parameters.items():
        path = arguments[name]
        if is_tensor(parameter) and path is not None:
            assert shape is not None, f"{name} needs a system with an image_shape"
            read = mask_input if name == "mask" else image_input
            tensor = read(path, shape, f"--{option_name(parameter)}")
            arguments[name] = tensor[None] if name == "image" else tensor
    return arguments
