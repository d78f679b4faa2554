"""Killed and resumed runs are bitwise equal to an uninterrupted run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from cli.classes import import_class
from cli.recipes import recipes
from lightning_modules.core.adversarial import AdversarialModule
from tests.runs import ROOT, run_differences, tiny_config

EPOCHS = [
    "--trainer.max_epochs",
    "8",
    "--checkpoint.every_n_train_steps",
    "13",
    "--previews.every_n_train_steps",
    "50",
]
SYSTEMS = sorted({path.parent.name for path in recipes()})
CASES = [(system, workers) for system in SYSTEMS for workers in (0, 2)]


def start(arguments: list[str], program: list[str] = ["train.py"]) -> subprocess.Popen[str]:  # noqa: B006
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=environment,
        encoding="utf-8",
        stderr=subprocess.PIPE,
    )


def arguments(config: Path, run: Path) -> list[str]:
    resume = ["--ckpt_path", "last"] if (run / "checkpoints/last.ckpt").exists() else []
    return ["fit", "--config", str(config), "--run_dir", str(run), *EPOCHS, *resume]


def finish(config: Path, run: Path) -> None:
    process = start(arguments(config, run))
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def system_of(config: Path) -> type:
    """Class of the system of a configuration."""
    path = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["class_path"]
    return import_class(path, "model", str(config))


def check_all_load(run: Path) -> None:
    for path in run.glob("checkpoints/*.ckpt"):
        torch.load(path, weights_only=True)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}workers")
def untouched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, float]:
    """Configuration, run directory and training time in seconds of an uninterrupted run."""
    system, workers = request.param
    folder = tmp_path_factory.mktemp(f"{system}{workers}")
    config = tiny_config(folder / "config.yaml", system, num_workers=workers)
    finish(config, folder / "untouched")
    rows = (folder / "untouched/throughput.csv").read_text(encoding="utf-8").splitlines()
    column = rows[0].split(",").index("seconds")
    return config, folder / "untouched", sum(float(row.split(",")[column]) for row in rows[1:])


def test_random_kills(untouched: tuple[Path, Path, float]) -> None:
    """Kill a run five times with SIGKILL, at random times of the training."""
    config, reference, seconds = untouched
    run = reference.parent / "killed"
    chance = random.Random(0)
    kills = 0
    while kills < 5:
        process = start(arguments(config, run))
        while not (run / "run.yaml").exists() or (
            "last.ckpt" not in (run / "run.yaml").read_text(encoding="utf-8") and not process.poll()
        ):
            time.sleep(0.2)
            if process.poll() is not None or (run / "metrics.csv").exists():
                break
        time.sleep(chance.uniform(4, 9) + chance.uniform(0, seconds / 3))  # includes the imports
        if process.poll() is not None:  # finished before the kill: start again
            assert process.returncode == 0, process.stderr.read() if process.stderr else ""
            for path in sorted(run.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        check_all_load(run)
    finish(config, run)
    assert run_differences(reference, run) == []


@pytest.mark.parametrize(("place", "count"), [("checkpoint", 9), ("validation", 12), ("turn", 60)])
def test_kill_at(untouched: tuple[Path, Path, float], place: str, count: int) -> None:
    """Kill a run while it writes a checkpoint, in a validation, or between D's and G's updates."""
    config, reference, _ = untouched
    if place == "turn" and not issubclass(system_of(config), AdversarialModule):
        pytest.skip("only adversarial systems have a second network to update")
    run = reference.parent / place
    process = start(arguments(config, run), ["tests/trials/victim.py", place, str(count)])
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    check_all_load(run)
    finish(config, run)
    assert run_differences(reference, run) == []
    assert not list(run.glob("checkpoints/*tmp*"))


def test_sigterm(untouched: tuple[Path, Path, float]) -> None:
    """SIGTERM saves a checkpoint after the current step and exits with 143."""
    config, reference, seconds = untouched
    run = reference.parent / "terminated"
    process = start(arguments(config, run))
    while not (run / "throughput.csv").exists():
        time.sleep(0.05)
    time.sleep(seconds / 4)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] > 0
    finish(config, run)
    assert run_differences(reference, run) == []
