"""Training in two gloo processes equals training in one process on the joined batch."""

import csv
import os
import shutil
import time
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from callbacks.fid import FID
from callbacks.gradient_histograms import GradientHistograms
from callbacks.previews import Previews
from cli.trainer_options import remove_rank_zero_callbacks
from common.errors import UserError
from lightning_modules.core.checkpoints import load, read_checkpoint
from lightning_modules.core.sharding import FullySharded
from tests.parallel import Witness
from tests.ranks import fork, train

# SGD, since Adam's first steps turn rounding errors of tiny gradients into full steps.
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.5}}
CONFIG = {
    "model": {
        "class_path": "tests.parallel.IndexNoiseGAN",
        "init_args": {
            "hidden": [24],
            "latent_dim": 6,
            "loss": "hinge",
            "ema_decay": 0.9,
            "generator_clip": 0.1,
            "n_critic": 2,
            "generator_optimizer": SGD,
            "discriminator_optimizer": SGD,
        },
    },
    "data": {
        "class_path": "datamodules.images.ring.Ring",
        "init_args": {"max_samples": 128, "eval_batch_size": 200},
    },
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
        "limit_val_batches": 1,
    },
}


DVAE = {
    "image_shape": [3, 16, 16],
    "codebook_size": 16,
    "token_width": 8,
    "width": 8,
    "downsamplings": 2,
    "blocks": 1,
}


def fit(folder: Path, config: dict[str, Any], *options: str) -> list[dict[str, Any]]:
    """Train in new processes and return the `Witness` records of all ranks in the second epoch.

    The environment of the forks is that of torchrun. Launching by Lightning is tested in
    tests/test_cli.py.
    """
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    witness = [
        "--trainer.callbacks+=tests.parallel.Witness",
        "--trainer.callbacks.folder",
        str(folder / "seen"),
    ]
    argv = ["fit", "--config", str(folder / "config.yaml"), *witness, *options]
    devices = int(options[options.index("--trainer.devices") + 1])
    argv += ["--run_dir", str(folder / "run")]
    fork(train, argv, count=devices, log=folder / "log")
    return [
        torch.load(path, weights_only=True)
        for path in sorted((folder / "seen").glob("rank*-epoch1.pt"))
    ]


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the Euclidean distance of two sets of weights."""
    assert one.keys() == other.keys()
    gaps = [(value.double() - other[name].double()).square().sum() for name, value in one.items()]
    return float(torch.stack(gaps).sum().sqrt())


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Records of two processes, with two batches of 8 per update each."""
    options = ["--trainer.devices", "2", "--data.batch_size", "8", "--model.accumulate", "2"]
    return fit(tmp_path_factory.mktemp("two") / "run", CONFIG, *options)


def test_ranks_hold_the_same_and_draw_different_noise(ranks: list[dict[str, Any]]) -> None:
    assert len(ranks) == 2
    assert ranks[0]["process"] != ranks[1]["process"]
    for name, value in ranks[0]["state"].items():
        assert torch.equal(value, ranks[1]["state"][name]), name
    for one, other in zip(ranks[0]["noise"], ranks[1]["noise"]):
        assert not torch.equal(one, other)


def test_two_ranks_and_accumulation_equal_the_joined_batch(
    ranks: list[dict[str, Any]], tmp_path: Path
) -> None:
    (one,) = fit(tmp_path / "one", CONFIG, "--trainer.devices", "1", "--data.batch_size", "32")
    for name, value in one["state"].items():
        torch.testing.assert_close(value, ranks[0]["state"][name], atol=1e-6, rtol=0, msg=name)


