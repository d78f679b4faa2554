"""Memory use does not depend on the size of a corpus."""

import csv
import shutil
from pathlib import Path

import numpy as np
import yaml

from tests.trials.test_exact_resume import start

SHARD_BYTES = 10**6


def write_corpus(path: Path, megabytes: int) -> None:
    """Write random printable lines of 63 characters."""
    generator = np.random.default_rng(0)
    with open(path, "wb") as file:
        for _ in range(megabytes):
            piece = generator.integers(32, 127, SHARD_BYTES, dtype=np.uint8)
            piece[63::64] = ord("\n")
            file.write(piece.tobytes())


def peak_memory(folder: Path, megabytes: int) -> float:
    """Peak memory in megabytes of encoding a corpus of this size, and of a short training on it."""
    folder.mkdir()
    try:
        write_corpus(folder / "corpus.txt", megabytes)
        model = {"context": 64, "layers": 1, "heads": 2, "width": 16}
        data = {
            "path": str(folder / "corpus.txt"),
            "root": str(folder),
            "tokenizer": "byte",
            "context": 64,
        }
        config = {
            "model": {"class_path": "lightning_modules.gpt.GPT", "init_args": model},
            "data": {"class_path": "datamodules.text.files.TextFiles", "init_args": data},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        limits = [
            "--trainer.max_steps",
            "60",
            "--trainer.val_check_interval",
            "20",
            "--trainer.limit_val_batches",
            "4",
        ]
        process = start(
            [
                "fit",
                "--config",
                str(folder / "config.yaml"),
                "--run_dir",
                str(folder / "run"),
                *limits,
            ]
        )
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        with open(folder / "run/throughput.csv", encoding="utf-8") as file:
            *_, last = csv.DictReader(file)
        return float(last["peak_memory_mb"])
    finally:
        shutil.rmtree(folder)  # 1 GB of text gives 2 GB of tokens


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    small, large = (peak_memory(tmp_path / str(megabytes), megabytes) for megabytes in (100, 1000))
    print(f"peak memory: {small:.0f} MB for 100 MB of text, {large:.0f} MB for 1 GB")
    assert large - small < 50
