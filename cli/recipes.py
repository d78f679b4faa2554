"""The recipes in `configs/`: which there are, what they are for, and their content."""

import itertools
import re
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import ROOT


def recipes() -> list[Path]:
    """Every `configs/<system>/<dataset>.yaml` that has a `model:` key, sorted."""
    found = ROOT.glob("configs/[!_]*/*.yaml")
    return sorted(path for path in found if re.search(r"^model:", path.read_text(), re.MULTILINE))


def purpose(path: Path) -> str:
    """The comment that begins a recipe, up to its first empty line: what it is for."""
    lines = itertools.takewhile(
        lambda line: line.startswith("# "), path.read_text(encoding="utf-8").splitlines()
    )
    return " ".join(line.removeprefix("# ").strip() for line in lines)


def recipe_list() -> str:
    """The recipes with their purposes, as `python train.py` prints them."""
    paths = [path.relative_to(ROOT).as_posix() for path in recipes()]
    width = max(map(len, paths), default=0)
    return "\n".join(f"  {path:{width}}  {purpose(ROOT / path)}" for path in paths)


def read_config(path: Path) -> dict[str, Any]:
    """The content of a configuration file.

    Raises:
        UserError: if it is missing, or holds anything but YAML with `name: value` pairs.
    """
    import yaml

    if not path.is_file():
        raise UserError(
            f"{path}: there is no such configuration; `python train.py` lists the recipes"
        )
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not YAML, correct it ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a configuration; it needs the keys model: and data:")
    return content
