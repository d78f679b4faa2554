"""Messages about options: unknown options, and errors of jsonargparse and Lightning in one line."""

import inspect
import re
import traceback
from collections.abc import Callable
from pathlib import Path

from pytorch_lightning import Trainer

from cli.classes import init_parameters
from cli.options import similar
from common.errors import UserError
from common.imports import import_object

A_RECIPE = "give --config FILE with a recipe (`python train.py` lists the recipes)"

# Starts of lines in which jsonargparse lists the types that it tried; our messages omit them.
ALTERNATIVES = (
    *("Does not validate", "Subtypes: ", "Errors:", "Problem with given class_path"),
    *("Expected a <class 'NoneType'>", "Expected <class 'NoneType'>", "Given value type: "),
    *("Expected a path but ", "Expected a dot import path string", "Type typing.Callable"),
    *("Given value: NestedArg", "Given value: {", "Given value: Namespace"),
)

# Lines of jsonargparse's messages. The groups `rule`, `choices` and `value` match the expected type
# or range, the allowed values, and the given value.
EXPECTED = (
    r"Not of type \w+: (?P<value>.*?) ?does not conform to restriction v(?P<rule>.*)",
    r"Not of type \w+: invalid literal for (?P<rule>int)\(\) .*?: '(?P<value>.*)'",
    r"Not of type \w+: could not convert string to (?P<rule>float): '(?P<value>.*)'",
    r"Expected (a )?<class '(?P<rule>\w+)'>(\. Got value: (?P<value>.*))?",
    r"Expected a typing\.Literal\[(?P<choices>.*)\](\. Got value: (?P<value>.*))?",
    r"Expected a (?P<rule>float|int)",
    r"Given value: (?P<value>.*)",
)
TYPES = {
    **{"bool": "true or false", "int": "an integer", "float": "a number"},
    "list": "a list without spaces, such as [64,128]",
}

TRAINER_OPTIONS = inspect.signature(Trainer).parameters

# What jsonargparse says of a wrong argument of an optimizer, callback or logger.
NOT_ACCEPTED = re.compile(r"Option '(?P<option>[^']+)' is not accepted")
REQUIRED = re.compile(r"the following arguments are required: (?P<options>.+)")
GROUP = re.compile(r"Parser key \"(?P<key>\w+)\":\nUnable to load config '(?P<value>.*)'")
# Value of an option that has no arguments of its own, such as --model.optimizer.lr for "adam".
NESTED = re.compile(r"NestedArg\(key='(?P<name>[\w.]+)'")
CLASS_PATH = re.compile(r"class_path='([\w.]+)'")


def no_such_option(place: str, known: set[str]) -> str:
    """Return the error message for an unknown option, with similar options.

    Args:
        place: Option as typed, or its place in a configuration file, such as "mine.yaml: model.x".
        known: All options.
    """
    prefix, _, name = place.rpartition(": ")[2].lstrip("-").rpartition(".")
    section = prefix.partition(".")[0]
    names = {option.rpartition(".")[2].lstrip("-"): option for option in sorted(known)}
    of_section = {
        last: option for last, option in names.items() if option.startswith(f"--{section}.")
    }
    hints = learning_rates(known) if name in ("lr", "learning_rate") else []
    for options in (of_section, names):
        hints = hints or [options[one] for one in similar(name, options)]
    if not place.startswith("-"):  # in a file, names have no hyphens
        hints = [hint.lstrip("-") for hint in hints]
    hint = " or ".join(hints)
    advice = f"did you mean {hint}?" if hint else "`python train.py fit --help` lists the options"
    return f"{place}: there is no such option; {advice}"


def learning_rates(known: set[str]) -> list[str]:
    """Return the options that set the learning rate of a system."""
    if "--model.learning_rate" in known:
        return ["--model.learning_rate"]
    return [
        f"{option}.lr" for option in sorted(known) if re.match(r"--model\..*optimizer$", option)
    ]


