"""Runs of translation systems: ranks, averaged weights, translations and error messages."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Trainer

import evaluate
import sample
import train
from cli.data import data_module
from datamodules.parallel.openmoji import EmojiTranslation
from lightning_modules import load
from lightning_modules.decoding.beam_search import BeamSearchConfig
from tests.parallel import PlainTransformer
from tests.runs import run_differences, tiny_config
from tests.test_errors import call
from tests.test_parallel import fit

SIZES: dict[str, Any] = {"layers": 1, "heads": 2, "width": 48, "hidden": 96, "dropout": 0.0}
DATA: dict[str, Any] = {"vocab_size": 600, "lower": True, "max_length": 64}
PAIRS = 64  # size of the training split


@pytest.fixture(scope="module")
def d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a run of 150 updates, and corpora with one mistake each."""
    folder = tmp_path_factory.mktemp("seq2seq")
    config = tiny_config(folder / "tiny.yaml", "transformer", **DATA, max_samples=600)
    argv = [
        "fit",
        "--config",
        str(config),
        "--run_dir",
        str(folder / "run"),
        "--trainer.max_steps",
        "150",
    ]
    argv += ["--trainer.max_epochs", "-1", "--trainer.limit_val_batches", "0"]
    learns = {**SIZES, "scale": 0.25, "average_every": 5}
    assert (
        train.main(
            [
                *argv,
                *(
                    word
                    for name, value in learns.items()
                    for word in (f"--model.{name}", str(value))
                ),
            ]
        )
        == 0
    )
    corpora = {
        "good": {},
        "uneven": {"train.en": "A\n" * 19},
        "empty": {"train.de": "a\n" * 4 + "\n" + "a\n" * 15},
        "long": {"train.en": "A\n" * 7 + "A" * 100_000 + "\n" + "A\n" * 12},
        "lone": {"test.de": "a\n"},
    }
    for name, files in corpora.items():
        (folder / name).mkdir()
        for file, text in {"train.de": "a\n" * 20, "train.en": "A\n" * 20, **files}.items():
            (folder / name / file).write_text(text, encoding="utf-8")
    data = {
        "folder": str(folder / "good"),
        "source": "de",
        "target": "en",
        "tokenizer": "byte",
        "root": str(folder / "data"),
    }
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    content["data"] = {"class_path": "datamodules.parallel.files.ParallelFiles", "init_args": data}
    (folder / "files.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def checkpoint(d: Path) -> str:
    return str(d / "run/checkpoints/last.ckpt")


# Ranks and accumulation


def first(run: Path, name: str) -> float:
    """Value of a metric in a run's first validation."""
    with open(run / "metrics.csv", encoding="utf-8") as file:
        return next(float(row[name]) for row in csv.DictReader(file) if row[name])


def test_ranks_train_and_translate_the_same(checkpoint: str, tmp_path: Path) -> None:
    """Two ranks with half batches equal one process: weights, order of the pairs and metrics."""
    config = {
        "model": {"class_path": "tests.parallel.PlainTransformer", "init_args": SIZES},
        "data": {
            "class_path": "datamodules.parallel.openmoji.EmojiTranslation",
            "init_args": {**DATA, "max_samples": PAIRS, "eval_batch_tokens": 1024},
        },
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "accumulate_grad_batches": 2,
        },
    }
    begin = ["--init_from", checkpoint]
    (joined,) = fit(
        tmp_path / "one", config, *begin, "--trainer.devices", "1", "--data.batch_tokens", "256"
    )
    ranks = fit(
        tmp_path / "two", config, *begin, "--trainer.devices", "2", "--data.batch_tokens", "128"
    )

    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert not torch.equal(
        before["network.embedding.weight"], joined["state"]["network.embedding.weight"]
    )
    for name, value in ranks[0]["state"].items():
        assert torch.equal(value, ranks[1]["state"][name]), name
        torch.testing.assert_close(value, joined["state"][name], atol=1e-6, rtol=0, msg=name)

    batches = len(joined["samples"]) // 2
    assert batches > 2
    for epoch in (slice(batches), slice(batches, None)):
        seen = [number for rank in ranks for batch in rank["samples"][epoch] for number in batch]
        assert sorted(seen) == list(range(PAIRS))
    for whole, *parts in zip(joined["samples"], *(rank["samples"] for rank in ranks)):
        assert set(whole) == set(parts[0]) | set(parts[1])

    for name in ("val/bleu", "val/exact", "val/nll"):
        one, two = (first(tmp_path / folder / "run", name) for folder in ("one", "two"))
        assert two == pytest.approx(one, rel=1e-5)
        assert one > 1 or name == "val/exact"


