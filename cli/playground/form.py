"""Forms whose fields are built from the signature of a system's `sample` method."""

import argparse
import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gradio as gr

from cli.options import base_type, number, parameter_help, sample_parameters
from common.errors import UserError

MAX_TEXT = 2000  # characters of a text field
MAX_INTEGER = 1000  # of an option, such as a number of steps or tokens
MAX_SEED = 2**31
MAX_SAMPLES = 64  # per request
MAX_OPTION = {"beam": 20, "steps": 250}  # smaller limits of some options
STEP = 0.05  # of a slider
WEIGHTS = ("averaged", "trained")


# Fields that are no options of `sample`. Their names have spaces, as no option can have.
FIRST_SEED, COUNT, USED_WEIGHTS = "first seed", "number of samples", "used weights"


class Form:
    """Fields of a request, and the conversion of their values.

    Attributes:
        components: Component of each field, keyed by its name.
    """

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}
        self._parsers: dict[str, Callable[[Any], Any]] = {}

    def add(self, name: str, component: Any, parse: Callable[[Any], Any] | None = None) -> Any:
        """Add a field.

        Args:
            name: Name of the value.
            component: Component of Gradio.
            parse: Function that converts the component's value and raises a UserError for values
                that are not allowed; None keeps the value.
        """
        component.interactive = True  # else Gradio may disable a field that replaces another one
        self.components[name] = component
        self._parsers[name] = parse or (lambda value: value)
        return component

    def parse(self, values: Sequence[Any]) -> dict[str, Any]:
        """Convert the values of the components, in their order.

        Raises:
            UserError: If a value is not allowed.
        """
        pairs = zip(self._parsers.items(), values, strict=True)
        return {name: parse(value) for (name, parse), value in pairs}

    def add_seeds(self, count: int, most: int = MAX_SAMPLES) -> None:
        """Add fields for the seeds of the samples, which `seeds_of` reads.

        Args:
            count: Default number of samples.
            most: Maximum number of samples.
        """
        with gr.Row():
            first = integer_field("First seed", "Seed of the first sample.", MAX_SEED)
            self.add(FIRST_SEED, first, integer(FIRST_SEED, 0, MAX_SEED))
            samples = gr.Slider(
                1, most, count, step=1, label="Samples", info="Number of samples and seeds."
            )
            self.add(COUNT, samples, integer(COUNT, 1, most))

    def add_weights(self, model: Any) -> None:
        """Add the choice between averaged and trained weights, if the system has averages."""
        if model.has_averaged_weights:
            choice = gr.Radio(
                WEIGHTS,
                value="averaged",
                label="Weights",
                info="Moving average of the weights, or the weights after the last update.",
            )
            self.add(USED_WEIGHTS, choice, one_of(USED_WEIGHTS, WEIGHTS))

    def add_options(self, model: Any, without: Sequence[str] = ()) -> None:
        """Add a field for each option of the system's `sample` method.

        Args:
            model: System whose options are added.
            without: Options that have their own fields. Images, and options of types that have no
                field, are left out.
        """
        described = parameter_help(model.sample)
        if getattr(model, "classes", None) == 0:  # not conditional
            without = [*without, "label"]
        for name, parameter in sample_parameters(model.sample).items():
            if name not in without and is_supported(parameter):
                self.add(name, *field(parameter, first_sentence(described.get(name, ""))))


def integer_field(label: str, info: str, high: int) -> gr.Number:
    """Create a field for an integer from 0 to `high`, at first 0."""
    return gr.Number(0, label=label, info=info, precision=0, minimum=0, maximum=high)


