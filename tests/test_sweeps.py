"""Sweeps: the files of `configs/_sweep/`, and the local mode."""

import contextlib
import csv
import io
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import sweep as program
import train
from cli import sweeps
from cli.sweep_plot import plot
from cli.sweeps import Sweep, columns_of, folder_of, points, run_name, run_sweep, words_of
from common.errors import UserError
from common.files import ROOT

RING = {
    "config": ["configs/gan/ring.yaml"],
    "trainer.max_steps": [4],
    "trainer.val_check_interval": [2],
    "trainer.limit_val_batches": [1],
    "data.eval_batch_size": [50],
    "previews.count": [4],
}


def test_a_point_is_the_options_of_train_py() -> None:
    sweep = sweeps.sweeps()["ring"]
    *_, last = points(sweep, sweep.values)
    assert words_of(last) == [
        "--model.generator_optimizer.lr=0.01",
        "--model.discriminator_optimizer.lr=0.01",
        "--model.generator_optimizer.betas=[0.9,0.999]",
        "--model.discriminator_optimizer.betas=[0.9,0.999]",
        "--config=configs/gan/ring.yaml",
        "--trainer.max_steps=1500",
        "--seed_everything=0",
    ]
    assert run_name(columns_of(sweep, sweep.values), last) == "lr=0.01,beta1=0.9"
    shorter = {**sweep.values, "trainer.max_steps": [500], "seed_everything": [0, 1]}
    assert columns_of(sweep, shorter) == ["lr", "beta1", "seed_everything"]
    assert folder_of(sweep, shorter) == sweeps.RUNS / "ring/trainer.max_steps=500"
    assert folder_of(sweep, sweep.values) == sweeps.RUNS / "ring"


def test_values_keep_all_their_digits() -> None:
    found = points(
        Sweep("a", "", "loss", False, {"lr": [0.12345671, 1e-5, 3]}), {"lr": [0.12345671]}
    )
    assert [one["lr"] for one in found] == ["0.12345671"]


@pytest.mark.parametrize("name", sorted(sweeps.sweeps()))
def test_every_sweep_can_be_started(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Train.py knows all options, and the command of a W&B agent selects one point."""
    sweep = sweeps.sweeps()[name]
    *_, last = points(sweep, sweep.values)
    assert train.main(["fit", *words_of(last), "--print_config"]) == 0, capsys.readouterr().err
    config = yaml.safe_load(capsys.readouterr().out)
    assert str(config["seed_everything"]) == last["seed_everything"]
    content = yaml.safe_load((ROOT / f"configs/_sweep/{name}.yaml").read_text(encoding="utf-8"))
    assert (content["program"], content["project"]) == ("sweep.py", name)
    assert content["command"][:3] == ["${env}", "python", "${program}"]
    words = content["command"][3:]
    assert (words[0], words[-1]) == (name, "${args}")
    options = vars(program.parse([*words[:-1], *(f"--{key}={text}" for key, text in last.items())]))
    assert list(points(sweep, options)) == [last]
    assert options["wandb.project"] == name


def started_here(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """Run train.py in this process, which saves the time of its start."""
    with (
        contextlib.redirect_stderr(io.StringIO()) as error,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        code = train.main(command[2:])
    return subprocess.CompletedProcess(command, code, "", error.getvalue())


def test_a_sweep_needs_no_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints and saves a table and a plot; a second start trains nothing again."""
    monkeypatch.setattr(sweeps, "RUNS", tmp_path)
    monkeypatch.setattr(sweeps.subprocess, "run", started_here)
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    sweep = Sweep("ring", "", "health/modes", True, {"lr": [1e-3, 1e38], **RING})
    table = run_sweep(sweep, sweep.values)
    header, good, bad = capsys.readouterr().out.splitlines()
    assert header.split() == ["lr", "health/modes", "minutes"]
    assert good.split()[0] == "0.001"
    assert bad.split()[:2] == ["1e+38", "non-finite"]
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["run"] for row in rows] == ["lr=0.001", "lr=1e+38"]
    assert 0 <= float(rows[0]["health/modes"]) <= 8
    assert plot(sweep, table) == table.with_name("sweep.png")

    monkeypatch.setattr(sweeps.subprocess, "run", None)
    run_sweep(sweep, {**sweep.values, "lr": [1e-3]})
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "0.001"
    assert len(table.read_text(encoding="utf-8").splitlines()) == 3, "the other run is kept"
    with pytest.raises(UserError, match=r"has no value of val/loss; let it validate"):
        run_sweep(sweep._replace(metric="val/loss"), {**sweep.values, "lr": [1e-3]})


def test_a_failed_run_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "RUNS", tmp_path)
    failed = subprocess.CompletedProcess([], 2, "", "warning: x\nerror: model.loss must be one of")
    commands = []
    monkeypatch.setattr(
        sweeps.subprocess, "run", lambda words, **_: commands.append(words) or failed
    )
    sweep = sweeps.sweeps()["vae"]
    with pytest.raises(UserError, match=r"failed: model.loss must be one of; start it alone with"):
        run_sweep(sweep, {**sweep.values, "wandb.project": "mine"})
    assert commands[0][-4:] == ["--wandb.project", "mine", "--wandb.group", "sweep/vae"]


def test_options_that_log_are_passed_to_each_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The group of runs that can be compared has the name of their folder."""
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    sweep = sweeps.sweeps()["ring"]
    argv = ["ring", "--wandb.project", "mine", "--wandb.tags", "[a,b]", "--tensorboard"]
    words = sweeps.logging_words(sweep, vars(program.parse(argv)))
    assert words[:4] == ["--wandb.project", "mine", "--wandb.group", "sweep/ring"]
    assert words[4:] == ["--wandb.tags", "[a,b]", "--tensorboard"]
    argv = ["ring", "--wandb.project", "mine", "--trainer.max_steps", "500"]
    words = sweeps.logging_words(sweep, vars(program.parse(argv)))
    assert words[3] == "sweep/ring/trainer.max_steps=500"
    named = sweeps.logging_words(sweep, vars(program.parse([*argv, "--wandb.group", "b"])))
    assert named[3] == "b"
    assert sweeps.logging_words(sweep, vars(program.parse(["ring"]))) == []
    assert program.main(["ring", "--wandb.group", "b"]) == 2
    assert "--wandb.group needs W&B; add --wandb.project" in capsys.readouterr().err
    assert program.main(["ring", "--wandb.projekt", "mine"]) == 2
    assert "did you mean --wandb.project?" in capsys.readouterr().err
