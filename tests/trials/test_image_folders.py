"""120 random folders of images: each trains with numbers that add up, or is refused in one line."""

from collections import Counter
from pathlib import Path

import pytest

import train
from tests.image_folders import FolderWriter, check_seed
from tests.runs import tiny_config

SEEDS = range(120)
RUN_SEEDS = range(12)


def test_random_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, failures = Counter[str](), {}
    for seed in SEEDS:
        try:
            result = check_seed(seed, tmp_path, monkeypatch)
        except Exception as error:
            failures[seed] = repr(error)[:300]
            continue
        results["used" if result == "used" else "refused"] += 1
    assert failures == {}
    assert min(results["used"], results["refused"]) > 20, results


@pytest.mark.parametrize("seed", RUN_SEEDS)
def test_runs_with_random_folders(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train.py` trains on the folder, or stops with one line."""
    root = FolderWriter(tmp_path, seed).folder().root
    argv = f"fit --config {tiny_config(tmp_path / 'c.yaml', 'vae')} --run_dir {tmp_path / 'run'}"
    code = train.main(
        [
            *argv.split(),
            *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1"),
            *("--data", "ImageFolder", "--data.folder", str(root), "--data.size", "16"),
            *("--data.batch_size", "2", "--data.skip_bad", "true"),
        ]
    )
    err = capsys.readouterr().err
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if code == 0:
        assert errors == []
        assert f"{root}: " in err
    else:
        assert code == 2
        assert errors == err.splitlines()[-1:]
