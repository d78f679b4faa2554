"""Command lines of the programs, as a user types them."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import train
from cli import reproduction, results
from cli.evaluation import options as evaluation_options
from cli.options import OptionParser, add_sample_options, sample_arguments, sample_parameters
from cli.recipes import recipes
from cli.trainer_options import supported_accelerator
from common.errors import UserError
from common.files import ROOT
from lightning_modules import load
from tests.runs import differences, run_differences, tiny_config


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_recipes_are_listed_without_importing_torch(arguments: list[str]) -> None:
    out = subprocess.run(
        [sys.executable, "-X", "importtime", "train.py", *arguments],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert "torch" not in out.stderr
    for path in recipes():
        assert path.relative_to(ROOT).as_posix() in out.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run of the VAE."""
    folder = tmp_path_factory.mktemp("cli")
    config = tiny_config(folder / "tiny.yaml", "vae")
    assert (
        train.main(
            [
                "fit",
                "--config",
                str(config),
                "--run_dir",
                str(folder / "run"),
                "--trainer.max_steps",
                "6",
            ]
        )
        == 0
    )
    return folder / "run"


def test_dry_run_says_what_would_happen_and_writes_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = run.parent / "tiny.yaml"
    argv = [
        "fit",
        "--config",
        str(config),
        "--run_dir",
        str(tmp_path / "new"),
        "--trainer.max_epochs",
        "2",
        "--dry_run",
    ]
    assert train.main([*argv, "--trainer.accumulate_grad_batches", "4"]) == 0
    out = capsys.readouterr().out
    assert "latent_dim: 4" in out
    assert "3,483 train, 478 val" in out
    assert "32 samples x 1 processes x 4 accumulated = 128" in out
    assert "27 per epoch, 54 in total" in out
    assert "encoder.0" in out
    assert "2x8x8x8" in out
    assert not (tmp_path / "new").exists()


