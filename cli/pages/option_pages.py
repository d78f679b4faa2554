"""Pages of all options of a system or a data module, from the same help as `fit --model.help`."""

import os
import re
from unittest import mock

from cli.class_help import class_help
from cli.classes import FOLDERS, classes_in, import_class

COLUMNS = "10000"  # argparse then puts each help text on one line


def option_page(key: str, path: str) -> str:
    """Return the Markdown of the page of a class.

    Args:
        key: Kind of the class, "model" or "data".
        path: Import path of the class.
    """
    with mock.patch.dict(os.environ, COLUMNS=COLUMNS):
        text = class_help(key, import_class(path, key, f"--{key}.help"))
    heading, *groups = text.split("\n\n")
    first, _, more = heading.partition("\n")
    name, _, what = first.partition(": ")
    command = f"python train.py fit --{key}.help {name.partition(' ')[0]}"
    lines = [f"# {name.partition(' ')[0]}", what, more, f"The same text: `{command}`."]
    for group in groups:
        title, _, options = group.partition(":\n")
        lines.append(f"## {title}")
        lines.append("\n\n".join(map(entry, re.split(r"\n(?=  --)", options))))
    return "\n\n".join(line for line in lines if line) + "\n"


def entry(option: str) -> str:
    """Return an option of a help text as a definition: name, then text, type and default."""
    usage, _, text = re.sub(r"\s*\n\s+", "  ", option.strip()).partition("  ")
    usage = usage.split(",")[0] if "ITEM" in usage else usage
    text, _, kind = text.strip().rpartition("(")
    name, _, values = usage.partition(" ")
    values = f" `{values}`" if values.startswith("{") else ""
    return f"`{name}`{values}\n: {escaped(f'{text}({kind}')}"


def escaped(text: str) -> str:
    """Escape Markdown outside of inline code."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([\\*_\[\]<>$])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def option_pages() -> dict[str, str]:
    """Return the Markdown of the pages `options/<key>/<class>.md`, keyed by path."""
    return {
        f"options/{key}/{name}.md": option_page(key, path)
        for key, folder in FOLDERS.items()
        for name, paths in classes_in(folder).items()
        for path in paths
    }
