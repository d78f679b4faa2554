"""The recipes in `configs/`: their paths, purposes and contents."""

import itertools
import re
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import ROOT


def recipes() -> list[Path]:
    """Return the sorted paths of all files `configs/<system>/<dataset>.yaml` with a key `model`."""
    found = ROOT.glob("configs/[!_]*/*.yaml")
    return sorted(
        path
        for path in found
        if re.search(r"^model:", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


def purpose(path: Path) -> str:
    """Return the purpose of a recipe: the comment lines at the start of its file."""
    lines = itertools.takewhile(
        lambda line: line.startswith("# "), path.read_text(encoding="utf-8").splitlines()
    )
    return " ".join(line.removeprefix("# ").strip() for line in lines)


def recipe_list() -> str:
    """Return the list of all recipes and their purposes that `python train.py` prints."""
    paths = [path.relative_to(ROOT).as_posix() for path in recipes()]
    width = max(map(len, paths), default=0)
    return "\n".join(f"  {path:{width}}  {purpose(ROOT / path)}" for path in paths)


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        UserError: If the file is missing, or is not a YAML mapping.
    """
    import yaml

    if not path.is_file():
        raise UserError(
            f"{path}: there is no such configuration; `python train.py` lists the recipes"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML; correct it ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a configuration; it needs the keys model: and data:")
    return content
