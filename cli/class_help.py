"""Help of one class: `fit --model.help NAME` and `fit --data.help NAME`.

Options are grouped by the headings of the class docstring: entries of `Args:` without a text.
"""

import inspect
import re

from jsonargparse import ArgumentParser

from cli.classes import FOLDERS, import_class


def docstring_entries(docstring: str) -> dict[str, str]:
    """Text of each entry under `Args:` and `Attributes:`, by name; headings have none."""
    entries: dict[str, str] = {}
    for section in re.split(r"^(?:Args|Attributes):\n", docstring, flags=re.MULTILINE)[1:]:
        body = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
        for entry in re.split(r"^ {4}(?=\S)", body, flags=re.MULTILINE)[1:]:
            name, _, text = entry.partition(":")
            entries[name] = " ".join(text.split())
    return entries


def headings(cls: type) -> dict[str, str]:
    """Heading of each argument of a class and its base classes."""
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
    """Options of a class, by heading.

    Args:
        key: Prefix of the options, "model" or "data".
        cls: System or data module.
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
    return "\n\n".join(
        [title, *(f"{heading}:\n" + "\n".join(options) for heading, options in groups.items())]
    )


def requested_help(words: list[str]) -> str | None:
    """Help of the class named by `--model.help` or `--data.help`; None without these options.

    Args:
        words: Command line with full class paths.
    """
    for key in FOLDERS:
        option = f"--{key}.help"
        if option in words[:-1] and "." in (path := words[words.index(option) + 1]):
            return class_help(key, import_class(path))
    return None
