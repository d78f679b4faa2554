"""Docstrings become `--help`: each entry has to make sense alone."""

import ast
import re

import pytest

from cli.class_help import class_help, docstring_entries
from lightning_modules.gan import GAN
from tests.test_architecture import MODULES

FRAGMENT = re.compile(
    r"(of|as|the same|see|its|what|how|who|where|at|for|with|from|that)\b", re.IGNORECASE
)
PRONOUN = re.compile(r"\b(it|its|them|that|this|those|these|they|one|ones)[.;]?$")


def faults(name: str, text: str) -> list[str]:
    """What keeps an entry from making sense alone."""
    found = []
    if FRAGMENT.match(text) and not name.startswith("**"):
        found.append("begins with a fragment")
    if PRONOUN.search(text):
        found.append("ends in a pronoun")
    if len(text.split()) < 2:
        found.append("has fewer than two words")
    if not text[:1].isupper() and not text.startswith(("`", "(", "uint8", "int64", "x_")):
        found.append("does not begin with a capital letter")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_entries_make_sense_alone(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [
        f"{getattr(node, 'name', 'module')}.{name} {fault}: {text[:60]}"
        for node in ast.walk(tree)
        if isinstance(node, documented)
        for name, text in docstring_entries(ast.get_docstring(node) or "").items()
        if text  # else a heading
        for fault in faults(name, text)
    ]
    assert found == []


def test_faults_are_found() -> None:
    """Entries of each forbidden kind, and one that is right."""
    assert faults("width", "of the network.") == [
        "begins with a fragment",
        "does not begin with a capital letter",
    ]
    assert faults("heads", "Number of heads, which divide it.") == ["ends in a pronoun"]
    assert faults("size", "Size.") == ["has fewer than two words"]
    assert faults("width", "Width of the hidden layers, a multiple of `heads`.") == []


def test_help_is_grouped_by_the_headings_of_the_docstring() -> None:
    """Options of the base class are included, each under one heading."""
    text = class_help("model", GAN)
    groups = dict(re.findall(r"^(\w+):\n((?:  .*\n?)+)", text, re.MULTILINE))
    assert list(groups) == ["Data", "Network", "Objective", "Optimizer", "Updates"]
    assert "--model.hidden" in groups["Network"]
    assert "--model.label_smoothing" in groups["Objective"]
    assert "--model.n_critic" in groups["Updates"]
    assert text.count("\n  --model.loss ") == 1
