"""Format the help of one class, for `fit --model.help NAME` and `fit --data.help NAME`.

Options are grouped by headings. A heading is an entry without text in the `Args:` of the class.
"""

import inspect
import re

from jsonargparse import ArgumentParser

from cli.classes import FOLDERS, import_class


def docstring_entries(docstring: str) -> dict[str, str]:
    """Return the texts of `Args:` and `Attributes:`, keyed by entry name; "" for a heading."""
    entries: dict[str, str] = {}
    for section in re.split(r"^(?:Args|Attributes):\n", docstring, flags=re.MULTILINE)[1:]:
        body = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
        for entry in re.split(r"^ {4}(?=\S)", body, flags=re.MULTILINE)[1:]:
            name, _, text = entry.partition(":")
            entries[name] = " ".join(text.split())
    return entries


def headings(cls: type) -> dict[str, str]:
    """Return the headings of a class's and its base classes' arguments, keyed by argument name."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        heading = "Options"
        for name, text in docstring_entries(
            inspect.cleandoc(vars(base).get("__doc__") or "")
        ).items():
            if text:
                found.setdefault(name, heading)
            else:
                heading = name
    return found


def class_help(key: str, cls: type) -> str:
    """Return the help of a class, with its options grouped by heading.

    Args:
        key: Prefix of the options, "model" or "data".
        cls: Class of the system or of the data module.
    """
    parser = ArgumentParser(prog="train.py", add_help=False)
    parser.add_class_arguments(cls, key, fail_untyped=False)
    heading_of = headings(cls)
    groups: dict[str, list[str]] = {}
    for option in re.split(r"^(?=  --)", parser.format_help(), flags=re.MULTILINE)[1:]:
        name = re.split(r"\W", option.strip().removeprefix(f"--{key}."), maxsplit=1)[0]
        if not name:  # `--model CONFIG`
            continue
        groups.setdefault(heading_of.get(name, "Options"), []).append(option.rstrip("\n"))
    first_line = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
    title = f"{cls.__name__} ({cls.__module__}): {first_line}"
    if any("Eq." in option for options in groups.values() for option in options):
        title += f"\nEquation numbers are those of the docstring of {cls.__module__}."
    return "\n\n".join(
        [title, *(f"{heading}:\n" + "\n".join(options) for heading, options in groups.items())]
    )


def requested_help(words: list[str]) -> str | None:
    """Return the help of the class in `--model.help` or `--data.help`; None without such an option.

    Args:
        words: Words of the command line, with full class paths.
    """
    for key in FOLDERS:
        option = f"--{key}.help"
        if option in words[:-1] and "." in (path := words[words.index(option) + 1]):
            return class_help(key, import_class(path, key, option))
    return None
