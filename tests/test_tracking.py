"""W&B and TensorBoard hold the same content of a run, with the number of updates as x axis.

The files of an offline W&B run and the event files of TensorBoard are read back.
"""

import argparse
import csv
import io
import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray
from wandb.proto import wandb_internal_pb2

import evaluate
import train
from callbacks.gradient_histograms import BINS, histograms
from callbacks.publish import markdown_cell, publish
from callbacks.run_description import optimizer_settings, recipe
from callbacks.run_files import RunFiles
from cli import reproduction
from cli.evaluation import program
from cli.loggers import RunWandbLogger, close_wandb, last_updates, run_name, wandb_mode
from common.errors import UserError
from common.files import ROOT
from tests.runs import differences, tiny_config

X_AXIS = "trainer/global_step"
UPDATES, RESUMED_AT, MORE_UPDATES = 6, 4, 10
TINY_GAN = [
    *("fit", "--config", "configs/gan/ring.yaml", "--previews.count", "4"),
    *("--trainer.max_steps", str(UPDATES), "--trainer.log_every_n_steps", "2"),
    *("--trainer.val_check_interval", "3", "--trainer.limit_val_batches", "1"),
    *("--data.eval_batch_size", "50", "--model.discriminator_optimizer.lr", "2.0e-3"),
]
BOTH = ["--wandb.project", "maquette", "--tensorboard"]


class Captions(Callback):
    """Publishes a text and an image with captions when training starts."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        publish(trainer, "texts", ["one | two", "three"], 0, "two lines")
        publish(trainer, "black", torch.zeros(3, 4, 5, dtype=torch.uint8), 0, "a black image")


class Tracked(NamedTuple):
    """What a logger holds of a run.

    Attributes:
        config: Configuration, flattened to names joined by dots.
        values: Pairs of update and value of each scalar.
        media: Updates of each image, table or histogram, keyed by kind and name.
    """

    config: dict[str, Any]
    values: dict[str, list[tuple[int, float]]]
    media: dict[tuple[str, str], list[int]]


def records(path: Path) -> Iterator[Any]:
    """Records of a file `.wandb`: a header of 7 bytes, then blocks as in the logs of LevelDB."""
    data, place, whole = path.read_bytes(), 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:  # padding
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    inner = (flat(part, f"{prefix}.{name}" if prefix else name) for name, part in value.items())
    return {name: part for found in inner for name, part in found.items()}


def wait_for_the_next_second() -> None:
    """W&B names the folder of an offline run by the second of its start and the run's id."""
    time.sleep(1 - time.time() % 1)


def wandb_files(run: Path) -> list[Path]:
    return sorted(run.glob("wandb/offline-run-*/*.wandb"))


def from_wandb(files: list[Path]) -> Tracked:
    kinds = {"image-file": "image", "images/separated": "image", "table-file": "table"}
    tracked = Tracked({}, {}, {})
    for record in (one for file in files for one in records(file)):
        for item in (*record.config.update, *record.run.config.update):
            if not item.key.startswith("_"):
                tracked.config.update(flat({item.key: json.loads(item.value_json)}))
        row = history(record)
        step = row.pop(X_AXIS, None)
        for name, value in row.items():
            if name.startswith("_"):
                continue
            assert step is not None, f"{name} has no x axis"
            if isinstance(value, dict):
                kind = kinds.get(value["_type"], value["_type"])
                tracked.media.setdefault((kind, name), []).append(step)
            else:
                tracked.values.setdefault(name, []).append((step, value))
    return tracked


def history(record: Any) -> dict[str, Any]:
    """Logged values of a record; those of media are dictionaries."""
    row: dict[str, Any] = {}
    for item in record.history.item:
        names = list(item.nested_key) or [item.key]
        place = row
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = json.loads(item.value_json)
    return row


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), tensor_size_guidance={})
    events.Reload()
    return events


