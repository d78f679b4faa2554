"""Command-line options: one-line errors, seeds, and the options of a `sample` method."""

import argparse
import inspect
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, NoReturn

from common.errors import UserError


class OptionParser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `python {self.prog} --help` lists what there is")


def parse_seeds(text: str) -> list[int]:
    """`0-31,85` as a list of seeds.

    Raises:
        UserError: if it is anything else.
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise UserError(f"--seeds {text!r}: write numbers and ranges, such as 0-31,85")
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds:
        raise UserError(f"--seeds {text}: the range is empty, its end is before its beginning")
    return seeds


def add_option(parser: argparse.ArgumentParser, parameter: inspect.Parameter, text: str) -> None:
    """One parameter of `sample` as an option: bool -> --x/--no-x, Literal -> choices, list ->
    repeatable.
    """
    kind, flag = parameter.annotation, f"--{parameter.name}"
    if isinstance(kind, types.UnionType):  # `int | None`
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    help_text = f"{text} (default: {parameter.default})".replace("%", "%%")
    common: dict[str, Any] = {"default": parameter.default, "help": help_text}
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
    elif typing.get_origin(kind) is Literal:
        parser.add_argument(flag, choices=typing.get_args(kind), **common)
    elif getattr(kind, "__name__", "") == "Tensor":
        parser.add_argument(flag, type=Path, metavar="PICTURE", **common)
    elif typing.get_origin(kind) is list:
        parser.add_argument(flag, action="append", type=typing.get_args(kind)[0], **common)
    else:
        parser.add_argument(flag, type=kind, **common)