def test_gradients_are_exchanged_once_per_update(ranks: list[dict[str, Any]]) -> None:
    """Of two accumulated batches, only the second exchanges gradients.

    It averages the gradients of the discriminator once and, in every second update (`n_critic`),
    those of the generator once.
    """
    assert ranks[0]["exchanges"] == ranks[1]["exchanges"]
    pairs = [
        tuple(ranks[0]["exchanges"][i : i + 2]) for i in range(0, len(ranks[0]["exchanges"]), 2)
    ]
    assert {first for first, _ in pairs} == {0}
    later = [second for _, second in pairs]
    assert set(later[0::2]) != {0}
    assert set(later[1::2]) == {2 * later[0]}, later


def test_batch_norm_statistics_are_averaged(tmp_path: Path) -> None:
    """Trained networks average statistics over ranks; the averaged generator uses rank 0's.

    With constant weights, the mean of the first layer is that of one process with the joined batch.
    """
    still = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
    init = {"hidden": [16, 16], "latent_dim": 4, "ema_decay": 0.9}
    init |= {"generator_optimizer": still, "discriminator_optimizer": still}
    config = {**CONFIG, "model": {**CONFIG["model"], "init_args": init}}
    one, other = fit(tmp_path / "two", config, "--trainer.devices", "2", "--data.batch_size", "16")
    (joined,) = fit(tmp_path / "one", config, "--trainer.devices", "1", "--data.batch_size", "32")
    first = next(name for name in joined["state"] if name.endswith("running_mean"))
    assert first.startswith("generator.")
    mean = joined["state"][first]
    assert mean.abs().max() > 0.01
    torch.testing.assert_close(one["state"][first], mean, atol=1e-6, rtol=1e-5)
    kinds = {name.partition(".")[0] for name in one["state"] if "running" in name}
    assert kinds == {"generator", "ema"}
    for name, value in one["state"].items():
        assert torch.equal(value, other["state"][name]), name


def test_a_validation_exchanges_buffers_once(tmp_path: Path) -> None:
    """DDP would exchange those of batch norm before each batch, and wait for ranks without one."""
    config = {
        "model": {
            "class_path": "lightning_modules.vae.VAE",
            "init_args": {"network": "conv", "hidden": [8, 8], "latent_dim": 4},
        },
        "data": {
            "class_path": "datamodules.images.openmoji.OpenMoji",
            "init_args": {"size": 16, "max_samples": 32, "batch_size": 8, "eval_batch_size": 1},
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "limit_val_batches": 3},
    }
    check = ["--trainer.callbacks+=tests.parallel.SharedBuffers"]
    fit(tmp_path / "two", config, "--trainer.devices", "2", *check)


def test_fid_over_ranks_equals_that_of_one_process(tmp_path: Path) -> None:
    """FID is equal when ranks share the samples; the generator is frozen to compare both runs."""
    still = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
    config = {
        "model": {
            "class_path": "lightning_modules.gan.GAN",
            "init_args": {
                "hidden": [24],
                "latent_dim": 6,
                "generator_optimizer": still,
                "discriminator_optimizer": still,
            },
        },
        "data": {
            "class_path": "datamodules.images.openmoji.OpenMoji",
            "init_args": {"size": 16, "max_samples": 160, "batch_size": 16},
        },
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "limit_train_batches": 1,
            "limit_val_batches": 1,
        },
        "fid": {"count": 33},
    }
    values = []
    for devices in ("1", "2"):
        fit(tmp_path / devices, config, "--trainer.devices", devices)
        header, *rows = [
            row.split(",")
            for row in (tmp_path / devices / "run/metrics.csv")
            .read_text(encoding="utf-8")
            .splitlines()
        ]
        values.append(
            [
                float(row[header.index("val/classifier-fid")])
                for row in rows
                if row[header.index("val/classifier-fid")]
            ]
        )
    assert len(values[0]) == 2
    assert values[1] == pytest.approx(values[0], rel=1e-6)