def from_tensorboard(run: Path) -> Tracked:
    events = events_of(run)
    kinds = {"images": "image", "text": "table", "histograms": "histogram"}
    tracked = Tracked({}, {}, {})

    def tags(plugin: str) -> list[str]:
        return list(events.PluginTagToContent(plugin)) if plugin in events.ActivePlugins() else []

    for tag in tags("scalars"):
        tracked.values[tag] = [
            (one.step, make_ndarray(one.tensor_proto).item()) for one in events.Tensors(tag)
        ]
    for plugin, kind in kinds.items():
        for tag in tags(plugin):
            name = tag.removesuffix("/text_summary")
            tracked.media[kind, name] = [one.step for one in events.Tensors(tag)]
    for file in sorted((run / "tensorboard").glob("events*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tag == "_hparams_/session_start_info":
                    data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    for name, one in data.session_start_info.hparams.items():
                        tracked.config[name] = getattr(one, one.WhichOneof("kind"))
    return tracked


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment without API key; the home directory has no ~/.netrc."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "NETRC"):
            patch.delenv(name, raising=False)
        home = tmp_path_factory.mktemp("tracking")
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_SILENT", "true")
        patch.chdir(ROOT)
        yield home


@pytest.fixture(scope="module")
def gan(offline: Path) -> Path:
    """A GAN on the ring data with both loggers and everything that is logged on request."""
    run = offline / "runs/gan/ring/first"
    argv = [*TINY_GAN, "--run_dir", str(run), *BOTH, "--wandb.group", "ablation"]
    argv += ["--wandb.tags", "[ring,tiny]", "--wandb.notes", "a test", "--wandb.artifacts", "true"]
    argv += ["--gradient_histograms", "--trainer.callbacks", "tests.test_tracking.Captions"]
    assert train.main(argv) == 0
    return run


def test_loggers_do_not_change_the_weights(gan: Path, tmp_path: Path) -> None:
    assert train.main([*TINY_GAN, "--run_dir", str(tmp_path / "run")]) == 0
    states = [
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (gan, tmp_path / "run")
    ]
    assert differences(*states) == []
    assert not (tmp_path / "run/wandb").exists()


def test_every_promised_key_is_in_the_configuration(gan: Path) -> None:
    ours, theirs = from_wandb(wandb_files(gan)).config, from_tensorboard(gan).config
    expected = {
        **{"system": "GAN", "data_module": "Ring", "recipe": "gan/ring", "seed": 0},
        **{"batch_size": 128, "global_batch_size": 128, "precision": "32-true"},
        **{"devices": 1, "nodes": 1, "world_size": 1, "run_dir": str(gan)},
        **{"optimizer.generator.class": "Adam", "optimizer.discriminator.class": "Adam"},
        **{"optimizer.generator.lr": 1e-3, "optimizer.discriminator.lr": 2e-3},
        **{"optimizer.generator.beta1": 0.5, "optimizer.discriminator.beta2": 0.999},
        **{"model.latent_dim": 8, "model.image_shape": [2, 1, 1], "data.batch_size": 128},
        **{"split_sizes.train": 10_000, "split_sizes.val": 1_000},
        **{"trainer.max_steps": UPDATES, "previews.count": 4, "wandb.group": "ablation"},
    }
    for name, value in expected.items():
        assert ours[name] == value, name
        assert theirs[name] == (str(value) if isinstance(value, list) else value), name
    present = ("git_commit", "git_dirty", "command", "versions.torch", "versions.wandb")
    present += ("machine.cpu", "machine.cores", "accelerator", "strategy")
    present += ("parameters.total", "parameters.generator", "parameters.discriminator")
    assert ours.keys() >= set(present)
    assert {name for name, value in ours.items() if value not in (None, {})} == theirs.keys()


def test_both_loggers_have_the_same_values_over_updates(gan: Path) -> None:
    ours, theirs = from_wandb(wandb_files(gan)), from_tensorboard(gan)
    assert ours.values.keys() == theirs.values.keys()
    for name, rows in ours.values.items():
        assert dict(rows) == pytest.approx(dict(theirs.values[name]), nan_ok=True), name
        assert len(rows) == len(dict(rows)), f"{name} has an update twice"
    interval = [2, 4, 6]
    assert [step for step, _ in ours.values["train/loss_g"]] == interval
    assert [step for step, _ in ours.values["throughput/samples_per_second"]] == interval
    assert {step for step, _ in ours.values["epoch"]} >= set(interval)
    assert {"throughput/peak_memory_mb", "train/lr", "train/grad_norm"} <= ours.values.keys()
    assert [step for step, _ in ours.values["health/modes"]] == [3, 6]


def test_both_loggers_have_the_same_media(gan: Path) -> None:
    ours, theirs = from_wandb(wandb_files(gan)).media, from_tensorboard(gan).media
    captions = {key for key in theirs if key[1].endswith("/caption")}
    assert ("table", "black/caption") in captions
    assert ours == {key: steps for key, steps in theirs.items() if key not in captions}
    assert ours["image", "samples"] == [0, UPDATES]
    assert ours["image", "real"] == [0]
    assert ours["table", "texts"] == [0]
    assert ours["table", "health"] == [UPDATES]
    names = {name for kind, name in ours if kind == "histogram"}
    assert any("generator" in name for name in names)
    assert any("discriminator" in name for name in names)
    assert all(ours["histogram", name] == [2, 4, 6] for name in names)


def test_media_have_captions(gan: Path) -> None:
    (file,) = wandb_files(gan)
    rows = [history(one) for one in records(file)]
    (black,) = (row["black"] for row in rows if "black" in row)
    assert black["captions"] == ["a black image"]
    (texts,) = (row["texts"] for row in rows if "texts" in row)
    table = json.loads((file.parent / "files" / texts["path"]).read_text(encoding="utf-8"))
    assert table["columns"] == ["text", "caption"]
    assert table["data"] == [["one | two", "two lines"], ["three", "two lines"]]
    events = events_of(gan)
    (text,) = events.Tensors("texts/text_summary")
    assert b"| one \\| two | two lines |" in text.tensor_proto.string_val[0]
    (image,) = events.Tensors("black")
    assert Image.open(io.BytesIO(image.tensor_proto.string_val[2])).size == (5, 4)


def test_a_run_is_named_and_grouped_and_has_its_artifacts(gan: Path) -> None:
    (file,) = wandb_files(gan)
    found = list(records(file))
    (run,) = (one.run for one in found if one.HasField("run"))
    assert (run.project, run.run_group, run.notes) == ("maquette", "ablation", "a test")
    assert run.display_name == "gan/ring/first"
    assert list(run.tags) == ["ring", "tiny"]
    artifacts = [one.artifact for one in found if one.HasField("artifact")]
    content = {one.type: {entry.path for entry in one.manifest.contents} for one in artifacts}
    assert content["model"] == {"last.ckpt"}
    assert {"samples-0000006.png", "texts-0000000.txt"} <= content["samples"]
    staged = gan / "wandb/artifacts/staging"
    copies = [Path(entry.local_path) for one in artifacts for entry in one.manifest.contents]
    assert {(path.is_file(), path.is_relative_to(staged)) for path in copies} == {(True, True)}, (
        copies
    )


def test_a_resumed_run_continues_without_repeating_options_or_values(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It repeats the updates after its checkpoint, but logs their values once."""
    run = offline / "vae"
    config = tiny_config(offline / "tiny.yaml", "vae")
    argv = ["fit", "--config", str(config), "--run_dir", str(run)]
    first = [*argv, *BOTH, "--trainer.max_steps", "6", "--trainer.log_every_n_steps", "2"]
    first += ["--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "1"]
    first += ["--checkpoint.keep_every_n_train_steps", str(RESUMED_AT)]
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", "--wandb.notes", "first try"])
    assert train.main(first) == 0
    monkeypatch.setattr(sys, "argv", ["train.py", "again"])
    kept = run / f"checkpoints/kept/{RESUMED_AT}.ckpt"
    more = ["--ckpt_path", str(kept), "--trainer.max_steps", str(MORE_UPDATES), "--extend"]
    wait_for_the_next_second()
    assert train.main([*argv[:1], "--run_dir", str(run), *more]) == 0
    files = wandb_files(run)
    assert len(files) == 2
    logs = capsys.readouterr().out.splitlines()[-1]
    assert logs.endswith(f"; wandb sync {run}/wandb/offline-run-*")
    ids = {one.run.run_id for file in files for one in records(file) if one.HasField("run")}
    assert ids == {torch.load(kept, weights_only=True)["wandb_id"]}

    ours, theirs = from_wandb(files), from_tensorboard(run)
    updates = list(range(2, MORE_UPDATES + 1, 2))
    for tracked in (ours, theirs):
        for name in ("train/loss", "val/loss", "throughput/samples_per_second"):
            assert [step for step, _ in tracked.values[name]] == updates, name
        for key, steps in tracked.media.items():
            assert len(steps) == len(set(steps)), key
        at = [step for step, _ in tracked.values["best/val/loss"]]
        assert tracked.values["best/update"] == [(step, step) for step in at]
        best = [value for _, value in tracked.values["best/val/loss"]]
        assert best == sorted(best, reverse=True)
        assert best[-1] == pytest.approx(min(value for _, value in tracked.values["val/loss"]))
    defined = [one.metric for file in files for one in records(file) if one.HasField("metric")]
    (monitor, *_) = (one for one in defined if one.name == "val/loss")
    assert (monitor.summary.min, monitor.summary.last, monitor.step_metric) == (True, True, X_AXIS)
    assert any(one.glob_name == "*" and one.step_metric == X_AXIS for one in defined)
    assert ours.config["trainer.max_steps"] == MORE_UPDATES
    assert ours.config["command"] == "train.py fit --wandb.notes 'first try'"

    # `test` and `evaluate.py` log to the same run.
    last = str(run / "checkpoints/last.ckpt")
    config = str(run / "config.yaml")
    wait_for_the_next_second()
    assert train.main(["test", "--config", config, "--ckpt_path", last]) == 0
    wait_for_the_next_second()
    evaluated(Path(last))
    files = wandb_files(run)
    assert len(files) == 4
    assert len({one.run.run_id for f in files for one in records(f) if one.HasField("run")}) == 1
    for tracked in (from_wandb(files), from_tensorboard(run)):
        assert [step for step, _ in tracked.values["test/nll/last"]] == [MORE_UPDATES]
        ((step, value),) = tracked.values["evaluate/test/fid/trained/last"]
        assert (step, value) == (MORE_UPDATES, 3.5)
        assert tracked.media["table", "evaluation"] == [MORE_UPDATES, MORE_UPDATES]
        assert [step for step, _ in tracked.values["train/loss"]] == updates
    with open(run / "evaluation.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert "test/nll/last" in {row["name"] for row in rows}
    assert rows[-1].pop("time")[:2] == "20"
    assert rows[-1] == {
        **{"checkpoint": "last", "step": str(MORE_UPDATES), "value": "3.5"},
        **{"name": "evaluate/test/fid/trained/last", "signature": "fid[n=1]"},
        "command": "train.py again",
    }


def test_values_that_a_killed_run_has_logged_are_logged_again(
    offline: Path, tmp_path: Path
) -> None:
    """W&B may not have saved them; after an orderly end it has."""

    def start(run_id: str | None) -> RunWandbLogger:
        wait_for_the_next_second()
        return RunWandbLogger(tmp_path, {"project": "maquette"}, run_id, resumes=True)

    killed = start(None)
    killed.log_metrics({"x": 1.0}, 10)
    run_id = killed.experiment.id
    (file,), start_of_wait = wandb_files(tmp_path), time.monotonic()
    while "x" not in from_wandb([file]).values and time.monotonic() - start_of_wait < 10:
        time.sleep(0.2)
    assert "x" in from_wandb([file]).values, "the default of W&B is 15 s"
    killed.experiment.finish()  # the process ends, and does not call `close_wandb`
    for _ in range(2):
        again = start(run_id)
        again.log_metrics({"x": 1.0, "y": 1.0}, 10)
        again.log_metrics({"x": 2.0}, 20)
        close_wandb([again])
    values = from_wandb(wandb_files(tmp_path)).values
    assert [step for step, _ in values["x"]] == [10, 10, 20]
    assert [step for step, _ in values["y"]] == [10]


def test_nothing_is_recorded_while_wandb_is_disabled(
    offline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    argv = [*TINY_GAN, "--run_dir", str(tmp_path / "run"), "--wandb.project", "maquette"]
    assert train.main(argv) == 0
    assert not (tmp_path / "run/wandb").exists()
    assert "W&B" not in capsys.readouterr().out
    # A resumed run without W&B keeps the id, with which a later one continues.
    files, checkpoint = RunFiles({}), {"global_step": 1, "wandb_id": "a"}
    files.on_load_checkpoint(None, None, dict(checkpoint))  # type: ignore[arg-type]
    saved: dict[str, Any] = {}
    files.on_save_checkpoint(argparse.Namespace(loggers=[]), None, saved)  # type: ignore[arg-type]
    assert saved == {"wandb_id": "a"}


def test_points_have_no_fid(gan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = str(gan / "checkpoints/last.ckpt")
    assert evaluate.main([last, "--metrics", "fid"]) == 2
    assert "error: FID and other feature distances need images, and Ring has none" in (
        capsys.readouterr().err
    )


def evaluated(checkpoint: Path) -> None:
    """Evaluate a checkpoint, with a given value in place of the generated images."""
    line = {"metric": "fid", "value": 3.5, "signature": "fid[n=1]", "weights": "trained"}
    options = argparse.Namespace(source=checkpoint, split="test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "checkpoint_scores", lambda _: iter([line]))
        assert list(program.evaluate(options)) == [line]


def test_a_run_without_these_loggers_gets_none_by_its_evaluation(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"wandb": {"artifacts": False}, "tensorboard": False}), encoding="utf-8"
    )
    torch.save({"class_path": "", "global_step": 5}, tmp_path / "checkpoints/last.ckpt")
    evaluated(tmp_path / "checkpoints/last.ckpt")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["checkpoints", "config.yaml", "evaluation.csv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--wandb", "ring"], "--wandb ring: give one of --wandb.artifacts, --wandb.group, "),
        (["--wandb.tags", "ring"], "--wandb.tags must be a list without spaces"),
        (["--wandb.project", "a/b"], "--wandb.project a/b: the name of a project has none of / "),
        (["--fid.count", "9"], "--fid.count 9: FID and other feature distances need images, and"),
        (["--wandb.group", "a"], "--wandb.group needs W&B; add --wandb.project NAME"),
        (["--gradient_histograms"], "--gradient_histograms needs a logger; add --tensorboard"),
    ],
)
def test_options_that_do_not_fit_are_named(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["fit", "--config", "configs/gan/ring.yaml", "--run_dir", str(tmp_path / "run")]
    assert train.main([*argv, *options]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_wandb_never_asks_for_a_login(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match="needs an API key; run `wandb login`"):
        wandb_mode()
    (tmp_path / "netrc").write_text(
        "machine api.wandb.ai login user password key\n", encoding="utf-8"
    )
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


def test_seeds_of_a_reproduction_form_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(words: list[str]) -> None:
        started.append(words)
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.training.TrainCLI", start)
    monkeypatch.setattr(reproduction, "RUNS", tmp_path)
    for seed in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            reproduction.reproduce("vae-mnist-nll", [seed], "mine")
    group = ["--wandb.project", "mine", "--wandb.group", "reproduce/vae-mnist-nll"]
    assert [words[-4:] for words in started] == [group, group]


def test_logged_updates_are_those_of_one_run(tmp_path: Path) -> None:
    record = tmp_path / "logged.json"
    assert last_updates(record, "a") == {}
    record.write_text('{"a": {"x": 20, "y": 10}}', encoding="utf-8")
    assert last_updates(record, "a") == {"x": 20, "y": 10}
    assert last_updates(record, "b") == {}


def test_histograms_count_every_element() -> None:
    values = [torch.linspace(-1, 1, 64), torch.zeros(2, 3), torch.tensor([1.0, float("nan")])]
    (spread, edges), (zeros, _), (broken, _) = histograms(values)
    assert spread.tolist() == [2] * BINS
    assert (edges[0], edges[-1]) == (-1, 1)
    assert zeros.sum() == 6
    assert broken.sum() == 0


def test_settings_that_differ_between_parameter_groups_are_lists() -> None:
    layers = [torch.nn.Linear(2, 2) for _ in range(2)]
    groups = [
        {"params": layers[0].parameters(), "lr": 0.1, "weight_decay": 0.0},
        {"params": layers[1].parameters(), "lr": 0.2, "weight_decay": 0.0},
    ]
    trainer = argparse.Namespace(optimizers=[torch.optim.AdamW(groups, betas=(0.5, 0.9))])
    found = optimizer_settings(trainer, torch.nn.Module())  # type: ignore[arg-type]
    assert (found["class"], found["lr"], found["weight_decay"]) == ("AdamW", [0.1, 0.2], 0.0)
    assert (found["beta1"], found["beta2"], found["eps"]) == (0.5, 0.9, 1e-8)


def test_names_of_runs_and_recipes() -> None:
    assert run_name(Path("/a/runs/vae/mnist/today")) == "vae/mnist/today"
    assert run_name(Path("/a/mine")) == "mine"
    assert recipe([str(ROOT / "configs/vae/mnist.yaml"), "/a/big.yaml"]) == "vae/mnist+big"
    assert markdown_cell("a\nb|c") == "a<br>b\\|c"
