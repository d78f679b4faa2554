"""Order of the options of `train.py`, which does not change their meaning.

jsonargparse reads options from left to right. A configuration file would therefore override the
options before it, and an argument of a class would be unknown before the class is named.
"""

import itertools
import re

OPTION = re.compile(r"--.|-[a-z]$")  # but not a negative number
CONFIG = ("-c", "--config")


def in_order(words: list[str]) -> list[str]:
    """Sort the options: configuration files first, then classes before their arguments.

    The order of configuration files, and of options of one name, does not change: the later one
    overrides the earlier one. Options of a list to which classes are appended, such as
    `--trainer.callbacks+=NAME`, keep their order too.

    Args:
        words: Words of the command line after the subcommand.
    """
    groups: list[list[str]] = []
    for word in words:
        if OPTION.match(word) or not groups:
            groups.append([])
        groups[-1].append(word)
    names = [group[0].partition("=")[0] for group in groups]
    appended = tuple(name.rstrip("+") for name in names if name.endswith("+"))

    def depth(group: list[str]) -> int:
        name = group[0].partition("=")[0]
        if name in CONFIG:
            return -1
        if appended and name.startswith(appended):
            return 1
        return name.replace(".init_args.", ".").removesuffix(".class_path").count(".")

    groups.sort(key=depth)
    return list(itertools.chain.from_iterable(groups))


def values_of(words: list[str]) -> list[tuple[str, str]]:
    """Return name and value of every option with a value, such as ("--trainer.max_steps", "3")."""
    found = []
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if OPTION.match(word) and equals:
            found.append((name, value))
        elif OPTION.match(word) and i + 1 < len(words) and not OPTION.match(words[i + 1]):
            found.append((word, words[i + 1]))
    return found
