"""Files around the code: they parse, and name targets, versions and licences that are true."""

import json
import re
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from common.files import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = {
    Requirement(line).name.lower(): Requirement(line)
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
}
PARSERS: dict[str, Callable[[str], Any]] = {
    ".cff": yaml.safe_load,
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
}
PATTERNS = ("*.*", ".*.*", ".github/**/*", ".devcontainer/*")
PARSED = sorted(
    {path for pattern in PATTERNS for path in ROOT.glob(pattern) if path.suffix in PARSERS}
)
FORMS = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))
# Names of image files that show emoji, or images derived from them.
EMOJI = re.compile(r"(!\[[^\]]*\]\(|<img [^>]*src=\")[^)\"]*(moji|dalle|vae)[^)\"/]*\.\w+[)\"]")


def read(name: str) -> Any:
    """Content of a file in the repository, parsed by its suffix."""
    path = ROOT / name
    return PARSERS[path.suffix](path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PARSED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_parse(path: Path) -> None:
    assert read(path.relative_to(ROOT).as_posix())


def test_targets_of_make_exist() -> None:
    """Also those of a list, as in `CMD ["make", "train"]`. A changelog may name former targets."""
    pages = [*ROOT.glob("*.md"), ROOT / "Dockerfile", *ROOT.glob(".github/**/*.md"), *PARSED]
    pages.remove(ROOT / "CHANGELOG.md")
    named = {
        (path.name, target)
        for path in pages
        for target in re.findall(
            r"(?:`|run: |RUN |\"|^)make[\", ]+([a-z][\w-]*)",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    defined = set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.MULTILINE))
    assert sorted((page, target) for page, target in named if target not in defined) == []
    for page in ("CONTRIBUTING.md", "Dockerfile", "ci.yml", "devcontainer.json"):
        assert page in {name for name, _ in named}


def test_ci_runs_the_checks_of_contributing() -> None:
    steps = read(".github/workflows/ci.yml")["jobs"]["check"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == ["make setup", "make lint", "make test", "make docs"]


def test_hooks_are_the_pinned_tools() -> None:
    """The hooks run what `make lint` runs, from .venv, so that there is one version of each."""
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        tool, *words = hook["entry"].removeprefix(".venv/bin/").split()
        command = " ".join([tool, *words[:1]])
        assert f"$(BIN)/{command}" in MAKEFILE
        assert version(tool) in PINNED[tool].specifier


def test_requirements_have_the_versions_that_the_code_needs() -> None:
    """requirements.txt pins every dependency, within the bounds of pyproject.toml."""
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *extras["dev"]]:
        needed = Requirement(line)
        (pin,) = PINNED[needed.name.lower()].specifier
        assert pin.operator == "=="
        assert pin.version in needed.specifier, line


def test_citation_follows_its_format() -> None:
    """Required keys of the Citation File Format 1.2.0; version and licence of pyproject.toml."""
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == PROJECT["authors"]
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_what_the_site_requires(path: Path) -> None:
    form = read(path.relative_to(ROOT).as_posix())
    assert form["name"]
    assert form["description"]
    inputs = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in inputs]
    assert len(names) == len(set(names)) > 0
    assert all(field["attributes"]["label"] for field in inputs)


def test_container_builds_on_a_stage_that_exists() -> None:
    stages = re.findall(
        r"^FROM .* AS (\w+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    build = read(".devcontainer/devcontainer.json")["build"]
    assert build["target"] in stages
    assert (ROOT / ".devcontainer" / build["dockerfile"]).resolve() == ROOT / "Dockerfile"


def test_pages_with_emoji_name_their_licence() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    shown = {page: text for page, text in texts.items() if EMOJI.search(text)}
    assert shown
    for page, text in shown.items():
        assert "OpenMoji" in text, page
        assert "CC BY-SA 4.0" in text, page
