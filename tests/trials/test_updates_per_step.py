"""For every system, the number of updates per step of the Trainer changes no bit."""

from pathlib import Path

import pytest

from cli.recipes import recipes
from tests.runs import run_differences, tiny_config
from tests.test_updates import fit

OPTIONS = [
    "--trainer.max_steps=200",
    "--trainer.limit_train_batches=33",
    "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=100",
    "--trainer.val_check_interval=64",
    "--trainer.check_val_every_n_epoch=null",
    "--checkpoint.every_n_train_steps=50",
    "--previews.every_n_train_steps=200",
]


@pytest.mark.parametrize("system", sorted({path.parent.name for path in recipes()}))
def test_every_number_of_updates_per_step_gives_the_same_run(system: str, tmp_path: Path) -> None:
    """Runs with 1, 7 and 32 updates per step, the last one also interrupted at update 77."""
    text = system in ("seq2seq", "transformer")
    config = tiny_config(tmp_path / "config.yaml", system, **({} if text else {"batch_size": 8}))
    for updates in (1, 7):
        fit(config, tmp_path / str(updates), updates, OPTIONS)
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step=77"]
    with pytest.raises(SystemExit):
        fit(config, tmp_path / "32", 32, [*OPTIONS, *stop])
    fit(config, tmp_path / "32", 32, ["--ckpt_path=last"])
    assert run_differences(tmp_path / "1", tmp_path / "7") == []
    assert run_differences(tmp_path / "1", tmp_path / "32") == []
