"""Runs as a user starts, interrupts and resumes them on the command line."""

import csv
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import train
from cli.classes import full_class_paths
from cli.run_directory import recipe_home
from cli.run_options import class_without_nulls
from cli.training import TrainCLI
from common.run import Run, new_run
from lightning_modules.core.run_length import Position, planned_updates
from lightning_modules.vae import VAE
from tests.runs import ROOT, run_differences, tiny_config

RESUME = ["--ckpt_path", "last"]


@pytest.fixture(scope="module")
def d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the configuration `tiny.yaml` of a VAE with epochs of 5 batches of 8."""
    d = tmp_path_factory.mktemp("runs")
    tiny_config(d / "tiny.yaml", "vae", batch_size=8, max_samples=43)
    config = yaml.safe_load((d / "tiny.yaml").read_text(encoding="utf-8"))
    config["model"]["init_args"]["schedule"] = "constant"
    config["trainer"] |= {"limit_val_batches": 1, "log_every_n_steps": 2}
    config["previews"] = {"every_n_train_steps": 100, "count": 2}
    (d / "tiny.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return d


def fit(d: Path, run: Path, *options: object) -> list[str]:
    return ["fit", "--config", str(d / "tiny.yaml"), "--run_dir", str(run), *map(str, options)]


def saved(run: Path, name: str = "last") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(Run(run).checkpoint(name), weights_only=True)
    return content


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[list[int]]]:
    """Indices of the training samples that all runs of a test use, per epoch."""
    record: dict[int, list[list[int]]] = {}
    start = VAE.on_train_batch_start

    def recording(self: VAE, batch: Any, batch_idx: int) -> None:
        record.setdefault(self.trainer.current_epoch, []).append(batch["index"].tolist())
        start(self, batch, batch_idx)

    monkeypatch.setattr(VAE, "on_train_batch_start", recording)
    return record


# Directory and lock


def test_runs_that_start_in_one_second_have_their_own_directories(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("time.strftime", lambda form: "2026-01-01_00-00-00")
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        monkeypatch.delenv("MAQUETTE_RUN_DIR", raising=False)
        names.append(new_run(Path("runs")).path.name)
    assert names == ["2026-01-01_00-00-00", "2026-01-01_00-00-00-2", "2026-01-01_00-00-00-3"]


def test_a_directory_has_one_writer(
    d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second process is refused while the first trains, and may resume after its end."""
    code = (
        "import sys; from common.run import Run; r = Run(sys.argv[1]); r.claim(); "
        "r.record(state='running'); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert Run(tmp_path).state == "running"
    assert train.main(fit(d, tmp_path, "--trainer.max_steps", 1)) == 2
    assert f"--run_dir {tmp_path} is in use by process {holder.pid}" in capsys.readouterr().err
    holder.kill()
    holder.wait()
    assert Run(tmp_path).state == "interrupted", "the killed process has lost its lock"
    assert train.main(fit(d, tmp_path, "--trainer.max_steps", 1)) == 0
    assert Run(tmp_path).state == "finished"


def test_a_start_that_fails_leaves_no_directory(d: Path, tmp_path: Path) -> None:
    options = ["--data", "datamodules.images.folder.ImageFolder", "--data.folder", "/nowhere"]
    assert train.main(fit(d, tmp_path / "new", *options)) == 2
    assert not (tmp_path / "new").exists()


def test_another_number_of_processes_than_the_launcher_started_is_refused(
    d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert train.main(fit(d, tmp_path / "new", "--trainer.accelerator", "cpu")) == 2
    error = capsys.readouterr().err
    assert "the launcher has started 2 processes, but the trainer uses 1" in error
    assert "--trainer.devices" in error


# State and configuration


@pytest.mark.parametrize("stops", [(4, 10), (5, 10), (3, 4)])
def test_runs_that_stop_twice_at_ends_of_epochs(
    stops: tuple[int, int], d: Path, tmp_path: Path
) -> None:
    """An epoch has one batch; every fifth epoch validates."""
    short = ["--data.batch_size=40", "--trainer.max_epochs=12", "--trainer.log_every_n_steps=1"]
    short += ["--trainer.check_val_every_n_epoch=5"]
    assert train.main(fit(d, tmp_path / "straight", *short)) == 0
    run = tmp_path / "stopped"
    stop = "--trainer.callbacks+=tests.runs.TerminateAt"
    assert train.main(fit(d, run, *short, stop, f"--trainer.callbacks.step={stops[0]}")) == 143
    again = ["fit", "--run_dir", str(run), *RESUME]
    assert train.main([*again, stop, f"--trainer.callbacks.step={stops[1]}"]) == 143
    assert saved(run)["global_step"] == stops[1]
    assert train.main(again) == 0
    assert run_differences(tmp_path / "straight", run) == []


def test_an_option_without_value_keeps_none(d: Path, tmp_path: Path) -> None:
    """`null` is saved where the default is a value, in options of the trainer and of a class."""
    run = tmp_path / "run"
    null = ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", 7]
    assert train.main(fit(d, run, *null, "--trainer.max_steps", 7)) == 0
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert config["trainer"]["check_val_every_n_epoch"] is None
    assert "devices" in config["trainer"]
    assert "profiler" not in config["trainer"]
    assert train.main(["fit", "--run_dir", str(run), *RESUME, "--trainer.max_steps", "8"]) == 0
    callback = {
        "class_path": "pytorch_lightning.callbacks.ModelSummary",
        "init_args": {"max_depth": None},
    }
    assert class_without_nulls(callback) == callback


def test_a_run_continues_with_its_own_configuration(
    d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of the first start need not be repeated, and the result has the same bits."""
    options = ["--data.batch_size", 6, "--seed_everything", 3, "--trainer.max_steps", 9]
    options += ["--trainer.gradient_clip_val", 0.5]
    assert train.main(fit(d, tmp_path / "whole", *options)) == 0
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step", 4]
    assert train.main(fit(d, tmp_path / "cut", *options, *stop)) == 143
    assert Run(tmp_path / "cut").state == "interrupted"
    error = capsys.readouterr().err
    assert f"python train.py fit --run_dir {tmp_path / 'cut'} --ckpt_path last" in error
    assert train.main(["fit", "--run_dir", str(tmp_path / "cut"), *RESUME]) == 0
    assert run_differences(tmp_path / "whole", tmp_path / "cut") == []
    assert "at update 4" in capsys.readouterr().err


def test_the_recipe_on_the_command_line_does_not_undo_options(d: Path, tmp_path: Path) -> None:
    options = ["--data.batch_size", 6, "--trainer.max_steps", 2]
    assert train.main(fit(d, tmp_path, *options)) == 0
    assert train.main(fit(d, tmp_path, *RESUME, "--trainer.max_steps", 3)) == 0
    config = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["init_args"]["batch_size"] == 6


def test_a_repeated_command_does_not_double_callbacks(d: Path, tmp_path: Path) -> None:
    timer = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step", 99]
    assert train.main(fit(d, tmp_path, *timer, "--trainer.max_steps", 1)) == 0
    assert train.main(fit(d, tmp_path, *timer, "--trainer.max_steps", 2, *RESUME)) == 0
    config = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert len(config["trainer"]["callbacks"]) == 1


def test_changes_are_printed_and_recorded(
    d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(fit(d, tmp_path, "--trainer.max_steps", 2)) == 0
    change = ["--trainer.max_steps", "4", "--data.batch_size", "6"]
    assert train.main(["fit", "--run_dir", str(tmp_path), *RESUME, *change]) == 0
    error = capsys.readouterr().err
    assert "changed: trainer.max_steps 2 -> 4" in error
    assert "changed: data.batch_size 8 -> 6" in error
    *_, last = yaml.safe_load_all((tmp_path / "run.yaml").read_text(encoding="utf-8"))
    assert last["changes"] == {"trainer.max_steps": [2, 4], "data.batch_size": [8, 6]}
    assert last["resumed_at"] == 2
    config = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["init_args"]["batch_size"] == 6, "the next resume starts from here"


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        (["--model.latent_dim", "7"], "model.latent_dim 4, not 7"),
        (["--seed_everything", "5"], "seed_everything 0, not 5"),
        (["--data.flip", "false"], "data.flip true, not false"),
        (["--data.max_samples", "20"], "data.max_samples 43, not 20"),
        (["--trainer.limit_train_batches", "2"], "trainer.limit_train_batches null, not 2"),
    ],
)
def test_changes_that_make_another_training_are_refused(
    option: list[str], shown: str, d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(fit(d, tmp_path, "--trainer.max_steps", 1)) == 0
    before = (tmp_path / "config.yaml").read_bytes()
    more = ["--trainer.max_steps", "2"]
    assert train.main(["fit", "--run_dir", str(tmp_path), *RESUME, *more, *option]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert shown in line
    assert "--init_from" in line
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_a_refused_resume_changes_nothing(d: Path, tmp_path: Path) -> None:
    cosine = ["--model.schedule", "cosine", "--trainer.max_steps", 3]
    assert train.main(fit(d, tmp_path, *cosine)) == 0
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    longer = ["fit", "--run_dir", str(tmp_path), *RESUME, "--trainer.max_steps", "8"]
    assert train.main(longer) == 2
    for name in ("config.yaml", "run.yaml", "metrics.csv"):
        assert (tmp_path / name).read_bytes() == files[name], name
    assert Run(tmp_path).state == "finished"


@pytest.mark.parametrize(
    ("stop", "size", "total"), [(7, 8, 20), (7, 16, 7 + 1 + 2 * 2), (10, 16, 10 + 2 * 2)]
)
def test_a_schedule_ends_with_the_run_after_a_change_of_the_batch_size(
    stop: int, size: int, total: int, d: Path, tmp_path: Path
) -> None:
    """Epochs have 5 batches of 8 or 2 of 16; the run has 4 epochs."""
    options = ["--model.schedule", "cosine", "--trainer.max_epochs", 4]
    argv = fit(d, tmp_path, *options)
    end = ["--trainer.callbacks+=tests.runs.TerminateAt", f"--trainer.callbacks.step={stop}"]
    assert train.main([*argv, *end]) == 143
    resumed = TrainCLI([*argv, *RESUME, f"--data.batch_size={size}", "--extend"])
    assert resumed.model.total_updates == resumed.trainer.global_step == total
    assert resumed.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_the_length_counts_updates_as_lightning_does(parts: int) -> None:
    """An update follows each batch whose number is a multiple of `parts`, and the last one."""
    for batches, batch, epoch, epochs in itertools.product((1, 5, 10), range(11), (0, 2), (1, 4)):
        trainer: Any = SimpleNamespace(max_epochs=epochs, max_steps=-1)
        trainer.accumulate_grad_batches = parts
        module = SimpleNamespace(resumed_at=Position(100, epoch, min(batch, batches)))
        updates = 100
        for number in range(epoch, epochs):
            done = min(batch, batches) if number == epoch else 0
            counted = range(done + 1, batches + 1)
            updates += sum(one % parts == 0 or one == batches for one in counted)
        assert planned_updates(trainer, module, batches) == updates


def test_a_debug_run_of_a_checkpoint_leaves_its_run_alone(
    d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run names the run and its changed options, and refuses what a resumed run refuses."""
    assert train.main(fit(d, tmp_path, "--trainer.max_steps", 3)) == 0
    Run(tmp_path).record(state="interrupted")
    debug = ["fit", "--run_dir", str(tmp_path), *RESUME, "--trainer.fast_dev_run", "1"]
    assert train.main(debug) == 0
    assert Run(tmp_path).state == "interrupted"
    assert saved(tmp_path)["global_step"] == 3
    capsys.readouterr()
    dry = ["fit", "--run_dir", str(tmp_path), *RESUME, "--dry_run", "--trainer.max_steps", "9"]
    assert train.main(dry) == 0
    err = capsys.readouterr().err
    assert f"resuming {tmp_path} at update 3" in err
    assert "changed: trainer.max_steps 3 -> 9" in err
    assert train.main([*dry, "--model.latent_dim", "9"]) == 2


def test_a_resumed_run_keeps_options_given_with_a_short_config_option(
    d: Path, tmp_path: Path
) -> None:
    argv = ["fit", f"-c={d / 'tiny.yaml'}", "--run_dir", str(tmp_path)]
    first = ["--model.latent_dim", "3", "--trainer.max_steps", "1"]  # 4 in the file
    assert train.main([*argv, *first]) == 0
    assert train.main([*argv, *RESUME, "--trainer.max_steps", "2"]) == 0
    assert saved(tmp_path)["hyper_parameters"]["latent_dim"] == 3
    assert saved(tmp_path)["global_step"] == 2


def test_a_checkpoint_is_not_resumed_in_another_run(
    d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        assert train.main(fit(d, tmp_path / name, "--trainer.max_steps", 1)) == 0
    one = str(Run(tmp_path / "one").checkpoint("last"))
    argv = ["fit", "--run_dir", str(tmp_path / "two"), "--ckpt_path", one]
    assert train.main([*argv, "--trainer.max_steps", "2"]) == 2
    assert f"{tmp_path / 'two'} already holds a run" in capsys.readouterr().err
    assert saved(tmp_path / "two")["global_step"] == 1


def test_two_callbacks_of_one_class_are_resumed(d: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((d / "tiny.yaml").read_text(encoding="utf-8"))
    callback = {"class_path": "tests.runs.TerminateAt", "init_args": {"step": 99}}
    config["trainer"]["callbacks"] = [callback, callback | {"init_args": {"step": 98}}]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    argv = ["fit", "--config", str(tmp_path / "two.yaml"), "--run_dir", str(tmp_path / "run")]
    assert train.main([*argv, "--trainer.max_steps", "1"]) == 0
    assert train.main([*argv, *RESUME, "--trainer.max_steps", "2"]) == 0
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text(encoding="utf-8"))
    assert [one["init_args"]["step"] for one in config["trainer"]["callbacks"]] == [99, 98]


def test_only_the_first_rank_creates_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.chdir(tmp_path)
    new_run(Path("runs"))
    assert not list(tmp_path.iterdir())


def test_classes_by_short_name_have_the_directory_of_their_files() -> None:
    words = full_class_paths(["fit", "--model", "GPT", "--data", "TextFiles"])
    assert recipe_home(words) == Path("runs/gpt/files")


def test_a_signal_in_the_last_update_leaves_a_finished_run(
    d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step", 3]
    assert train.main(fit(d, tmp_path, "--trainer.max_steps", 3, *stop)) == 143
    assert train.main(["fit", "--run_dir", str(tmp_path), *RESUME]) == 0
    assert "is finished (3 updates)" in capsys.readouterr().err
    assert Run(tmp_path).state == "finished"


def test_a_finished_run_says_what_to_raise(
    d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(fit(d, tmp_path, "--trainer.max_steps", 2)) == 0
    assert train.main(["fit", "--run_dir", str(tmp_path), *RESUME]) == 0
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line == (
        f"{tmp_path} is finished (2 updates); to train longer, raise --trainer.max_steps 2"
    )


def test_last_is_the_newest_run_even_without_a_checkpoint(
    d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older run of the recipe is not resumed by mistake."""
    monkeypatch.chdir(tmp_path)
    home = Path("runs/vae/openmoji")
    for name in ("2026-01-01", "2026-01-02"):
        (home / name / "checkpoints").mkdir(parents=True)
        Run(home / name).record(state="interrupted")
    Run(home / "2026-01-01").checkpoint("last").touch()
    recipe = str(ROOT / "configs/vae/openmoji.yaml")
    assert train.main(["fit", "--config", recipe, *RESUME]) == 2
    assert "there is no checkpoint in runs/vae/openmoji/2026-01-02" in capsys.readouterr().err


def test_a_debug_run_leaves_nothing(
    d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_ROOT", os.environ.get("DATA_ROOT", str(ROOT / "data")))
    monkeypatch.chdir(tmp_path)
    assert train.main(["fit", "--config", str(d / "tiny.yaml"), "--trainer.fast_dev_run", "1"]) == 0
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not (tmp_path / "runs").exists()


def test_runs_are_listed(d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(fit(d, tmp_path / "one", "--trainer.max_epochs", 1)) == 0
    assert train.main(fit(d, tmp_path / "two", "--trainer.max_steps", 1)) == 0
    Run(tmp_path / "two").record(state="running", updated=0)  # as after SIGKILL
    capsys.readouterr()
    assert train.main(["runs", str(tmp_path)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "state", "updates", "best", "age", "size"]
    cells = {row.split()[0]: row for row in rows}
    assert "finished     5        val/loss" in cells["one"]
    assert "interrupted  1" in cells["two"]
    assert train.main(["runs", str(tmp_path / "none")]) == 2


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_resume(
    number: signal.Signals,
    code: int,
    d: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = VAE.training_step

    def interrupted(self: VAE, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 2:
            os.kill(os.getpid(), number)
        return step(self, batch, batch_idx)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(VAE, "training_step", interrupted)
        patch.setattr(
            "cli.training.close_wandb", lambda _: print("summary of W&B", file=sys.stderr)
        )
        assert train.main(fit(d, tmp_path, "--trainer.max_steps", 9)) == code
    assert saved(tmp_path)["global_step"] == 3
    before_last, resume = capsys.readouterr().err.splitlines()[-2:]
    assert before_last == "summary of W&B"
    assert resume == f"resume with: python train.py fit --run_dir {tmp_path} --ckpt_path last"
    assert Run(tmp_path).state == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_closed_pipe_does_not_look_like_the_end_of_a_training(tmp_path: Path) -> None:
    """`fit 2>&1 | head && next` must not start the next program."""
    run = Run(tmp_path)
    run.claim()
    run.record(state="running")
    with pytest.raises(SystemExit) as stop, run.training():
        raise BrokenPipeError
    assert stop.value.code == 141
    assert run.state == "interrupted"
    run.release()


# Order of the data


def test_a_changed_batch_size_uses_each_remaining_sample_once(
    d: Path, tmp_path: Path, seen: dict[int, list[list[int]]]
) -> None:
    """Three batches of 8 of 43 samples, then batches of 4: an epoch ends as usual."""
    assert train.main(fit(d, tmp_path, "--trainer.max_steps", 3)) == 0
    change = ["--data.batch_size", "4", "--trainer.max_steps", "18"]
    assert train.main(["fit", "--run_dir", str(tmp_path), *RESUME, *change]) == 0
    first = [i for batch in seen[0] for i in batch]
    assert len(set(first)) == len(first) == 40, "43 samples without the incomplete last batch"
    assert [len(batch) for batch in seen[0]] == [8] * 3 + [4] * 4
    assert [len(batch) for batch in seen[1]] == [4] * 10
    assert saved(tmp_path)["epoch"] == 2
    rows = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(set(rows))


def test_two_equal_resumes_with_a_change_have_the_same_bits(d: Path, tmp_path: Path) -> None:
    """Also when one of them is interrupted once more."""
    for name in ("one", "two"):
        assert train.main(fit(d, tmp_path / name, "--trainer.max_steps", 3)) == 0
        change = ["--data.batch_size", "12", "--trainer.max_steps", "9"]
        stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step", "5"]
        argv = ["fit", "--run_dir", str(tmp_path / name), *RESUME]
        assert train.main([*argv, *change, *(stop if name == "two" else [])]) == (
            143 if name == "two" else 0
        )
    assert train.main(["fit", "--run_dir", str(tmp_path / "two"), *RESUME]) == 0
    assert run_differences(tmp_path / "one", tmp_path / "two") == []


def test_overfit_batches_repeats_its_samples(
    d: Path, tmp_path: Path, seen: dict[int, list[list[int]]]
) -> None:
    options = ["--trainer.overfit_batches", 2, "--trainer.max_epochs", 3]
    assert train.main(fit(d, tmp_path, *options)) == 0
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 2


def test_reloaded_loaders_start_later_epochs_at_their_first_batch(
    d: Path, tmp_path: Path, seen: dict[int, list[list[int]]]
) -> None:
    options = ["--trainer.reload_dataloaders_every_n_epochs", 1, "--trainer.max_epochs", 3]
    assert train.main(fit(d, tmp_path / "whole", *options)) == 0
    whole = dict(seen)
    seen.clear()
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step", 3]
    assert train.main(fit(d, tmp_path / "cut", *options, *stop)) == 143
    assert train.main(["fit", "--run_dir", str(tmp_path / "cut"), *RESUME]) == 0
    assert seen == whole


@pytest.mark.parametrize("limit", ["0", "0.0", "0.01"])
def test_a_share_without_a_batch_is_refused(
    limit: str, d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(fit(d, tmp_path / "new", "--trainer.limit_train_batches", limit)) == 2
    assert "trainer.limit_train_batches" in capsys.readouterr().err.strip().splitlines()[-1]


# Schedules, tuners, callbacks


def test_a_longer_run_does_not_change_its_schedule_unasked(
    d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cosine = ["--model.schedule", "cosine", "--trainer.max_steps", 4]
    assert train.main(fit(d, tmp_path, *cosine)) == 0
    longer = ["fit", "--run_dir", str(tmp_path), *RESUME, "--trainer.max_steps", "8"]
    assert train.main(longer) == 2
    assert "the schedule would change the learning rate from 0 to 0.0005" in capsys.readouterr().err
    rates: list[float] = []

    def record(self: VAE, optimizer: torch.optim.Optimizer) -> None:
        rates.append(optimizer.param_groups[0]["lr"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VAE, "on_before_zero_grad", record)
        assert train.main([*longer, "--extend"]) == 0
    assert rates[0] == pytest.approx(0.0005), "no update has the learning rate 0"
    assert "--extend: the schedule now ends at update 8" in capsys.readouterr().err


def test_early_stopping_resumes_after_a_validation(d: Path, tmp_path: Path) -> None:
    stopping = "pytorch_lightning.callbacks.EarlyStopping"
    options = [f"--trainer.callbacks+={stopping}", "--trainer.callbacks.monitor", "val/loss"]
    options += ["--trainer.max_epochs", 2, "--trainer.check_val_every_n_epoch", 1]
    assert train.main(fit(d, tmp_path, *options)) == 0
    more = ["--trainer.max_epochs", "3"]
    assert train.main(["fit", "--run_dir", str(tmp_path), *RESUME, *more]) == 0
    assert saved(tmp_path)["epoch"] == 2


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_tuned_learning_rate_is_saved_and_resumes(
    schedule: str, d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A schedule starts at the tuned learning rate."""
    finder = "pytorch_lightning.callbacks.LearningRateFinder"
    options = [f"--trainer.callbacks+={finder}", "--trainer.callbacks.num_training_steps", 30]
    options += ["--model.schedule", schedule, "--trainer.log_every_n_steps", 1]
    assert train.main(fit(d, tmp_path, *options, "--trainer.max_steps", 3)) == 0
    config = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    rate = config["model"]["init_args"]["learning_rate"]
    assert rate == saved(tmp_path)["hyper_parameters"]["learning_rate"] != 0.001
    assert "model.learning_rate: 0.001 ->" in capsys.readouterr().err
    with open(tmp_path / "metrics.csv", encoding="utf-8") as file:
        assert float(next(csv.DictReader(file))["train/lr"]) == pytest.approx(rate)
    more = ["--trainer.max_steps", "5", "--extend"]
    assert train.main(["fit", "--run_dir", str(tmp_path), *RESUME, *more]) == 0
    assert saved(tmp_path)["hyper_parameters"]["learning_rate"] == rate


# Checkpoints


def test_the_best_and_kept_checkpoints(d: Path, tmp_path: Path) -> None:
    options = ["--checkpoint.top_k", 2, "--checkpoint.keep_every_n_train_steps", 10]
    options += ["--trainer.max_epochs", 5]
    assert train.main(fit(d, tmp_path, *options)) == 0
    steps = {path.stem for path in (tmp_path / "checkpoints/top").iterdir()}
    best = saved(tmp_path)["callbacks"]["RunCheckpoint"]["best"]
    assert steps == {str(step) for _, step in best}
    assert len(steps) == 2
    assert saved(tmp_path, "best")["global_step"] == best[0][1]
    kept = {path.stem for path in (tmp_path / "checkpoints/kept").iterdir()}
    assert kept == {"10", "20"}
    assert train.main(["validate", "--ckpt_path", str(Run(tmp_path).checkpoint("kept/10"))]) == 0
    assert Run(tmp_path).read()["best"] == {
        "name": "val/loss", "value": best[0][0], "step": best[0][1],
    }  # fmt: skip


def test_best_is_accepted_and_its_absence_names_last(
    d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trainer.max_steps", 2, "--trainer.limit_val_batches", 0]
    assert train.main(fit(d, tmp_path / "no", *options)) == 0
    argv = ["validate", "--ckpt_path", "best", "--run_dir"]
    assert train.main([*argv, str(tmp_path / "no")]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "has no best.ckpt" in line
    assert line.endswith("use last")
    assert train.main(fit(d, tmp_path / "yes", "--trainer.max_epochs", 1)) == 0
    assert train.main([*argv, str(tmp_path / "yes")]) == 0


def test_the_fid_selects_the_best_gan(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "gan.yaml", "gan", max_samples=64)
    options = ["--fid.count", "16", "--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"]
    argv = ["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), *options]
    assert train.main(argv) == 0
    best = Run(tmp_path / "run").read()["best"]
    assert best["name"] == "val/classifier-fid"
    assert saved(tmp_path / "run", "best")["global_step"] == best["step"]


# Output


def test_what_the_user_asked_for_is_printed(d: Path, tmp_path: Path) -> None:
    """Profilers, the reason of EarlyStopping and another precision are shown, tips are not."""
    options = ["--trainer.profiler", "simple", "--trainer.max_epochs", 4]
    options += ["--trainer.precision", "16-mixed", "--trainer.accelerator", "cpu"]
    options += ["--trainer.callbacks+=pytorch_lightning.callbacks.EarlyStopping"]
    options += ["--trainer.callbacks.monitor", "val/loss", "--trainer.callbacks.patience", 1]
    options += ["--trainer.callbacks.min_delta", 1000000]
    done = subprocess.run(
        [sys.executable, "train.py", *fit(d, tmp_path, *options)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "FIT Profiler Report" in done.stdout + done.stderr
    assert "stopped early: Monitored metric val/loss did not improve" in done.stderr
    assert "Using `precision='bf16-mixed'` instead" in done.stderr
    for tip in ("GPU available", "Tip", "litlogger", "does not have many workers", "Seed set to"):
        assert tip not in done.stdout + done.stderr, tip
