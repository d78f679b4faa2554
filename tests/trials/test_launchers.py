"""Two processes give equal results, whether Lightning, torchrun or spawn starts them."""

import subprocess
import sys
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
