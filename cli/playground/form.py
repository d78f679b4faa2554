"""Forms whose fields are built from the signature of a system's `sample` method."""

import argparse
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gradio as gr

from cli.options import base_type, is_tensor, number, parameter_help, sample_parameters
from common.errors import UserError

MAX_TEXT = 2000  # characters of a text field
MAX_INTEGER = 1000  # of an option, such as a number of steps or tokens
MAX_SEED = 2**31
MAX_SAMPLES = 64  # per request
MAX_OPTION = {"beam": 20}  # smaller limits of some options
STEP = 0.05  # of a slider
WEIGHTS = ("averaged", "trained")


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

    def add_seeds(self, count: int) -> None:
        """Add fields for the seeds of the samples; they become the value `seeds`."""
        with gr.Row():
            first = gr.Number(0, label="First seed", precision=0, minimum=0, maximum=MAX_SEED)
            self.add("seed", first, integer("first seed", 0, MAX_SEED))
            number_ = gr.Slider(1, MAX_SAMPLES, count, step=1, label="Number of samples")
            self.add("count", number_, integer("number of samples", 1, MAX_SAMPLES))

    def add_weights(self, model: Any) -> None:
        """Add the choice between averaged and trained weights, if the system has averages."""
        if model.has_averaged_weights:
            field = gr.Radio(
                WEIGHTS,
                value="averaged",
                label="Weights",
                info="Moving average of the weights, or the weights after the last update.",
            )
            self.add("weights", field, one_of("weights", WEIGHTS))

    def add_options(self, model: Any, without: Sequence[str] = ()) -> None:
        """Add a field for each option of the system's `sample` method.

        Args:
            model: System whose options are added.
            without: Options that have their own fields. Images are always left out.
        """
        described = parameter_help(model.sample)
        if not classes_of(model):
            without = [*without, "label"]
        for name, parameter in sample_parameters(model.sample).items():
            if name not in without and not is_tensor(parameter):
                self.add(name, *field(parameter, first_sentence(described.get(name, ""))))


def classes_of(model: Any) -> int:
    """Return the number of classes of a conditional system, 0 for others."""
    return int(model.hparams.get("num_classes") or 0) if model.hparams.get("conditional") else 0


def seeds_of(values: Mapping[str, Any]) -> list[int]:
    """Return the seeds that the fields of `Form.add_seeds` ask for."""
    return list(range(values["seed"], values["seed"] + values["count"]))


def options_of(model: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are arguments of the system's `sample` method."""
    return {name: values[name] for name in sample_parameters(model.sample) if name in values}


def first_sentence(text: str) -> str:
    """Return the first sentence of a description."""
    return text.partition(". ")[0].removesuffix(".") + "." if text else ""


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
        return gr.Dropdown(choices, value=default or choices[0], **common), parse
    if typing.get_origin(kind) is list:
        shown = ", ".join(map(str, default or []))
        return gr.Textbox(shown, max_length=MAX_TEXT, **common), parse
    if issubclass(kind, str) or default is None:  # a number field cannot be empty
        return gr.Textbox(default or "", max_length=MAX_TEXT, **common), parse
    if issubclass(kind, float):
        return gr.Slider(0, highest(kind, default), default, step=STEP, **common), parse
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
        return bool
    if typing.get_origin(kind) is Literal:
        return one_of(name, typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return listed(name, typing.get_args(kind)[0], optional)
    return text_value(name, optional) if issubclass(kind, str) else restricted(name, kind, optional)


def one_of(name: str, choices: Sequence[str]) -> Callable[[Any], Any]:
    """Return a conversion that accepts only some values."""

    def parse(value: Any) -> Any:
        if value not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)} (got {value!r:.40})")
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


def restricted(name: str, kind: Any, optional: bool = False) -> Callable[[Any], Any]:
    """Return a conversion to a restricted number, such as `PositiveInt`.

    Args:
        name: Name of the value for messages.
        kind: Type of the parameter.
        optional: Whether an empty field becomes None.
    """
    parse_text, largest = number(kind), MAX_OPTION.get(name, MAX_INTEGER)

    def parse(value: Any) -> Any:
        if optional and value in (None, ""):
            return None
        whole = isinstance(value, float) and value.is_integer() and issubclass(kind, int)
        try:
            parsed = parse_text(str(int(value) if whole else value))
        except (argparse.ArgumentTypeError, OverflowError) as error:
            raise UserError(f"{name} {error}") from error
        if isinstance(parsed, int) and abs(parsed) > largest:
            raise UserError(f"{name} must be at most {largest:,} here (got {parsed:,})")
        return parsed

    return parse


def listed(name: str, kind: Any, optional: bool) -> Callable[[Any], list[Any] | None]:
    """Return a conversion of a text with commas to a list of texts or numbers.

    Args:
        name: Name of the value for messages.
        kind: Type of an element.
        optional: Whether an empty text becomes None.
    """
    parse_text = text_value(name)
    parse_one = parse_text if kind is str else restricted(name, kind)

    def parse(value: Any) -> list[Any] | None:
        parts = [part.strip() for part in (parse_text(value) or "").split(",")]
        return [parse_one(part) for part in parts if part] or (None if optional else [])

    return parse
