"""Run files, checkpoints and previews."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoint
from callbacks.non_finite_guard import first_non_finite
from callbacks.preview_batch import spread
from callbacks.previews import Previews
from callbacks.run_files import CSVLog
from common.errors import UserError
from common.images import grid, strips


def rows(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_csv_grows_columns_and_cuts_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = CSVLog(path)
    for step in (10, 20):
        log.log_metrics({"a": step / 3}, step)
    log.log_metrics({"b": 1.0}, 20)
    log.log_metrics({"a": 3.0}, 30)
    whole = path.read_bytes()
    with open(path, "a", encoding="utf-8") as file:
        file.write("4")  # a kill interrupts a line that starts with 40
    resumed = CSVLog(path, keep_until=20)
    resumed.log_metrics({"a": 3.0}, 30)
    assert path.read_bytes() == whole
    assert rows(path)[0] == "step,a,b"
    assert len(rows(path)) == 5
    CSVLog(path).log_metrics({"c": 1.0}, 5)
    assert rows(path) == ["step,c", "5,1.0"], "a new run starts a new file"


def test_a_checkpoint_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints/last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, path)
    (path.parent / "last.ckpt.tmp123").write_bytes(b"left by a kill")

    def full(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space"):
            io.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(path.parent.iterdir()) == [path], "no temporary file is left, not even an older one"


def test_versions_stay_below_each_other_in_a_last_row_that_is_not_full() -> None:
    versions = torch.full((2, 10, 3, 4, 4), -1.0)
    versions[0, 9], versions[1, 9] = 0.0, 1.0
    shown = grid(versions, columns=8)
    rows, columns = (side // 5 for side in shown.shape[1:])
    cells = [
        [int(shown[0, 5 * row + 2, 5 * column + 2]) for column in range(columns)]
        for row in range(rows)
    ]
    assert (rows, columns) == (4, 8)
    assert cells[2] == [0, 128, 0, 0, 0, 0, 0, 0]
    assert cells[3] == [0, 255, 0, 0, 0, 0, 0, 0]


def test_grid_puts_compared_rows_below_each_other() -> None:
    top, bottom = torch.full((3, 1, 4, 4), 1.0), torch.full((3, 1, 4, 4), -1.0)
    picture = grid(torch.stack([top, bottom]))
    assert picture.shape == (3, 11, 16)
    assert picture[:, 1:5, 1:5].min() == 255
    assert picture[:, 6:10, 1:5].max() == 0
    assert strips(torch.zeros(2, 5, 3, 4, 4)).shape == (3, 11, 26)


def test_previews_show_no_picture_twice() -> None:
    assert spread(10, 32) == list(range(10))
    assert spread(100, 4) == [0, 25, 50, 75]


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    model = torch.nn.Linear(2, 1)
    assert first_non_finite(model, {"image": torch.ones(1)}) == "the loss"
    model.weight.grad = torch.tensor([[1.0, float("nan")]])
    assert first_non_finite(model, {"seed": 3}) == "the gradient of weight"
    assert first_non_finite(model, {"image": torch.tensor([float("inf")])}) == "batch['image']"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (15, [0, 100, 200, 300, 400, 500, 600, 650]),
        (30, [0, 300, 600, 650]),  # in at most 10 % of the time
        (100, [0, 650]),
    ],
)
def test_long_previews_are_announced_and_drawn_less_often(
    seconds: int, expected: list[int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A step takes 1 s and a preview takes `seconds`; previews above 20 steps are long."""
    now, drawn = 0, []

    def preview(batch: object) -> dict[str, Any]:
        nonlocal now
        now += seconds
        drawn.append(trainer.global_step)
        return {}

    monkeypatch.setattr("callbacks.previews.time.perf_counter", lambda: now)
    monkeypatch.setattr("callbacks.previews.preview_batch", lambda *_: {})
    trainer: Any = SimpleNamespace(is_global_zero=True, global_step=0)
    module: Any = SimpleNamespace(preview=preview)
    previews = Previews(every_n_train_steps=100)
    previews.on_train_start(trainer, module)
    for step in range(1, 651):
        now += 1
        trainer.global_step = step
        previews.on_train_batch_end(trainer, module, None, None, step)
    previews.on_train_end(trainer, module)
    assert drawn == expected
    said = capsys.readouterr().err
    assert said.count(f"a preview takes {seconds}.0 s, as long as {seconds} training steps") == (
        seconds > 20
    )


@pytest.mark.parametrize(
    ("updates", "expected"), [(6, 20), (300, 30), (50_000, 1000), (float("inf"), 1000)]
)
def test_a_short_run_has_previews_too(updates: float, expected: int) -> None:
    """A run of 300 updates has one every 30 updates; a given interval is not changed."""
    trainer: Any = SimpleNamespace(
        estimated_stepping_batches=updates, is_global_zero=False, global_step=0
    )
    for given, period in ((None, expected), (7, 7)):
        previews = Previews(given)
        previews.on_train_start(trainer, SimpleNamespace(resumed_at=None))  # type: ignore[arg-type]
        assert previews.update_periods == [period]


def test_a_monitor_that_is_not_logged_is_named() -> None:
    """The message lists the logged values; without this check the run would have no best.ckpt."""
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        sanity_checking=False,
        callback_metrics={"val/loss": torch.ones(()), "train/loss": torch.ones(())},
    )
    module = SimpleNamespace(monitor=("val/los", "min"))
    logged = r"it logs val/loss; set monitor to one of"
    with pytest.raises(UserError, match=rf"monitor is val/los, but .* {logged}"):
        RunCheckpoint().on_validation_end(trainer, module)  # type: ignore[arg-type]