def test_an_update_is_a_mean_over_the_targets_of_all_its_batches() -> None:
    """Two accumulated batches of unequal size have the gradient of the joined batch."""
    data = EmojiTranslation(**DATA, batch_tokens=64, max_samples=PAIRS)
    model = PlainTransformer(
        data.data_spec["source_vocab_size"], data.data_spec["vocab_size"], **SIZES
    )
    off = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        accelerator="cpu", max_steps=1, accumulate_grad_batches=2, limit_val_batches=0, **off
    )
    trainer.fit(model, datamodule=data)
    both = list(itertools.islice(data.loader("train", shuffle=True), 2))
    assert both[0]["num_targets"] != both[1]["num_targets"]
    joined = data.batch("train", [number for batch in both for number in batch["index"].tolist()])
    loss = model.train().loss(joined)["loss"]
    gradients = torch.autograd.grad(loss, list(model.network.parameters()))
    for (name, p), gradient in zip(model.network.named_parameters(), gradients):
        torch.testing.assert_close(p.grad, gradient, atol=1e-6, rtol=1e-5, msg=name)


# Averages of weights


def test_the_last_checkpoint_has_the_average(checkpoint: str) -> None:
    """The last checkpoint contains the average even without a final validation."""
    assert torch.load(checkpoint, weights_only=True)["state_dict"]["ema.updates"] == 2


def test_a_run_that_stops_where_it_averages_goes_on_with_the_average(
    d: Path, tmp_path: Path
) -> None:
    argv = [
        "fit",
        "--config",
        str(d / "tiny.yaml"),
        "--trainer.max_steps",
        "8",
        "--model.average_every",
        "4",
    ]
    argv += ["--trainer.limit_val_batches", "0"]
    assert train.main([*argv, "--run_dir", str(tmp_path / "straight")]) == 0
    argv += ["--run_dir", str(tmp_path / "stopped")]
    assert (
        train.main(
            [*argv, "--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step", "4"]
        )
        == 143
    )
    assert train.main([*argv, "--ckpt_path", "last"]) == 0
    assert run_differences(tmp_path / "straight", tmp_path / "stopped") == []


def test_another_runs_average_is_not_the_new_runs(checkpoint: str, d: Path, tmp_path: Path) -> None:
    """A run started with `--init_from` averages its own weights only."""
    argv = [
        "fit",
        "--config",
        str(d / "run/config.yaml"),
        "--run_dir",
        str(tmp_path / "run"),
        "--init_from",
        checkpoint,
    ]
    assert train.main([*argv, "--trainer.max_steps", "2", "--trainer.limit_val_batches", "0"]) == 0
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state["ema.updates"] == 1
    torch.testing.assert_close(
        state["ema.networks.network.embedding.weight"], state["network.embedding.weight"]
    )


# Translations