@pytest.mark.parametrize("system", ["PlainVQ", "PlainCLIP"])
def test_codebooks_and_negatives_are_those_of_all_ranks(system: str, tmp_path: Path) -> None:
    """Two ranks update the codebook and choose negatives as one process with the joined batch."""
    made = {
        "PlainVQ": {
            "quantiser": "vq",
            "codebook_size": 32,
            "token_width": 8,
            "width": 8,
            "downsamplings": 2,
            "blocks": 1,
        },
        "PlainCLIP": {
            "channels": 8,
            "layers": 1,
            "width": 16,
            "features": 8,
            "dropout": 0.0,
        },
    }
    config = {
        "model": {"class_path": f"tests.parallel.{system}", "init_args": made[system]},
        "data": {
            "class_path": "datamodules.captions.openmoji.CaptionedEmoji",
            "init_args": {"size": 16, "max_samples": 64, "text_length": 24},
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "limit_val_batches": 1},
    }
    one, other = fit(tmp_path / "two", config, "--trainer.devices", "2", "--data.batch_size", "8")
    (joined,) = fit(tmp_path / "one", config, "--trainer.devices", "1", "--data.batch_size", "16")
    before = torch.load(tmp_path / "one/seen/rank0-epoch0.pt", weights_only=True)["state"]
    for name, value in one["state"].items():
        assert torch.equal(value, other["state"][name]), name
    moved = distance(joined["state"], before)
    assert moved > 0
    assert distance(one["state"], joined["state"]) < 1e-3 * moved