def is_supported(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter of `sample` can have a field: a number, text, choice or list."""
    kind = base_type(parameter)
    if typing.get_origin(kind) is Literal:
        return True
    if typing.get_origin(kind) is list:
        kind = typing.get_args(kind)[0]
    return isinstance(kind, type) and issubclass(kind, int | float | str)


def seeds_of(values: Mapping[str, Any]) -> list[int]:
    """Return the seeds that the fields of `Form.add_seeds` ask for."""
    return list(range(values[FIRST_SEED], values[FIRST_SEED] + values[COUNT]))


def options_of(model: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are arguments of the system's `sample` method.

    Raises:
        UserError: If a value is none of the system's choices. The form may be that of another
            system, with which it is compared.
    """
    found = {name: one for name, one in sample_parameters(model.sample).items() if name in values}
    for name, parameter in found.items():
        choices = typing.get_args(base_type(parameter))
        value = values[name]
        is_choice = value in choices or (value is None and parameter.default is None)
        if typing.get_origin(base_type(parameter)) is Literal and not is_choice:
            raise UserError(
                f"{name} {value} is no choice of {type(model).__name__}; choose "
                f"{' or '.join(map(str, choices))}"
            )
    return {name: values[name] for name in found}


def first_sentence(text: str) -> str:
    """Return the first sentence of a description."""
    return re.split(r"(?<=\.)(?<!al\.) (?=[A-Z0-9])", text)[0]  # "et al." ends no sentence


def field(parameter: inspect.Parameter, text: str) -> tuple[Any, Callable[[Any], Any]]:
    """Return a component for a parameter of `sample`, and the conversion of its value.

    A bool becomes a checkbox, a Literal a list of choices, a float a slider, and a list a text
    field with commas.
    """
    kind, parse = base_type(parameter), parser_of(parameter)
    default = None if parameter.default is parameter.empty else parameter.default
    common: dict[str, Any] = {"label": parameter.name.replace("_", " ").capitalize(), "info": text}
    if kind is bool:
        return gr.Checkbox(bool(default), **common), parse
    if typing.get_origin(kind) is Literal:
        choices = list(typing.get_args(kind))
        empty = [""] if parameter.default is None else []
        value = choices[0] if parameter.default is parameter.empty else default
        return gr.Dropdown([*empty, *choices], value=value or "", **common), parse
    if typing.get_origin(kind) is list:
        shown = ", ".join(map(str, default or []))
        return gr.Textbox(shown, max_length=MAX_TEXT, **common), parse
    if issubclass(kind, str) or default is None:  # a number field cannot be empty
        return gr.Textbox(default or "", max_length=MAX_TEXT, **common), parse
    if issubclass(kind, float):
        low = min(0.0, 2.0 * default)
        return gr.Slider(low, highest(kind, default), default, step=STEP, **common), parse
    return gr.Number(default, precision=0 if issubclass(kind, int) else None, **common), parse


def highest(kind: Any, default: float) -> float:
    """Return the upper end of a slider: 1 for types that allow no larger value."""
    try:
        number(kind)("1.5")
    except argparse.ArgumentTypeError:
        return 1.0
    return max(3.0, 2.0 * default)


def parser_of(parameter: inspect.Parameter) -> Callable[[Any], Any]:
    """Return the conversion of a value of the page to an argument of `sample`.

    It raises a UserError for values that are not allowed.
    """
    name, kind = parameter.name, base_type(parameter)
    optional = parameter.default is None
    if kind is bool:
        return one_of(name, (True, False))
    if typing.get_origin(kind) is Literal:
        return one_of(name, typing.get_args(kind), optional)
    if typing.get_origin(kind) is list:
        return listed(name, typing.get_args(kind)[0], optional)
    if issubclass(kind, str):
        return text_value(name, optional)
    largest = MAX_OPTION.get(name, MAX_INTEGER)
    if isinstance(parameter.default, int):
        largest = max(largest, parameter.default)
    return restricted(name, kind, optional, largest)


def one_of(name: str, choices: Sequence[Any], optional: bool = False) -> Callable[[Any], Any]:
    """Return a conversion that accepts only some values.

    Args:
        name: Name of the value for messages.
        choices: Values that are allowed.
        optional: Whether an empty field becomes None.
    """

    def parse(value: Any) -> Any:
        if optional and value in (None, ""):
            return None
        if value not in choices:
            names = ", ".join(map(str, choices))
            raise UserError(f"{name} must be one of {names} (got {value!r:.40})")
        return value

    return parse


def integer(name: str, low: int, high: int) -> Callable[[Any], int]:
    """Return a conversion that accepts integers from `low` to `high`."""

    def parse(value: Any) -> int:
        number_ = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number_ and float(value).is_integer()):
            raise UserError(f"{name} must be an integer (got {value!r:.40})")
        if not low <= value <= high:
            raise UserError(f"{name} must be from {low} to {high:,} (got {value:,})")
        return int(value)

    return parse


def text_value(name: str, optional: bool = False) -> Callable[[Any], str | None]:
    """Return a conversion that accepts texts of at most `MAX_TEXT` characters.

    Args:
        name: Name of the value for messages.
        optional: Whether an empty text becomes None.
    """

    def parse(value: Any) -> str | None:
        if not isinstance(value, str | None):
            raise UserError(f"{name} must be a text (got {value!r:.40})")
        if len(value or "") > MAX_TEXT:
            raise UserError(
                f"{name} has {len(value):,} characters; give at most {MAX_TEXT:,}"  # type: ignore[arg-type]
            )
        return value or (None if optional else "")

    return parse


def restricted(
    name: str, kind: Any, optional: bool = False, largest: int = MAX_INTEGER
) -> Callable[[Any], Any]:
    """Return a conversion to a restricted number, such as `PositiveInt`.

    Args:
        name: Name of the value for messages.
        kind: Type of the parameter.
        optional: Whether an empty field becomes None.
        largest: Maximum absolute value of an integer.
    """
    parse_text = number(kind)

    def parse(value: Any) -> Any:
        if optional and value in (None, ""):
            return None
        whole = isinstance(value, float) and value.is_integer() and issubclass(kind, int)
        try:
            parsed = parse_text(str(int(value) if whole else value))
        except (argparse.ArgumentTypeError, OverflowError) as error:
            raise UserError(f"{name} {error}") from error
        if isinstance(parsed, float) and not math.isfinite(parsed):
            raise UserError(f"{name} must be finite (got {value})")
        if isinstance(parsed, int) and abs(parsed) > largest:
            raise UserError(f"{name} must be at most {largest:,} here (got {parsed:,})")
        return parsed

    return parse


def listed(name: str, kind: Any, optional: bool) -> Callable[[Any], list[Any] | None]:
    """Return a conversion of a list, or of a text with commas, to a list of texts or numbers.

    Args:
        name: Name of the value for messages.
        kind: Type of the elements, such as int for seeds.
        optional: Whether an empty text becomes None.
    """
    parse_text = text_value(name)
    parse_one = parse_text if kind is str else restricted(name, kind, largest=MAX_SEED)

    def parse(value: Any) -> list[Any] | None:
        parts = value if isinstance(value, list) else (parse_text(value) or "").split(",")
        stripped = (part.strip() if isinstance(part, str) else part for part in parts)
        return [parse_one(part) for part in stripped if part != ""] or (None if optional else [])

    return parse