def test_a_checkpoint_translates_its_test_split(
    checkpoint: str, d: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stdout has one translation per seed, in the order of the seeds."""
    assert (
        sample.main([checkpoint, "--seeds", "3,0-2", "--beam", "2", "--length_penalty", "1"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    sources, _ = data_module(d / "run/config.yaml").texts("test")
    search = BeamSearchConfig(beam=2, length_penalty=1.0)
    assert lines == load(checkpoint).translate([sources[number] for number in (3, 0, 1, 2)], search)
    assert all(lines)


def test_texts_are_translated_alone_and_in_order(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(checkpoint)
    texts = [
        "waving hand light skin tone",
        "",
        "cat",
        "Waving HAND light skin TONE",
        " \t",
        "woman",
        " cat\n",
    ]
    made = model.translate(texts)
    assert made[1] == made[4] == ""
    assert made[3] == made[0] != made[2] != "", "lower case, as in the corpus"
    assert made[6] == made[2], "stripped, as in the corpus"
    assert model.translate(texts[::-1]) == made[::-1]
    assert model.translate([]) == []
    for characters in (1, 60):
        monkeypatch.setattr("lightning_modules.core.translator.CHARACTERS", characters)
        assert model.translate(texts) == made


# Mistakes

FIT = "train fit --config {d}/tiny.yaml --run_dir {new}"
FILES = "train fit --config {d}/files.yaml --run_dir {new} --data.folder {d}/"
MISTAKES = {
    FILES + "uneven": ("train.de has 20 lines and", "train.en has 19", "look at line"),
    FILES + "empty": (
        "train.de line 5: the text is empty; complete the pair, or skip such pairs with "
        "--data.skip true",
    ),
    FILES + "long": (
        "train.en line 8: has 100001 tokens, more than data.max_length 256; "
        "raise data.max_length, or skip",
    ),
    FILES + "lone": ("test.en: there is no such file beside test.de; add it, or remove test.de",),
    FIT + " --data.target tlh": (
        "data.target tlh: emoji have no names in this language; give one of ar, de, en",
    ),
    FIT + " --data.shared_vocabulary false": (
        "model.shared is true, but sources and targets have separate vocabularies",
        "set data.shared_vocabulary to true, or model.shared to false",
    ),
    "sample {d}/run/checkpoints/last.ckpt --beam 0": ("--beam must be >0 (got 0)",),
    "sample {d}/run/checkpoints/last.ckpt --min_length 5 --max_length 4": (
        "--min_length 5 exceeds --max_length 4: give a larger --max_length",
    ),
}


@pytest.mark.parametrize("command", MISTAKES, ids=lambda command: command.rpartition("/")[2])
def test_a_mistake_is_one_line_with_a_remedy(
    command: str, d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = call(command, d, tmp_path / "new", capsys)
    assert code == 2, line
    for fragment in MISTAKES[command]:
        assert fragment in line


def test_averaged_and_trained_weights_are_scored_by_own_figures(
    d: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`evaluate.py` scores averaged and trained weights; `train.py test` scores the average."""
    checkpoint = str(d / "run/checkpoints/last.ckpt")
    capsys.readouterr()
    assert evaluate.main([checkpoint]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    nll = {line["weights"]: line for line in lines if line["metric"] == "nll"}
    assert nll["averaged"]["value"] != nll["trained"]["value"]
    assert nll["averaged"]["signature"].startswith("nll[unit=nats/token")
    assert evaluate.main([checkpoint, "--weights", "trained"]) == 0
    selected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert selected == [line for line in lines if line["weights"] == "trained"]
    config = ["--config", str(d / "run/config.yaml"), "--ckpt_path", checkpoint]
    assert train.main(["test", *config]) == 0
    assert f"test/nll {nll['averaged']['value']:.6g} " in capsys.readouterr().out
    assert evaluate.main([checkpoint, "--metrics", "fid"]) == 2
    assert "its own metrics on the test split; leave out --metrics" in capsys.readouterr().err


def test_trained_weights_translate_on_request(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, text = load(checkpoint), "woman astronaut medium-light skin tone"
    for option, averaged in ((), True), (("--ema",), True), (("--no-ema",), False):
        assert sample.main([checkpoint, "--input", text, *option]) == 0
        with model.averaged_weights(averaged):
            assert capsys.readouterr().out.splitlines() == model.translate([text])