def parser_message(message: str, known: set[str], typed: Callable[[str], str]) -> str:
    """Shorten a message of jsonargparse to one line with option, expected type and given value.

    Args:
        message: Message of jsonargparse, of several lines.
        known: All options of the subcommand.
        typed: Function that returns an option as the user typed it, from a name such as
            "model.width".
    """
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown != message:
        word = unknown.split()[0]
        if not word.startswith("--"):
            advice = "put quotes around a value with spaces"
            advice = f"did you mean --config {word}?" if word.endswith(".yaml") else advice
            return f"{word} belongs to no option; {advice}"
        return no_such_option(word.partition("=")[0], known)
    if match := re.match(r"argument (?:-c/)?(--\S+): expected one argument", message):
        return f"{match[1]} needs a value; give {match[1]} VALUE"
    if match := re.match(r"argument subcommand: invalid choice: '(.*?)'", message):
        return f"{match[1]}: there is no such subcommand; `python train.py` lists them"
    if not message.startswith("Parser key") and "arguments are required" in message:
        return re.sub(r"\b(fit|validate|test)\.", "--", f"{message}; {A_RECIPE}")
    if match := GROUP.match(message):
        options = sorted(option for option in known if re.match(rf"--{match['key']}\.\w+$", option))
        return f"{typed(match['key'])} {match['value']}: give one of {', '.join(options)}"
    classes = CLASS_PATH.findall(message)
    message = re.sub(r"Type \S*Callable\[.*a callable class: ", "\n", message)
    message = re.sub(r"\. Got value: Namespace\(.*", "", message)
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    keys = (line.split('"')[1] for line in lines if line.startswith('Parser key "'))
    key = ".".join(dict.fromkeys(keys))
    place = typed(key) if key else ""
    for line in lines:
        if key and (match := NOT_ACCEPTED.match(line)):
            return not_accepted(f"{place}.{match['option']}", classes)
        if key and (match := REQUIRED.match(line)):
            first = match["options"].split(",")[0]
            return f"{place} needs {match['options']}; give {typed(key)}.{first} VALUE"
    lines = [
        line for line in lines if line and not line.startswith(('Parser key "', *ALTERNATIVES))
    ]
    matches = [match_line(line) for line in lines]
    expected = merged([text for text, _ in matches if text])
    values = [value for _, value in matches if value]
    if key and values and (match := NESTED.match(values[-1])):
        return no_such_option(f"{place}.{match['name']}", known)
    if key and expected and values and all(map(any, matches)):
        return f"{place} must be {' or '.join(expected)} (got {values[-1]})"
    plain = (re.sub(r"<class '(.*?)'>", r"\1", line.replace("typing.", "")) for line in lines)
    return ": ".join([*([place] if key else []), " ".join(plain)])


def merged(expected: list[str]) -> list[str]:
    """Join alternatives such as "one of 1, 2" and "one of 3, 4" to one."""
    lists = [text.removeprefix("one of ") for text in expected if text.startswith("one of ")]
    others = [text for text in expected if not text.startswith("one of ")]
    choices = dict.fromkeys(text.strip("'") for text in ", ".join(lists).split(", "))
    return [*others, *([f"one of {', '.join(choices)}"] if lists else [])]


def lightning_message(message: str) -> str:
    """Return a message of Lightning's Trainer that names the option `--trainer.<name>`."""
    if re.search(
        r"No supported gpu backend|accelerator is not available|can ?not be found", message
    ):
        return f"--trainer.accelerator: this machine has no such device; leave it out ({message})"
    options = [name for name in re.findall(r"\w+", message) if name in TRAINER_OPTIONS]
    named = f"--trainer.{options[0]}" if options else ""
    for part, option in (("numpy accepts", "--seed_everything"), ("Timer(", "--trainer.max_time")):
        named = option if part in message else named
    return f"{named} cannot be used: {message}" if named and named not in message else message


def raised_by_lightning(error: Exception) -> bool:
    """Return whether Lightning raised an error, because of an option of the Trainer."""
    frames = traceback.extract_tb(error.__traceback__)
    last = Path(frames[-1].filename).as_posix()
    return re.search("/site-packages/(pytorch_lightning|lightning_fabric)/", last) is not None


def not_accepted(place: str, classes: list[str]) -> str:
    """Return the error message for an argument that a class does not have.

    Args:
        place: Option as typed, such as `--model.optimizer.lrr`.
        classes: Class paths in jsonargparse's message; the last one is the class.
    """
    prefix, _, _ = place.rpartition(".")
    try:
        parameters = init_parameters(import_object(classes[-1])) if classes else {}
    except (ModuleNotFoundError, AttributeError, UserError):
        parameters = {}
    return no_such_option(place, {f"{prefix}.{name}" for name in parameters})


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
