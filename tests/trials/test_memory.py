"""The memory of a training does not grow."""

from pathlib import Path

import pytest

from cli.training import TrainCLI
from tests.runs import RecordMemory, tiny_config


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc, as on Linux")
@pytest.mark.parametrize("system", ["vae", "gan", "gpt", "transformer"])
def test_resident_memory_grows_less_than_1_kb_per_update(system: str, tmp_path: Path) -> None:
    """Over 2,000 updates, after 1,000 updates that fill caches."""
    config = tiny_config(tmp_path / "config.yaml", system)
    options = [
        "--trainer.max_steps=3000",
        "--trainer.limit_val_batches=0",
        "--previews.every_n_train_steps=5000",
        "--trainer.callbacks+=tests.runs.RecordMemory",
        "--trainer.callbacks.every_n_train_steps=500",
    ]
    cli = TrainCLI(["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), *options])
    (record,) = (one for one in cli.trainer.callbacks if isinstance(one, RecordMemory))
    assert sorted(record.bytes) == list(range(500, 3001, 500))
    assert record.bytes[3000] - record.bytes[1000] < 2000 * 1024, record.bytes
