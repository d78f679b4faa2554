"""The GPU checks also run on a CPU, with tiny networks."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.device_checks import PARTS
from tests.runs import ROOT


def test_checks_pass_on_the_cpu(tmp_path: Path) -> None:
    program = [sys.executable, "benchmarks/gpu_check.py", "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*program, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout
    results = json.loads((tmp_path / "gpu-check.json").read_text(encoding="utf-8"))
    assert len(results["training"]) >= 25
    assert all(results.get(part) for part in PARTS)
    assert "# GPU check: CPU" in (tmp_path / "gpu-check.md").read_text(encoding="utf-8")