def test_images_are_encoded_by_all_ranks(tmp_path: Path) -> None:
    """Each rank encodes a part of the images; all train on the same image tokens."""
    config = {
        "model": {
            "class_path": "tests.parallel.PlainDALLE",
            "init_args": {
                "dvae": DVAE,
                "layers": 1,
                "heads": 2,
                "width": 16,
                "dropout": 0.0,
                "caption_dropout": 0.0,
            },
        },
        "data": {
            "class_path": "datamodules.captions.openmoji.CaptionedEmoji",
            "init_args": {
                "size": 16,
                "max_samples": 65,
                "text_length": 24,
                "captions_only": True,
            },
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    }
    (joined,) = fit(tmp_path / "1", config, "--trainer.devices", "1", "--data.batch_size", "32")
    one, other = fit(tmp_path / "2", config, "--trainer.devices", "2", "--data.batch_size", "16")
    for name, value in one["state"].items():
        assert torch.equal(value, other["state"][name]), name
    before = torch.load(tmp_path / "1/seen/rank0-epoch0.pt", weights_only=True)["state"]
    moved = distance(joined["state"], before)
    assert moved > 1e-2
    assert distance(one["state"], joined["state"]) < 1e-3 * moved
    nll = []
    for devices in ("1", "2"):
        with open(tmp_path / devices / "run/metrics.csv", encoding="utf-8") as file:
            nll.append([float(row["val/nll"]) for row in csv.DictReader(file) if row["val/nll"]])
    assert len(nll[0]) == 2
    assert nll[1] == pytest.approx(nll[0], rel=1e-4)


def test_a_global_batch_is_the_same_on_any_number_of_processes(tmp_path: Path) -> None:
    """Two processes train windows of a text, and one or four processes go on with the next."""
    config = {
        "model": {
            "class_path": "tests.parallel.PlainGPT",
            "init_args": {"layers": 1, "heads": 2, "width": 16, "context": 16, "dropout": 0.0},
        },
        "data": {
            "class_path": "datamodules.text.corpora.PythonDocs",
            "init_args": {"context": 16, "max_samples": 100, "global_batch_size": 12},
        },
        "trainer": {"max_steps": 12, "accelerator": "cpu", "limit_val_batches": 0},
    }

    def samples(ranks: list[dict[str, Any]]) -> list[list[int]]:
        """Sorted sample indices of each update on all ranks together."""
        return [sorted(chain(*parts)) for parts in zip(*(rank["samples"] for rank in ranks))]

    (whole,) = fit(tmp_path / "whole", config, "--trainer.devices", "1")
    fit(tmp_path / "two", config, "--trainer.devices", "2", "--trainer.max_steps", "11")
    for devices in ("1", "4"):
        folder = tmp_path / devices
        shutil.copytree(tmp_path / "two", folder)
        argv = ["fit", "--run_dir", str(folder / "run"), "--ckpt_path", "last"]
        argv += ["--trainer.devices", devices, "--trainer.max_steps", "12"]
        argv += ["--trainer.callbacks+=tests.parallel.Witness"]
        argv += ["--trainer.callbacks.folder", str(folder / "resumed")]
        fork(train, argv, count=int(devices), log=folder / "log")
        ranks = [
            torch.load(path, weights_only=True)
            for path in sorted((folder / "resumed").glob("rank*-epoch1.pt"))
        ]
        assert samples(ranks) == samples([whole])[-1:]
        for name, value in whole["state"].items():
            torch.testing.assert_close(value, ranks[0]["state"][name], atol=1e-6, rtol=0, msg=name)


GPT = {
    "model": {
        "class_path": "lightning_modules.gpt.GPT",
        "init_args": {
            **{"layers": 2, "heads": 2, "width": 16, "context": 16, "dropout": 0.1},
            **{"learning_rate": 2e-2, "warmup_steps": 10},
        },
    },
    "data": {
        "class_path": "datamodules.text.corpora.PythonDocs",
        "init_args": {"context": 16, "max_samples": 48, "global_batch_size": 12},
    },
    "trainer": {"max_epochs": 2, "limit_val_batches": 1, "gradient_clip_val": 0.1},
}
# Weights are compared after SGD: Adam would turn rounding errors of tiny gradients into full steps.
ACCUMULATED = {
    **GPT,
    "model": {**GPT["model"], "class_path": "tests.parallel.PlainGPT"},
    "trainer": {**GPT["trainer"], "accumulate_grad_batches": 2},
}
TRANSFORMER = {
    "model": {
        "class_path": "tests.parallel.PlainTransformer",
        "init_args": {"layers": 1, "heads": 2, "width": 16, "hidden": 16, "average_every": 1},
    },
    "data": {
        "class_path": "datamodules.parallel.openmoji.EmojiTranslation",
        "init_args": {"vocab_size": 300, "batch_tokens": 512, "max_samples": 80},
    },
    "trainer": {"max_epochs": 2, "limit_val_batches": 1},
}
DALLE_CONFIG = {
    "model": {
        "class_path": "tests.parallel.PlainDALLE",
        "init_args": {
            "dvae": DVAE,
            "layers": 1,
            "heads": 2,
            "width": 16,
        },
    },
    "data": {
        "class_path": "datamodules.captions.openmoji.CaptionedEmoji",
        "init_args": {"size": 16, "max_samples": 64, "text_length": 24, "global_batch_size": 32},
    },
    "trainer": {"max_epochs": 2, "limit_val_batches": 1},
}


def last_checkpoint(
    folder: Path, config: dict[str, Any], strategy: str, *options: str
) -> dict[str, Any]:
    """Train or resume in two processes and return the last checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    argv = ["fit", "--config", str(folder / "config.yaml"), "--run_dir", str(folder / "run")]
    argv += ["--trainer.strategy", strategy, "--trainer.accelerator", "cpu"]
    argv += ["--trainer.devices", "2", "--seed_everything", "0", *options]
    fork(train, argv, count=2, log=folder / "log")
    return read_checkpoint(folder / "run/checkpoints/last.ckpt")


STRATEGIES = ("ddp", "fsdp2_recompute")


@pytest.mark.parametrize(
    "config", [ACCUMULATED, TRANSFORMER, DALLE_CONFIG], ids=["gpt", "nmt", "dalle"]
)
def test_sharded_weights_are_trained_as_whole_ones(config: dict[str, Any], tmp_path: Path) -> None:
    """The GPT accumulates two batches, of which only the second exchanges gradients."""
    check = ["--trainer.callbacks+=tests.parallel.OneExchange"] if config is ACCUMULATED else []
    record = ["--trainer.callbacks+=tests.parallel.Witness"]
    record += ["--trainer.callbacks.folder", str(tmp_path / "seen")]
    options = {"ddp": record, "fsdp2_recompute": check}
    whole, sharded = (
        last_checkpoint(tmp_path / name, config, name, *options[name]) for name in STRATEGIES
    )
    assert sharded["class_path"] == config["model"]["class_path"]
    assert list(sharded["state_dict"]) == list(whole["state_dict"])
    rows = [
        (tmp_path / name / "run/metrics.csv").read_text(encoding="utf-8").split()
        for name in STRATEGIES
    ]
    assert "val/" in rows[0][0]
    for one, other in zip(*rows, strict=True):
        for value, expected in zip(one.split(","), other.split(","), strict=True):
            assert value == expected or float(value) == pytest.approx(float(expected), rel=1e-4)
    before = torch.load(tmp_path / "seen/rank0-epoch0.pt", weights_only=True)["state"]
    moved = distance(whole["state_dict"], before)
    assert moved > 1e-2
    assert distance(sharded["state_dict"], whole["state_dict"]) < 1e-4 * moved


def test_a_checkpoint_without_its_shards_is_refused(tmp_path: Path) -> None:
    torch.save({"class_path": "x.X", "shards": ["1", 2]}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"shards .*last.shards/1 are missing; copy them with"):
        read_checkpoint(tmp_path / "last.ckpt")


class Trap:
    """Create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_shards_run_no_code_and_lie_beside_their_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "last.shards/1"
    folder.mkdir(parents=True)
    torch.save({"state_dict": Trap(tmp_path / "trap")}, folder / "rank0.pt")
    for name, message in (("1", "would run code"), ("../last.shards/1", "are missing")):
        torch.save({"class_path": "x.X", "shards": [name, 1]}, tmp_path / "last.ckpt")
        with pytest.raises(UserError, match=message):
            read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "trap").exists()


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of an uninterrupted run of two processes with sharded weights."""
    found: dict[str, torch.Tensor]
    found = last_checkpoint(tmp_path_factory.mktemp("through"), GPT, "fsdp2")["state_dict"]
    return found


@pytest.mark.parametrize("shards", [False, True])
def test_a_sharded_run_resumes_sharded_and_on_one_process(
    shards: bool, through: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Its checkpoints are whole, or each process writes its shards."""
    sharded = (f"{FullySharded.__module__}.FullySharded", "--trainer.strategy.sharded_checkpoints")
    strategy = (*sharded, "true") if shards else ("fsdp2",)
    half = last_checkpoint(tmp_path / "half", GPT, *strategy, "--trainer.max_steps", "5")
    half = half["state_dict"]
    moved = distance(half, through)
    content = torch.load(tmp_path / "half/run/checkpoints/last.ckpt", weights_only=True)
    assert ("state_dict" in content) == (not shards)
    folders = list((tmp_path / "half/run/checkpoints").glob("last.shards/*"))
    assert len(folders) == shards
    if shards:  # four processes, with whole checkpoints from then on
        shutil.copytree(tmp_path / "half", tmp_path / "four")
        argv = ["fit", "--run_dir", str(tmp_path / "four/run"), "--ckpt_path", "last"]
        argv += ["--trainer.max_steps", "8", "--trainer.devices", "4"]
        argv += ["--trainer.strategy.sharded_checkpoints", "false"]
        fork(train, argv, count=4, log=tmp_path / "four/log")
        assert not (tmp_path / "four/run/checkpoints/last.shards").exists()
        four = read_checkpoint(tmp_path / "four/run/checkpoints/last.ckpt")
        assert four["global_step"] == 8
        # dropout has other random numbers
        assert 0 < distance(four["state_dict"], through) < 0.5 * moved
    shutil.copytree(tmp_path / "half", tmp_path / "one")
    more = ("--ckpt_path", "last", "--trainer.max_steps", "8")
    resumed = last_checkpoint(tmp_path / "half", GPT, *strategy, *more)["state_dict"]
    for name, value in through.items():
        assert torch.equal(value, resumed[name]), name
    argv = ["fit", "--run_dir", str(tmp_path / "one/run"), *more]
    argv += ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    fork(train, argv, count=1, log=tmp_path / "one/log")
    path = tmp_path / "one/run/checkpoints/last.ckpt"
    alone = torch.load(path, weights_only=True)
    assert alone["global_step"] == 8
    assert 0 < distance(alone["state_dict"], through) < 0.5 * moved
    model = load(path)
    assert len(model.sample([0, 1], max_new_tokens=4)) == 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"class_path": "lightning_modules.rnn_lm.RNNLM"},
            "RNNLM has no Transformer blocks; use ddp",
        ),
        (
            {**GPT["model"], "init_args": {"context": 16, "optimizer": "muon"}},
            "cannot train with Muon",
        ),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    model: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=message):
        last_checkpoint(tmp_path, {**GPT, "model": model}, "fsdp2")


