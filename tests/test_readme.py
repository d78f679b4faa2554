"""The two READMEs: length, table of systems, links, and equal commands in both languages."""

import re
import subprocess
import sys

import pytest

import readme
from common.files import ROOT
from tests.commands import commands_in

pytestmark = pytest.mark.usefixtures("tracked_systems")

TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in readme.HEADINGS}


@pytest.mark.parametrize("name", TEXTS)
def test_table_of_systems_is_current(name: str) -> None:
    current = readme.with_table(TEXTS[name], *readme.HEADINGS[name])
    assert current == TEXTS[name], "run `make readme`"


@pytest.mark.parametrize("name", TEXTS)
def test_at_most_150_lines(name: str) -> None:
    assert len(TEXTS[name].splitlines()) <= 150


@pytest.mark.parametrize("name", TEXTS)
def test_links_and_images_exist(name: str) -> None:
    named = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", TEXTS[name])
    assert len(named) > 30
    assert [path for pair in named for path in pair if path and not (ROOT / path).exists()] == []


def test_languages_have_the_same_commands_links_and_sections() -> None:
    english, korean = TEXTS["README.md"], TEXTS["README.ko.md"]
    assert commands_in(english) == commands_in(korean)
    for pattern in (r"\]\((docs/[^)]+)\)", r"src=\"([^\"]+)\"", r"^(##) "):
        assert sorted(re.findall(pattern, english, re.MULTILINE)) == sorted(
            re.findall(pattern, korean, re.MULTILINE)
        )


@pytest.mark.parametrize(
    "words",
    [
        *("train.py fit --config configs/vae/openmoji.yaml", "train.py runs", "sample.py x.ckpt"),
        *(
            "evaluate.py x.ckpt",
            "reproduce.py list",
            "sweep.py",
            "playground.py",
            "readme.py",
            "pages.py site",
        ),
    ],
)
def test_outside_of_the_environment_one_line_says_what_to_do(words: str) -> None:
    command = [sys.executable, "-S", *words.split()]  # -S: without installed packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode != 0
    assert re.fullmatch(r"error: the package .* is not installed.*\n", done.stderr)
    assert ".venv/bin/activate" in done.stderr


def test_activation_is_said_once() -> None:
    for text in TEXTS.values():
        assert text.count(".venv/bin/activate") == 1
