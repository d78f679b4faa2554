"""The two ring recipes collapse or cover all modes, as their headers state, for every seed."""

from pathlib import Path

import pytest

from tests.trials.test_exact_resume import start


def modes(config: str, seed: int, folder: Path) -> list[float]:
    """Number of modes that the averaged generator covers at the last five validations."""
    process = start(
        [
            "fit",
            "--config",
            f"configs/gan/{config}.yaml",
            "--seed_everything",
            str(seed),
            "--run_dir",
            str(folder),
        ]
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    rows = [
        row.split(",") for row in (folder / "health.csv").read_text(encoding="utf-8").splitlines()
    ]
    column = rows[0].index("modes")
    return [float(row[column]) for row in rows[-5:]]


@pytest.mark.parametrize("seed", range(5))
def test_collapse(seed: int, tmp_path: Path) -> None:
    assert max(modes("ring_collapse", seed, tmp_path / "run")) <= 4


@pytest.mark.parametrize("seed", range(5))
def test_cure(seed: int, tmp_path: Path) -> None:
    assert min(modes("ring", seed, tmp_path / "run")) == 8
