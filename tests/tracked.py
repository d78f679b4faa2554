"""Recipes that git tracks: tests of documents skip those that their author keeps private."""

import subprocess
from functools import cache
from pathlib import Path

import pytest

from cli.recipes import recipes
from common.files import ROOT


@cache
def tracked_paths() -> frozenset[str]:
    """Paths of the recipes that git tracks, from the root; all recipes outside of a repository."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "configs"],
            cwd=ROOT,
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):  # git is missing, or this is an archive
        listed = ""
    # An archive that is unpacked inside of another repository has no tracked files.
    return frozenset(listed.split("\0")[:-1] or map(relative, recipes()))


def relative(path: Path) -> str:
    """Path from the root, as on a command line."""
    return path.relative_to(ROOT).as_posix()


def tracked_recipes() -> list[Path]:
    """Recipes that git tracks: those that the documents must mention."""
    return [path for path in recipes() if relative(path) in tracked_paths()]


def skip_untracked(place: str) -> None:
    """Skip a test of documents if git tracks no recipe at this path or in this folder."""
    if not any(path == place or path.startswith(f"{place}/") for path in tracked_paths()):
        pytest.skip(f"git does not track {place}; `git add` it to check its documents")