def test_init_from_takes_what_fits_and_says_what_does_not(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, checkpoint = run.parent / "tiny.yaml", run / "checkpoints/last.ckpt"
    argv = [
        "fit",
        "--config",
        str(config),
        "--run_dir",
        str(tmp_path / "new"),
        "--init_from",
        str(checkpoint),
    ]
    assert train.main([*argv, "--model.latent_dim", "5", "--trainer.max_steps", "1"]) == 0
    said = capsys.readouterr().err
    assert "mismatched 3: encoder.7.weight, encoder.7.bias, decoder.0.weight" in said
    assert "missing 0" in said
    assert torch.load(tmp_path / "new/checkpoints/last.ckpt", weights_only=True)["global_step"] == 1


def test_validate_and_test_find_the_run_of_a_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = [
        "--config",
        str(run / "config.yaml"),
        "--ckpt_path",
        str(run / "checkpoints/last.ckpt"),
    ]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train.main(["test", *config, "--model.test_samples", "3"]) == 0
    assert "nll[k=3|pixels=bernoulli]" in capsys.readouterr().out, (
        "--ckpt_path does not undo --model.*"
    )
    assert train.main(["test", *config, "--fid.count", "20"]) == 2
    assert "test does not use --fid.count; leave it out" in capsys.readouterr().err
    assert train.main(["validate", *config]) == 0
    assert "val/loss" in capsys.readouterr().out
    (run / "evaluation.csv").unlink()  # the figures of `test`
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_load_gives_a_usable_system(run: Path) -> None:
    model = load(run / "checkpoints/last.ckpt")
    image = torch.rand(2, 3, 16, 16)
    assert model.embed(image).shape == (2, 4)
    assert model.reconstruct(image).shape == image.shape
    torch.testing.assert_close(model.sample([7]), model.sample([3, 7])[1:], atol=1e-5, rtol=0)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Two gloo ranks with half the batch each give the same weights and files as one process.

    The autoencoder is used without corruption and batch norm, which depend on the batch's split.
    """
    config = tiny_config(tmp_path / "tiny.yaml", "autoencoder", flip=False)
    common = [
        "fit",
        "--config",
        str(config),
        "--trainer.max_steps",
        "12",
        "--model.corruption",
        "none",
        "--trainer.limit_val_batches",
        "2",
    ]
    one = [
        *common,
        "--run_dir",
        str(tmp_path / "one"),
        "--data.batch_size",
        "32",
        "--trainer.devices",
        "1",
    ]
    two = [
        *common,
        "--run_dir",
        str(tmp_path / "two"),
        "--data.batch_size",
        "16",
        "--trainer.devices",
        "2",
        "--trainer.strategy",
        "ddp",
    ]
    assert train.main([*one, "--trainer.accelerator", "cpu"]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [sys.executable, "train.py", *two, "--trainer.accelerator", "cpu"],
        check=True,
        env=environment,
        capture_output=True,
    )
    states = [
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)
        for name in ("one", "two")
    ]
    for name, value in states[0]["state_dict"].items():
        torch.testing.assert_close(value, states[1]["state_dict"][name], atol=1e-6, rtol=1e-5)
    headers = [
        (tmp_path / name / "metrics.csv").read_text(encoding="utf-8").splitlines()
        for name in ("one", "two")
    ]
    assert headers[0][0] == headers[1][0]
    assert len(headers[0]) == len(headers[1])
    seen = [state["log_interval"]["seen"] for state in states]
    assert seen == [12 * 32, 12 * 32], "of all ranks"


@pytest.mark.parametrize("limit", ["5", "0.05"])
def test_short_epochs_are_resumed_where_they_were(limit: str, run: Path, tmp_path: Path) -> None:
    """A run that stopped at the end of a shortened epoch resumes with the next epoch."""
    argv = [
        "fit",
        "--config",
        str(run.parent / "tiny.yaml"),
        "--trainer.limit_train_batches",
        limit,
    ]
    argv += ["--trainer.limit_val_batches", "1", "--model.schedule", "constant"]
    assert (
        train.main([*argv, "--run_dir", str(tmp_path / "whole"), "--trainer.max_epochs", "3"]) == 0
    )
    assert (
        train.main([*argv, "--run_dir", str(tmp_path / "parts"), "--trainer.max_epochs", "1"]) == 0
    )
    assert (
        train.main(
            [
                *argv,
                "--run_dir",
                str(tmp_path / "parts"),
                "--trainer.max_epochs",
                "3",
                "--ckpt_path",
                "last",
            ]
        )
        == 0
    )
    assert run_differences(tmp_path / "whole", tmp_path / "parts") == []


def test_runs_without_validation_are_kept_too(run: Path, tmp_path: Path) -> None:
    """The checkpoint is saved every epoch, not only when training ends."""
    for name in ("train/0", "train/1"):
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(path)
    argv = [
        "fit",
        "--config",
        str(run.parent / "tiny.yaml"),
        "--data",
        "ImageFolder",
        "--data.folder",
        str(tmp_path / "pictures"),
    ]
    argv += [
        "--data.size",
        "16",
        "--data.batch_size",
        "2",
        "--run_dir",
        str(tmp_path / "run"),
        "--trainer.max_epochs",
        "3",
    ]
    witness = ["--trainer.callbacks", "tests.runs.TerminateAt", "--trainer.callbacks.step", "2"]
    assert train.main([*argv, *witness]) == 143
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_weights_of_another_run_keep_their_bias(run: Path, tmp_path: Path) -> None:
    argv = [
        "fit",
        "--config",
        str(run.parent / "tiny.yaml"),
        "--init_from",
        str(run / "checkpoints/last.ckpt"),
    ]
    argv += [
        "--run_dir",
        str(tmp_path / "run"),
        "--trainer.max_steps",
        "1",
        "--model.learning_rate",
        "1e-30",  # too small to move a weight
    ]
    assert train.main([*argv, "--trainer.limit_val_batches", "0"]) == 0
    states = [
        torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for path in (run, tmp_path / "run")
    ]
    assert {name.rpartition(".")[2] for name in differences(states[0], states[1])} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_the_comparison_of_runs_can_fail(run: Path) -> None:
    assert run_differences(run, run) == []
    assert differences({"a": torch.ones(2)}, {"a": torch.tensor([1.0, 1.0 + 1e-7])}) == [".a"]


def test_a_device_without_float64_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS, which Lightning chooses on Apple silicon."""
    for available, chosen in ((True, "cpu"), (False, "auto")):
        monkeypatch.setattr("torch.backends.mps.is_available", lambda found=available: found)
        assert supported_accelerator("auto") == chosen
    assert supported_accelerator("gpu") == "gpu"
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(UserError, match="accelerator gpu: the GPU of Apple silicon"):
        supported_accelerator("gpu")


def test_results_are_rendered_from_their_files() -> None:
    """RESULTS.md agrees with results/ and configs/_reproduce/ (else: `reproduce.py render`)."""
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == results.render()


def test_every_changed_figure_has_a_reason() -> None:
    for name, entry in reproduction.registry().items():
        for step in entry.get("earlier", []):
            assert isinstance(step["value"], float | int), name
            assert len(step["reason"].split()) > 3, name
        if "earlier" in entry and (result := ROOT / f"results/{name}.json").exists():
            assert json.loads(result.read_text(encoding="utf-8"))["value"] != pytest.approx(
                entry["earlier"][-1]["value"], rel=1e-4
            ), name


def test_every_reproduction_can_be_run() -> None:
    """Every reproduction has all keys, an existing recipe and function, and a one-line protocol."""
    for name, entry in reproduction.registry().items():
        assert {"what", "minutes", "config", "better", "protocol"} <= entry.keys(), name
        assert (ROOT / entry["config"]).is_file(), name
        assert "\n" not in entry["protocol"]
        if "function" in entry:
            module, _, function = entry["function"].rpartition(".")
            assert callable(getattr(importlib.import_module(module), function)), name
        elif "evaluate" in entry:
            given = [
                text
                for option, value in entry["evaluate"].items()
                for text in (f"--{option}", str(value))
            ]
            evaluation_options.parse([str(ROOT), "--against", entry["config"], *given])
        else:
            assert entry["metric"].startswith("test/")


@pytest.mark.parametrize("path", sorted((ROOT / "configs/_trainer").glob("*.yaml")))
def test_trainer_settings_are_options(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fit", "--config", "configs/gpt/python_docs.yaml", "--config", str(path)]
    assert train.main([*argv, "--print_config"]) == 0, capsys.readouterr().err


def test_the_overrides_of_every_reproduction_are_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, entry in reproduction.registry().items():
        for variant in entry.get("variants", {"": {}}).values():
            options = reproduction.override_options(reproduction.with_overrides(entry, variant))
            if options and "function" not in entry:
                argv = ["fit", "--config", entry["config"], *options, "--print_config"]
                assert train.main(argv) == 0, f"{name}: {capsys.readouterr().err}"


USER_SYSTEM = '''"""A system that passes further arguments to its base class."""
from typing import Any

from lightning_modules.dcgan import DCGAN


class MyDCGAN(DCGAN):
    """DCGAN with one more option.

    Args:
        extra: One more option.
    """

    def __init__(self, extra: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extra = extra
'''


@pytest.fixture
def user_files() -> Iterator[None]:
    """A user's system, and a broken file in the same folder."""
    files = {"my_dcgan.py": USER_SYSTEM, "broken_system.py": "import nothing\nclass Broken(:\n"}
    paths = [ROOT / "lightning_modules" / name for name in files]
    try:
        for path, text in zip(paths, files.values()):
            path.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        yield
    finally:
        for path in paths:
            path.unlink()


@pytest.mark.parametrize("name", ["MyDCGAN", "lightning_modules.my_dcgan.MyDCGAN"])
def test_a_subclass_with_kwargs_gets_the_data_spec(
    name: str, user_files: None, tmp_path: Path
) -> None:
    argv = ["fit", "--model", name, "--model.extra", "2", "--model.width", "4"]
    argv += ["--data", "OpenMoji", "--data.size", "32", "--data.batch_size", "8"]
    argv += ["--run_dir", str(tmp_path), "--trainer.max_steps", "1"]
    assert train.main([*argv, "--trainer.limit_val_batches", "0"]) == 0
    model = load(tmp_path / "checkpoints/last.ckpt")
    assert type(model).__name__ == "MyDCGAN"
    assert model.extra == 2
    assert model.sample([0]).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("option", "name", "known"),
    [
        ("--model.help", "GPT", "--model.context"),
        ("--data.help", "OpenMoji", "--data.neutral"),
        ("--model.help", "MyDCGAN", "--model.extra"),
    ],
)
def test_help_of_one_class_by_its_short_name(
    option: str, name: str, known: str, user_files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the file of the class is imported, so a broken file does not matter."""
    assert train.main(["fit", option, name]) == 0
    assert known in capsys.readouterr().out


@pytest.mark.parametrize(
    ("program", "known"), [("evaluate", "--batch_size"), ("reproduce", "run"), ("sweep", "ring")]
)
def test_help_of_a_program_has_its_docstring_and_its_options(
    program: str, known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(program)
    assert module.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert module.__doc__.strip() in out
    assert known in out.partition(module.__doc__.strip())[2]


def test_an_image_and_its_mask_are_read_as_options(tmp_path: Path) -> None:
    """`--input` and `--mask` exist where `sample` declares `image` and `mask`; white is filled."""

    def sample(
        seeds: list[int], *, image: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        """Fill in.

        Args:
            image: Image (N, C, H, W) in [-1, 1].
            mask: Mask (N, 1, H, W): 1 where the image is to be filled in.
        """

    pixels = Image.new("L", (8, 8))
    pixels.paste(255, (0, 0, 4, 8))
    pixels.save(tmp_path / "mask.png")
    Image.new("RGB", (20, 20), "white").save(tmp_path / "image.png")
    parser = OptionParser()
    add_sample_options(parser, sample)
    shown = " ".join(parser.format_help().split())
    assert "Image file. " in shown
    assert "Mask file: 1 where the image is to be filled in." in shown
    files = ["--input", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png")]
    options = parser.parse_args(files)
    arguments = sample_arguments(vars(options), sample_parameters(sample), [3, 16, 16])
    assert arguments["image"].shape == (1, 3, 16, 16)
    assert (arguments["image"] == 1).all()
    assert arguments["mask"].shape == (1, 1, 16, 16)
    assert arguments["mask"][..., :7].min() == 1
    assert arguments["mask"][..., 9:].max() == 0
