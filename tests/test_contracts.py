"""Contract of all recipes, found by discovery: new systems are tested without a new test."""

import importlib
import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

import sample
import train
from cli.recipes import purpose, recipes
from cli.reproduction import registry
from cli.training import TrainCLI
from common.errors import UserError
from common.files import ROOT
from datamodules.images.openmoji import OpenMoji
from datamodules.images.packing import shard_folder
from lightning_modules import load
from lightning_modules.core.module import GenerativeModule
from lightning_modules.vae import VAE
from tests.runs import run_differences
from tests.toy import TOY

NESTED = {
    "dvae": {"codebook_size": 16, "token_width": 8, "width": 8, "downsamplings": 2, "blocks": 1}
}  # systems nested in other systems
PARTS = ("train", "val", "test_2016_flickr")  # splits of Multi30k
RECIPES = [path.relative_to(ROOT).as_posix() for path in recipes()]


def class_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class Built(TrainCLI):
    """Command line that builds data and model, but does not run."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def build(config: str | Path, *more: str) -> tuple[Any, Any]:
    """Build data module and model as `train.py` does."""
    cli = Built(["fit", "--config", str(config), "--dry_run", *more])
    return cli.datamodule, cli.model


def inner(recipe: str) -> list[str]:
    """Options that replace the checkpoint of a nested system, absent from a fresh clone."""
    config = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    shape = {"image_shape": [3] + 2 * [config["data"]["init_args"].get("size")]}
    given = config["model"].get("init_args", {})
    return [
        word
        for name, made in NESTED.items()
        if name in given
        for word in (f"--model.{name}", json.dumps({**made, **shape}))
    ]


def embedded(recipe: str) -> bool:
    """Whether the data of a recipe come with its dependencies, without a download."""
    return class_of(
        yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))["data"]["class_path"]
    ).embedded


EMBEDDED = [recipe for recipe in RECIPES if embedded(recipe)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_parses_and_builds(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A recipe has a header, parses, and builds its model from plain values and the data spec."""
    assert purpose(ROOT / recipe), "the first line is a comment with the recipe's purpose"
    assert train.main(["fit", "--config", recipe, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    own, arguments = [], config["data"]["init_args"]
    texts = re.match(r"datamodules\.(parallel|text)\.", config["data"]["class_path"])
    if "folder" in arguments and not texts:  # the user's own images, in one folder or two domains
        for number in range(10):
            for place in ("", "trainA", "trainB"):
                (tmp_path / place).mkdir(exist_ok=True)
                Image.fromarray(np.full((128, 128, 3), number, np.uint8)).save(
                    tmp_path / place / f"{number}.png"
                )
        if "shards" in config["data"]["class_path"]:
            shard_folder(str(tmp_path), tmp_path / "shards", 10**4, skip_bad=False)
        own = ["--data.folder", str(tmp_path)]
    if texts and not embedded(recipe):  # the vocabulary is part of the data spec
        for name in (
            "tiny_shakespeare/input.txt",
            *(f"multi30k/{part}.{side}" for part in PARTS for side in ("de", "en")),
        ):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("First Citizen:\n" * 500, encoding="utf-8")
        places = {"path": "tiny_shakespeare", "folder": "multi30k"}
        placed = [
            word
            for key, place in places.items()
            if key in arguments
            for word in (f"--data.{key}", str(tmp_path / place))
        ]
        own = ["--data.root", str(tmp_path), *placed]
    if "captions" in config["data"]["class_path"] and not embedded(recipe):
        for number in range(30):
            (tmp_path / "pictures").mkdir(exist_ok=True)
            Image.fromarray(np.full((128, 128, 3), number, np.uint8)).save(
                tmp_path / f"pictures/{number}.png"
            )
            (tmp_path / f"pictures/{number}.txt").write_text(
                f"a grey of {number}\n", encoding="utf-8"
            )
        own = ["--data.path", str(tmp_path / "pictures")]
    data, model = build(recipe, *own, *inner(recipe))
    assert set(data.data_spec) <= set(data.provides)
    assert model.monitor is None or model.monitor[1] in ("min", "max")
    torch.save(dict(model.hparams), tmp_path / "hparams")
    assert torch.load(tmp_path / "hparams", weights_only=True) == dict(model.hparams), (
        "hyper-parameters are plain values"
    )


def narrow(recipe: str) -> list[str]:
    """Options that reduce a recipe's large images and networks."""
    config = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    size, width, latents = (
        config["data"]["init_args"].get("size", 0),
        config["model"].get("init_args", {}).get("width", 0),
        config["model"].get("init_args", {}).get("latent_dim", 0),
    )
    return [
        *(["--data.size", "32"] if size > 32 else []),
        # At 64 pixels, emoji are rasterised for the comparison of their images anyway.
        *(["--data.load_size", "64"] if "load_size" in config["data"]["init_args"] else []),
        *(["--data.size", "8"] if "/made/" in recipe else []),  # sampling takes one pass per pixel
        *(["--model.width", "8"] if width > 8 else []),
        *(["--model.latent_dim", "8"] if latents > 8 else []),  # each dimension has a histogram
    ]


@pytest.fixture(scope="module", params=EMBEDDED)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """Command line and directory of a tiny run of each embedded recipe."""
    run = tmp_path_factory.mktemp("run") / "straight"
    tokens = class_of(
        yaml.safe_load(Path(request.param).read_text(encoding="utf-8"))["data"]["class_path"]
    ).__module__.startswith("datamodules.parallel")
    small = (
        ["--data.batch_tokens", "64", "--data.max_length", "64"]
        if tokens
        else ["--data.batch_size", "8"]
    )
    small += [
        "--data.max_samples",
        "40",
        "--trainer.max_steps",
        "7",
        "--trainer.limit_val_batches",
        "1",
    ]
    often = [
        "--checkpoint.every_n_train_steps",
        "1",
        "--trainer.log_every_n_steps",
        "2",
        "--trainer.check_val_every_n_epoch",
        "1",
    ]
    argv = [
        "fit",
        "--config",
        request.param,
        *small,
        *often,
        *narrow(request.param),
        *inner(request.param),
    ]
    assert train.main([*argv, "--run_dir", str(run)]) == 0
    return argv, run


def test_run_leaves_the_promised_files(trained: tuple[list[str], Path]) -> None:
    _, run = trained
    for name in (
        "config.yaml",
        "run.yaml",
        "metrics.csv",
        "throughput.csv",
        "checkpoints/last.ckpt",
        "samples",
    ):
        assert (run / name).exists(), name
    pictures = {path.name.rpartition("-")[2] for path in (run / "samples").iterdir()}
    assert {"0000000.png", "0000007.png"} <= pictures or {
        "0000000.txt",
        "0000007.txt",
    } <= pictures, "previews before and after training"
    header = (run / "metrics.csv").read_text(encoding="utf-8").partition("\n")[0].split(",")
    unit = load(run / "checkpoints/last.ckpt").throughput_unit
    assert {"step", "train/lr", "train/grad_norm", f"train/{unit}_seen"} <= set(header)
    assert any(name.startswith("train/loss") for name in header)
    assert any(name.startswith("val/") for name in header)
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    provided = class_of(config["data"]["class_path"]).provides
    assert not set(provided) & config["model"]["init_args"].keys(), "the data spec is not saved"


def test_stopped_and_resumed_run_has_the_same_bits(trained: tuple[list[str], Path]) -> None:
    """A run stopped by SIGTERM in step 3 (exit code 143) resumes to bitwise equal results.

    It starts from the config.yaml that the uninterrupted run has saved.
    """
    _, run = trained
    other = run.parent / "resumed"
    argv = ["fit", "--config", str(run / "config.yaml")]
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step", "3"]
    assert train.main([*argv, "--run_dir", str(other), *stop]) == 143
    assert torch.load(other / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert train.main([*argv, "--run_dir", str(other), "--ckpt_path", "last"]) == 0
    assert run_differences(run, other) == []


def test_watching_changes_nothing(trained: tuple[list[str], Path]) -> None:
    """Final weights are bitwise equal without callbacks, loggers and validation."""
    _, run = trained
    data, model = build(run / "config.yaml")
    trainer = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["trainer"]
    clip = {name: value for name, value in trainer.items() if name.startswith("gradient_clip")}
    Trainer(
        accelerator="cpu", max_steps=7, **clip, logger=False, callbacks=[],
        enable_checkpointing=False, limit_val_batches=0, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
    ).fit(model, datamodule=data)  # fmt: skip
    watched = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, watched[name]), name


def test_the_test_split_is_measured(trained: tuple[list[str], Path]) -> None:
    """`train.py test` logs the values that the recipe's reproductions read, with signatures."""
    argv, run = trained
    read = {
        name
        for entry in registry().values()
        if entry["config"] == argv[2] and not {"evaluate", "function"} & entry.keys()
        for name in (entry["metric"], *entry.get("figures", []))
    }
    if type(load(run / "checkpoints/last.ckpt")).test_step is LightningModule.test_step:
        assert not read
        return
    few = [] if "--data.batch_tokens" in argv else ["--data.eval_batch_size", "4"]
    one = ["--trainer.limit_test_batches", "1", *few]
    tested = TrainCLI(["test", "--run_dir", str(run), "--ckpt_path", "last", *one])
    assert any(name.startswith("test/") for name in tested.trainer.callback_metrics)
    assert read <= tested.trainer.callback_metrics.keys() & tested.model.signatures.keys()


def test_checkpoint_samples(trained: tuple[list[str], Path], tmp_path: Path, capsys: Any) -> None:
    """Samples of a seed do not depend on other seeds; generator and modes are unchanged."""
    _, run = trained
    checkpoint = run / "checkpoints/last.ckpt"
    model = load(checkpoint)
    if type(model).sample is GenerativeModule.sample:
        return
    pictures = model.throughput_unit != "tokens"  # texts go to stdout
    for seeds, folder in (("3,5-6", "a"), ("6", "b")):
        out = ["--out", str(tmp_path / folder)] if pictures else []
        assert sample.main([str(checkpoint), "--seeds", seeds, *out]) == 0
    out = capsys.readouterr().out
    if not pictures:  # three texts, then one of the seeds alone
        takes_batch = "batch" in inspect.signature(model.sample).parameters
        data, _ = build(run / "config.yaml")
        given = [
            {"batch": data.batch("test", [seed])} if takes_batch else {} for seed in (3, 5, 6, 6)
        ]
        texts = [model.sample([seed], **more)[0] for seed, more in zip((3, 5, 6, 6), given)]
        assert out == "".join(f"{text}\n" for text in texts)
    else:
        # Kernels may depend on the batch size: equal to 1e-3 of the range, and to a grey level.
        takes_batch = "batch" in inspect.signature(model.sample).parameters
        data, _ = build(run / "config.yaml")
        together, alone = (
            model.sample(seeds, **({"batch": data.batch("test", seeds)} if takes_batch else {}))
            for seeds in ([3, 5, 6], [6])
        )
        torch.testing.assert_close(together[2:], alone, atol=2e-3, rtol=0)
        written = [
            np.asarray(Image.open(tmp_path / folder / "seed0006.png")).astype(int)
            for folder in ("a", "b")
        ]
        assert np.abs(written[0] - written[1]).max() <= 1
        assert str(tmp_path / "a/seed0003.png") in out
    data, _ = build(run / "config.yaml")
    model.train()
    before, modes = torch.get_rng_state(), [part.training for part in model.modules()]
    model.preview(data.batch("val", [0, 1]))
    assert torch.equal(before, torch.get_rng_state())
    assert [part.training for part in model.modules()] == modes


def test_adding_a_system_adds_two_files(tmp_path: Path, capsys: Any) -> None:
    """A module and a recipe suffice for the recipe list, training and sampling."""
    module, recipe = ROOT / "lightning_modules/toy_mean.py", ROOT / "configs/toy_mean/openmoji.yaml"
    recipe.parent.mkdir()
    try:
        module.write_text(
            TOY,
            encoding="utf-8",
        )
        recipe.write_text(
            "# A toy\nmodel:\n  class_path: lightning_modules.toy_mean.ToyMean\n"
            "data:\n  class_path: datamodules.images.openmoji.OpenMoji\n"
            "  init_args: {size: 16, batch_size: 8}\n"
            "trainer: {max_steps: 3}\n",
            encoding="utf-8",
        )
        importlib.invalidate_caches()
        assert train.main([]) == 0
        assert "configs/toy_mean/openmoji.yaml" in capsys.readouterr().out
        assert recipe in recipes()
        run = tmp_path / "run"
        assert (
            train.main(
                [
                    "fit",
                    "--config",
                    str(recipe),
                    "--run_dir",
                    str(run),
                    "--model.learning_rate",
                    "0.5",
                ]
            )
            == 0
        )
        assert (
            train.main(
                [
                    "fit",
                    "--model",
                    "ToyMean",
                    "--data",
                    "OpenMoji",
                    "--data.size",
                    "16",
                    "--dry_run",
                ]
            )
            == 0
        )
        assert (
            sample.main(
                [
                    str(run / "checkpoints/last.ckpt"),
                    "--shade",
                    "0.1",
                    "--num",
                    "1",
                    "--out",
                    str(tmp_path),
                ]
            )
            == 0
        )
        assert (tmp_path / "seed0000.png").exists()
    finally:
        module.unlink()
        shutil.rmtree(recipe.parent)


def test_a_system_may_override_training_step(tmp_path: Path) -> None:
    """An overridden `training_step` makes one update per step; other base features still work."""

    class Halved(VAE):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            return self.loss(batch)["loss"] / 2

    model = Halved(image_shape=[3, 16, 16], hidden=[8], latent_dim=2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    trainer.fit(model, datamodule=OpenMoji(size=16, batch_size=8, max_samples=40))
    assert trainer.global_step == 3
    assert trainer.callback_metrics["train/grad_norm"] > 0
    assert "train/loss" not in trainer.callback_metrics
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_of_fused_optimizers_are_clipped(
    precision: Any, algorithm: str, tmp_path: Path
) -> None:
    """One step of SGD at learning rate 1 changes the weights by the clipped gradient."""

    class Descent(VAE):
        def on_train_start(self) -> None:
            """Do not set the output bias to the mean image."""

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1.0, fused=True)

    torch.manual_seed(0)
    model = Descent(image_shape=[3, 16, 16], hidden=[8], latent_dim=2)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        gradient_clip_val=1e-2,
        gradient_clip_algorithm=algorithm,
        max_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    trainer.fit(model, datamodule=OpenMoji(size=16, batch_size=8, max_samples=40))
    moved = before - torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert trainer.callback_metrics["train/grad_norm"] > 1, "the norm before clipping"
    size = moved.norm() if algorithm == "norm" else moved.abs().max()
    torch.testing.assert_close(size, torch.tensor(1e-2), rtol=1e-3, atol=0)


def test_mistakes_of_a_new_system_are_named() -> None:
    """Errors for a missing `@sampling`, `save_hyperparameters()` and `init_ema()`."""
    with pytest.raises(TypeError, match=r"Undecorated\.sample needs the decorator @sampling"):

        class Undecorated(GenerativeModule):
            def sample(self, seeds: list[int], **options: Any) -> Tensor:
                return torch.zeros(len(seeds), 3, 8, 8)

    with pytest.raises(TypeError, match=r"Shown\.preview needs the decorator @sampling"):

        class Shown(GenerativeModule):
            def preview(self, batch: dict[str, Any]) -> dict[str, Any]:
                return {}

    class Unsaved(GenerativeModule):
        def __init__(self, width: int = 2) -> None:
            super().__init__()

    with pytest.raises(TypeError, match=r"Unsaved\.__init__ must call save_hyperparameters"):
        Unsaved().setup("fit")

    class Unaveraged(GenerativeModule):
        ema_modules = ("network",)

        def __init__(self, ema_decay: float = 0.9) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.network = torch.nn.Linear(1, 1)

    with pytest.raises(TypeError, match=r"Unaveraged\.__init__ must call init_ema"):
        Unaveraged().setup("fit")


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        ({"total": torch.zeros(()), "nll": torch.zeros(())}, "total, nll"),
        ({}, "an empty dictionary"),
        (torch.zeros(()), "a Tensor"),
        (None, "a NoneType"),
    ],
)
def test_a_loss_without_the_scalar_is_named(returned: Any, named: str) -> None:
    class Lossless(GenerativeModule):
        def loss(self, batch: dict[str, Any]) -> Any:
            return returned

    with pytest.raises(UserError, match=rf"Lossless\.loss returned no 'loss'; it returned {named}"):
        Lossless().training_step({}, 0)
