"""Commands of README.md and docs/, and the check of one of them by the parser of its program."""

import contextlib
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

import reproduce
import sample
import shard
import sweep
import train
from cli.classes import import_class
from cli.evaluation import options as evaluation
from cli.exporting import program as exporting
from cli.playground import options as playing
from cli.recipes import recipes
from cli.reproduction import registry
from cli.sampling import command
from common.files import ROOT

PAGES = [
    *(ROOT / "README.md", ROOT / "README.ko.md", ROOT / "CONTRIBUTING.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Commands that no parser of this project checks, and why they are not executed either.
NOT_CHECKED = {
    r"wandb ": "needs a login or runs of W&B",
    r"tensorboard ": "a server of another package",
    r"pip install|docker |git |pre-commit |hf ": "another program; downloads",
    r"python -m pytest|python train.py runs$": "needs the reader's files",
    r".*(\b[Mm]ine\b)": "a system that the reader writes",
    r".*(…|\b(CHECKPOINT|FILE|ID|DIR|PATH|CONFIG|NAME)\b)": "has a placeholder",
}


RUN_CELL = re.compile(r"^%run (.*)$", re.MULTILINE)


def commands_in(text: str) -> list[str]:
    """Commands of a page, without comments: `sh` blocks, inline code, `%run` of a notebook."""
    found = [f"python {one}" for one in RUN_CELL.findall(text.replace("\\\n", " "))]
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(python|make|srun|torchrun|wandb|tensorboard|pip|git|docker)\b", line):
                found += re.sub(r"\s#\s?.*", "", line).split(" | ")
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found += re.findall(r"`((?:python [a-z]+\.py|make)\b[^`]*)`", outside)
    return [" ".join(one.split()) for one in found]


COMMANDS = sorted({one for page in PAGES for one in commands_in(page.read_text(encoding="utf-8"))})


@cache
def runs() -> dict[str, str]:
    """Recipe or class of each run directory that the pages name, from the `fit` commands."""
    found = {"runs/dalle/dalle/seed0": "configs/dalle/openmoji.yaml"}  # of `make dalle`
    found |= {f"runs/reproduce/{name}/seed0": one["config"] for name, one in registry().items()}
    for one in COMMANDS:
        if run := re.search(r"--config (\S+).* --run_dir (\S+)", one):
            found[run[2]] = run[1]
    return found


def stub(run: str) -> Any:
    """Model of a run that has the class, but no networks: enough for the parser of sample.py."""
    path = yaml.safe_load((ROOT / runs()[run]).read_text(encoding="utf-8"))["model"]["class_path"]
    cls: Any = import_class(path, "model", "--model")
    model = cls.__new__(cls)
    nn.Module.__init__(model)
    model.ema = None
    model.averaged_weights = lambda *_: contextlib.nullcontext()
    return model


def check_train(words: list[str]) -> None:
    """Parse a command of train.py, and print its configuration instead of running it.

    Commands that only name a recipe are not parsed: the contract tests parse every recipe.
    """
    if re.fullmatch(r"fit --config (\S+)( --run_dir \S+)?", " ".join(words)):
        assert ROOT / words[2] in recipes(), words[2]
        return
    if not words or "--model.help" in words or "--data.help" in words:
        assert train.main(words) == 0
        return
    text = re.sub(r" --(init_from|data\.tokenizer_file) \S+| --dry_run", "", shlex.join(words))
    if "--ckpt_path" in words:  # the configuration is that of the run
        run = words[words.index("--run_dir") + 1]
        text = re.sub(r" --ckpt_path \S+", f" --config {runs()[run]}", text)
    assert train.main([*shlex.split(text), "--print_config"]) == 0, text


def check_sample(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command of sample.py for the system of the run that it names."""
    run = re.sub(r"/(checkpoints/(last|best)\.ckpt|exports/last)$", "", words[0])
    seen = []

    def record(model: Any, options: Any) -> None:
        seen.append(options)

    with monkeypatch.context() as patched:
        patched.setattr(command, "load", lambda path: stub(run))
        patched.setattr(command, "output_folder", lambda *_: Path("out"))
        patched.setattr(command, "move_to", lambda *_: None)
        for program in command.BY_MODALITY.values():
            patched.setattr(program, "run", record)
        assert sample.main(words) == 0
    assert len(seen) == 1 or words[-1] == "--help"


def check_make(words: list[str]) -> None:
    """Check that a target exists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), words


def check(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check one command."""
    line = re.sub(r"^(srun python|torchrun( --\w+ \S+)+) ", "python ", line)
    line = line.replace("$RUN", "runs/celeba").replace(
        "$RESUME", ""
    )  # variables of the SLURM script
    program, *words = shlex.split(line.partition(" < ")[0])
    if program == "make":
        return check_make(words)
    assert program == "python", line
    name, *words = words
    if name == "train.py":
        check_train(words)
    elif name == "sample.py":
        check_sample(words, monkeypatch)
    elif name == "evaluate.py":
        monkeypatch.setattr(evaluation, "check", lambda options: options)  # the files are missing
        evaluation.parse(words)
    elif name == "reproduce.py":
        options = reproduce.parse(words)
        assert options.command != "run" or options.id in registry()
    elif name == "playground.py":
        playing.parse(words)
    elif name == "export.py":
        exporting.parse(words)
    elif name == "shard.py":
        shard.parse(words)
    elif name == "sweep.py":
        if words != ["--help"]:
            sweep.parse(words)
    else:
        assert (ROOT / name).is_file(), line


def reason(line: str) -> str | None:
    """Return why a command is not checked; None if it is."""
    return next((why for what, why in NOT_CHECKED.items() if re.match(what, line)), None)