@pytest.mark.parametrize(
    ("callback", "option"),
    [(FID(count=8), "--fid.count"), (GradientHistograms(), "--gradient_histograms")],
)
def test_callbacks_of_rank_zero_are_refused_with_shards(callback: Any, option: str) -> None:
    trainer: Any = SimpleNamespace(strategy=FullySharded(), callbacks=[callback])
    with pytest.raises(UserError, match=f"{option} is not supported with --trainer.strategy fsdp2"):
        remove_rank_zero_callbacks(trainer)


def test_previews_are_left_out_with_shards(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Witness("seen")
    trainer: Any = SimpleNamespace(
        strategy=FullySharded(), callbacks=[Previews(), kept], is_global_zero=True
    )
    remove_rank_zero_callbacks(trainer)
    assert trainer.callbacks == [kept]
    assert "note: no previews and attention maps are drawn" in capsys.readouterr().err


def test_a_signal_to_one_process_stops_all(tmp_path: Path) -> None:
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step", "3"]
    stop += ["--trainer.callbacks.rank", "1", "--data.batch_size", "16"]
    with pytest.raises(AssertionError, match=r"exit codes .*143"):
        fit(tmp_path / "two", CONFIG, "--trainer.devices", "2", *stop)
    last = torch.load(tmp_path / "two/run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 3


def end(codes: list[int | None]) -> int:
    """Return the exit code of this rank, or wait for ten minutes (None)."""
    code = codes[int(os.environ["LOCAL_RANK"])]
    print("this rank", "waits" if code is None else "ends")
    if code is None:
        time.sleep(600)
    if code == 9:
        raise RuntimeError("a fault")
    return code or 0


@pytest.mark.parametrize(
    ("codes", "seconds", "message"),
    [
        ([None, 3], 60, r"exit codes \[-9, 3\]\nrank0.txt: .*rank1.txt: this rank ends"),
        ([9, None], 60, r"exit codes \[1, -9\]\nrank0.txt: .*RuntimeError: a fault"),
        ([0, None], 1, r"not done in 1 s\nrank0.txt: this rank ends"),
    ],
)
def test_forks_that_fail_or_hang_are_an_error_and_end(
    codes: list[int | None], seconds: float, message: str, tmp_path: Path
) -> None:
    """A failed or hanging rank ends the others within the limit; new forks work afterwards."""
    begin = time.monotonic()
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        fork(end, codes, count=2, log=tmp_path, seconds=seconds)
    assert time.monotonic() - begin < 60
    fork(end, [0, 0], count=2, log=tmp_path / "next")
