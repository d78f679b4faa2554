"""Two processes give equal results however they are started, and end when one is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import ROOT

FIT = [
    "train.py",
    "fit",
    "--config",
    "configs/gan/ring.yaml",
    "--trainer.max_steps",
    "20",
    "--trainer.log_every_n_steps",
    "5",
]
TWO = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.limit_val_batches", "1"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
# The variables that SLURM sets for two tasks.
SRUN = """
export SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2 SLURM_NODEID=0 SLURM_NODELIST=localhost
export SLURM_JOB_ID=7 SLURM_JOB_NAME=gan
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & jobs="$jobs $!"; done
for job in $jobs; do wait $job || exit 1; done
"""
SLURM = [*FIT, "--config", "configs/_trainer/slurm.yaml", *TWO]
LAUNCHERS = {
    "devices": [sys.executable, *FIT, *TWO],
    "torchrun": [*TORCHRUN, *FIT, *TWO],
    "spawn": [sys.executable, *FIT, *TWO, "--trainer.strategy", "ddp_spawn"],
    "slurm": ["bash", "-c", SRUN, "srun", sys.executable, *SLURM],
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Contents of metrics.csv, by launcher."""
    folder = tmp_path_factory.mktemp("launched")
    found = {}
    for name, command in LAUNCHERS.items():
        done = subprocess.run(
            [*command, "--run_dir", str(folder / name)],
            cwd=ROOT,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found[name] = Path(folder / name / "metrics.csv").read_bytes()
    return found


@pytest.mark.parametrize("name", list(LAUNCHERS)[1:])
def test_launchers_train_the_same(tables: dict[str, bytes], name: str) -> None:
    assert len(tables["devices"].splitlines()) > 3
    assert tables[name] == tables["devices"]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other(killed: int, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    many = ["--trainer.max_steps", "1000000", "--run_dir", str(run)]
    with open(log, "wb") as file:
        first = subprocess.Popen(
            [sys.executable, *FIT, *TWO, *many], cwd=ROOT, stdout=file, stderr=file
        )
    while not (run / "throughput.csv").exists():
        time.sleep(0.2)
        assert first.poll() is None, log.read_text(encoding="utf-8")
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text(encoding="utf-8")
    second = int(children.split()[0])
    os.kill([first.pid, second][killed], signal.SIGKILL)
    end = time.monotonic() + 60
    first.wait(60)
    while killed == 0 and Path(f"/proc/{second}").exists():
        assert time.monotonic() < end
        time.sleep(0.2)
    # Lightning's message, or ours of the process that lost its connection: whichever was first.
    messages = ("terminated with code -9", "the connection to another process of this run was lost")
    assert any(message in log.read_text(encoding="utf-8") for message in messages)
