"""Faulty configurations, checkpoints, images and machines: one line with cause and remedy.

`test_command_lines.py` has the options that are wrong by themselves.
"""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import evaluate
import export
import sample
import shard
import train
from common.errors import run
from datamodules.images.folder import ImageFolder
from datamodules.splits import split_of
from lightning_modules.vae import VAE
from tests.runs import tiny_config

PROGRAMS = {
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "export": export,
    "shard": shard,
}
# {d} is the folder of the fixture, {new} a path that does not exist yet.
FIT = (
    "train fit --config {d}/tiny.yaml --run_dir {new} "
    "--trainer.max_steps 2 --trainer.limit_val_batches 1 "
)
PICTURES = (
    "train fit --config {d}/folder.yaml --run_dir {new} --trainer.max_steps 1 --data.folder {d}/"
)
SAMPLE = "sample {d}/run/checkpoints/last.ckpt --out {new} "
LAST = "{d}/run/checkpoints/last.ckpt"


class Trap:
    """Create a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def picture(path: Path, mode: str = "RGB", size: int = 20, **options: Any) -> None:
    Image.new(mode, (size, size)).save(path, **options)


# Writers of one bad image in an otherwise good folder, by path.
PICTURE_WRITERS: dict[str, Callable[[Path], object]] = {
    "corrupt/train/bad.png": lambda path: path.write_bytes(b"no picture"),
    "cut/train/bad.jpg": lambda path: (picture(path), path.write_bytes(path.read_bytes()[:-40])),
    "integers/train/bad.tif": lambda path: Image.fromarray(np.full((20, 20), 70000, np.int32)).save(
        path
    ),
    "floats/train/bad.tif": lambda path: Image.fromarray(np.full((20, 20), 1.5, np.float32)).save(
        path
    ),
    "nested/cats/Test/0.png": picture,
    "twice/Validation/0.png": picture,
    "spelling/train/cat/0.png": picture,
    "spelling/val/Cat/0.png": picture,
}
ROWS = "file,label\n" + "".join(
    f"{name}.png,{name[:3]}\n" for name in ("train/0", "train/1", "train/2", "train/3", "val/0")
)
TABLES = {
    "row_too_many": ROWS + "test/0.png,tes\ntest/lost.png,tes\n",
    "row_missing": ROWS,
    "no_label": ROWS + "test/0.png\n",
    "other_columns": "picture,class\n" + ROWS,
}


def folder(path: Path) -> Path:
    for name in ("train/0", "train/1", "train/2", "train/3", "val/0", "test/0"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(path / f"{name}.png")
    return path


@pytest.fixture(scope="module")
def d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny runs, and good and bad configurations, checkpoints and image folders."""
    d = tmp_path_factory.mktemp("errors")
    config = tiny_config(d / "tiny.yaml", "vae")
    runs = {
        "run": config,
        "autoencoder": tiny_config(d / "autoencoder.yaml", "autoencoder"),
        "conditional": config,
    }
    for name, path in runs.items():
        argv = [
            "fit",
            "--config",
            str(path),
            "--run_dir",
            str(d / name),
            "--trainer.max_steps",
            "1",
        ]
        argv += [
            "--trainer.limit_val_batches",
            "1",
            *(["--model.conditional", "true"] if name == "conditional" else []),
        ]
        assert train.main(argv) == 0

    text = config.read_text(encoding="utf-8")
    (d / "key.yaml").write_text(text.replace("latent_dim", "latent_dm"), encoding="utf-8")
    (d / "class.yaml").write_text(text.replace("vae.VAE", "vae.Vea"), encoding="utf-8")
    (d / "broken.yaml").write_text("model: [unclosed\ndata: {", encoding="utf-8")
    (d / "prose.yaml").write_text("just a sentence", encoding="utf-8")
    (d / "binary.yaml").write_bytes(bytes(range(256)))
    images = {
        "class_path": "datamodules.images.folder.ImageFolder",
        "init_args": {"folder": "?", "size": 16, "batch_size": 4},
    }
    (d / "misspelt.yaml").write_text(text.replace("size: 16", "sise: 16"), encoding="utf-8")
    (d / "folder.yaml").write_text(
        yaml.safe_dump({**yaml.safe_load(text), "data": images}), encoding="utf-8"
    )

    whole = (d / "run/checkpoints/last.ckpt").read_bytes()
    (d / "cut.ckpt").write_bytes(whole[:-1000])
    (d / "loose.ckpt").write_bytes(whole)
    (d / "empty.ckpt").write_bytes(b"")
    torch.save({"a": 1}, d / "foreign.ckpt")
    torch.save(
        {
            "class_path": "lightning_modules.vae.VAE",
            "state_dict": {},
            "extra": Trap(d / "executed"),
        },
        d / "trap.ckpt",
    )

    folder(d / "good")
    (d / "empty").mkdir()
    (d / "held_out").mkdir()
    picture(
        d / "held_out" / next(f"{i}.png" for i in range(100) if split_of(f"{i}.png") != "train")
    )
    for name, write in PICTURE_WRITERS.items():
        folder(d / name.split("/")[0])
        (d / name).parent.mkdir(parents=True, exist_ok=True)
        write(d / name)
    for name, table in TABLES.items():
        (folder(d / name) / "labels.csv").write_text(table, encoding="utf-8")
    return d


# Command line -> parts of its error message: first the cause, then the remedy.
MISTAKES: dict[str, tuple[str, ...]] = {
    # options that do not fit the data
    FIT + "--data.batch_size 5000": (
        "data.batch_size 5000",
        "3483 training samples: use --data.batch_size 3483 or less",
    ),
    FIT + "--data.size 18": ("18x18 cannot be halved 2 times", "must be multiples of 4"),
    FIT + "--trainer.max_steps 9 --model.learning_rate 1e30": (
        "step 2: the gradient of encoder.0.weight is not finite (samples ",
        "lower the learning rate or set --trainer.gradient_clip_val",
    ),
    # configurations
    "train fit --config {d}/none.yaml": ("{d}/none.yaml", "`python train.py` lists the recipes"),
    "train fit --config={d}/broken.yaml": ("{d}/broken.yaml", "line 1, column 8", "correct it"),
    "train fit --config {d}/binary.yaml": ("{d}/binary.yaml", "correct it"),
    "train fit --config {d}/prose.yaml": ("{d}/prose.yaml", "needs the keys model: and data:"),
    "train fit --config {d}/key.yaml": (
        "{d}/key.yaml: model.latent_dm",
        "did you mean model.latent_dim?",
    ),
    "train fit --config {d}/class.yaml": ("lightning_modules.vae.Vea", "similar names: VAE"),
    # checkpoints and run directories
    FIT + "--ckpt_path {d}/none.ckpt": (
        "{d}/none.ckpt: there is no such checkpoint",
        "give a file in the checkpoints/ folder of a run",
    ),
    FIT + "--ckpt_path {d}/foreign.ckpt": (
        "{d}/foreign.ckpt: not a checkpoint of this template",
        "give a checkpoint written by train.py",
    ),
    FIT + "--ckpt_path {d}/cut.ckpt": (
        "{d}/cut.ckpt: not a readable checkpoint (truncated",
        "give a checkpoint written by train.py",
    ),
    FIT + "--ckpt_path {d}/empty.ckpt": (
        "{d}/empty.ckpt: not a readable checkpoint",
        "give a checkpoint written by train.py",
    ),
    FIT + "--ckpt_path {d}/trap.ckpt": (
        "{d}/trap.ckpt: refused",
        "run code",
        "give a checkpoint written by train.py",
    ),
    FIT + "--init_from {d}/trap.ckpt": (
        "{d}/trap.ckpt: refused",
        "run code",
        "give a checkpoint written by train.py",
    ),
    "sample {d}/trap.ckpt": (
        "{d}/trap.ckpt: refused",
        "run code",
        "give a checkpoint written by train.py",
    ),
    FIT + "--ckpt_path {d}/autoencoder/checkpoints/last.ckpt": (
        "is a lightning_modules.autoencoder.Autoencoder",
        "use the config",
    ),
    "train validate --config {d}/tiny.yaml --ckpt_path {d}/autoencoder/checkpoints/last.ckpt": (
        "Autoencoder",
        "use the config",
    ),
    "train fit --config {d}/tiny.yaml --ckpt_path {d}/loose.ckpt": (
        "{d}/loose.ckpt is not in the folder checkpoints/ of a run",
        "--run_dir",
    ),
    FIT + f"--ckpt_path {LAST} --model.latent_dim 5": (
        "model.latent_dim 4, not 5",
        "leave it out",
        "--init_from",
    ),
    FIT + f"--ckpt_path {LAST} --init_from {LAST}": (
        "--init_from",
        "--ckpt_path",
        "give one of them",
    ),
    FIT + "--ckpt_path last": (
        "--ckpt_path last: there is no checkpoint in {new}",
        "name another run with --run_dir",
    ),
    FIT + "--run_dir {d}/run": (
        "{d}/run already holds a run",
        "resume it with --ckpt_path last or choose another --run_dir",
    ),
    FIT + "--run_dir {d}/tiny.yaml/run": (
        "--run_dir {d}/tiny.yaml/run cannot be written",
        "choose another",
    ),  # root cannot either
    "train validate --config {d}/tiny.yaml": (
        "validate evaluates a checkpoint",
        "give --ckpt_path FILE",
    ),
    # images
    PICTURES + "none": ("data.folder {d}/none", "give one with images"),
    PICTURES + "empty": (
        "data.folder {d}/empty: there are no images in it",
        "add some (.bmp, .gif",
    ),
    PICTURES + "held_out": (
        "data.folder {d}/held_out: none of its 1 images falls into the training split",
        "add more",
    ),
    PICTURES + "corrupt": ("{d}/corrupt/train/bad.png: cannot be read", "repair or remove it"),
    PICTURES + "cut": ("{d}/cut/train/bad.jpg: cannot be read", "repair or remove it"),
    PICTURES + "integers": (
        "{d}/integers/train/bad.tif: has 32-bit integers",
        "convert it to 16 or 8 bits",
    ),
    PICTURES + "floats": (
        "{d}/floats/train/bad.tif: has values from 1.5 to 1.5, outside of the range from 0 to 1",
        "convert it to 8 bits",
    ),
    PICTURES + "twice": (
        "{d}/twice/Validation and {d}/twice/val are both the val split",
        "rename or remove one",
    ),
    PICTURES + "nested/cats": (
        "{d}/nested/cats/Test: there is no training data beside it",
        "name the training data train",
    ),
    PICTURES + "spelling": (
        "{d}/spelling/val/Cat/0.png: its class Cat is spelt cat in training",
        "use one spelling",
    ),
    PICTURES + "good --data.position random --data.resize pad": (
        "data.position random has no effect with data.resize pad",
        "leave one of them out",
    ),
    PICTURES + "good --data.background whyte": (
        "data.background whyte: is not a colour",
        "give a name such as white, or #rrggbb",
    ),
    PICTURES + "row_too_many": (
        "{d}/row_too_many/labels.csv: test/lost.png is not an image in the folder",
        "remove its row",
    ),
    PICTURES + "row_missing": ("{d}/row_missing/labels.csv: has no row for test/0.png", "add one"),
    PICTURES + "no_label": (
        "{d}/no_label/labels.csv: line 7 has only 1 of the fields file, label",
        "complete the line",
    ),
    PICTURES + "other_columns": (
        "{d}/other_columns/labels.csv",
        "needs the columns file and label",
    ),
    PICTURES + "good --model.conditional true": (
        "model.conditional",
        "needs labels, and this data has none",
    ),
    # sample.py
    "sample {d}/cut.ckpt": (
        "{d}/cut.ckpt: not a readable checkpoint",
        "give a checkpoint written by train.py",
    ),
    "sample {d}/conditional/checkpoints/last.ckpt --label 99": (
        "--label must be",
        "0 and 9 (got 99)",
    ),
    "sample {d}/conditional/checkpoints/last.ckpt --mode reconstruct --label 3": (
        "--label 3 cannot be used with --mode reconstruct",
        "leave it out",
    ),
    SAMPLE + "--mode reconstruct --data {d}/misspelt.yaml": (
        "{d}/misspelt.yaml",
        "'sise'",
        "correct class_path or init_args",
    ),
    SAMPLE + "--mode attribute": ("--mode attribute", "needs --attribute, such as a word"),
    SAMPLE + "--mode attribute --attribute xyzzy": (
        "--attribute 'xyzzy'",
        "no positive examples",
        "give another",
    ),
    SAMPLE + "--mode reconstruct --data {d}/none.yaml": (
        "{d}/none.yaml",
        "name the data with --data CONFIG",
    ),
    SAMPLE + "--mode reconstruct --data {d}/prose.yaml": (
        "{d}/prose.yaml",
        "needs the keys model: and data:",
    ),
    # evaluate.py
    "evaluate {d}/none.ckpt": (
        "{d}/none.ckpt: there is no such checkpoint or folder",
        "checkpoints/",
    ),
    "evaluate {d}/corrupt --against configs/gpt/python_docs.yaml": ("has no images",),
    "evaluate {d}/corrupt --against {d}/tiny.yaml --seed 3": ("leave out --seed, which checkp",),
    f"evaluate {LAST} --against configs/dcgan/openmoji.yaml": (
        "generates images of 3x16x16 (channels, height, width)",
        "have 3x32x32",
    ),
    f"evaluate {LAST} --metrics fid,parzen": ("--metrics parzen needs 1,000 validation images",),
    "evaluate {d}/empty --against {d}/tiny.yaml": ("{d}/empty has 0 images", "give at least 10"),
    # export.py
    "export {d}/nowhere.ckpt": ("{d}/nowhere.ckpt: there is no such checkpoint", "give a file"),
    # shard.py
    "shard {d}/nowhere {new}": ("{d}/nowhere: there is no such folder", "give one with images"),
    "shard {d}/empty {new}": ("{d}/empty: there are no images in it", "add some"),
}


def call(command: str, d: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command line; return its exit code and its only error line."""
    program, *argv = command.format(d=d, new=new).split()
    code = PROGRAMS[program].main(argv)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == err.splitlines()[
        -1:
    ], err
    return code, err.splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    MISTAKES,
    ids=lambda command: command.replace(FIT, "").replace(PICTURES, "").replace(SAMPLE, ""),
)
def test_a_mistake_is_one_line_with_a_remedy(
    command: str, d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    code, line = call(command, d, new, capsys)
    assert code == 2, line
    for fragment in MISTAKES[command]:
        assert fragment.format(d=d, new=new) in line
    assert not (d / "executed").exists(), "a checkpoint ran its own code"


def test_the_trap_would_go_off(d: Path) -> None:
    torch.load(d / "trap.ckpt", weights_only=False)
    (d / "executed").rmdir()


def test_debug_shows_the_traceback(
    d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEBUG", "1")
    assert (
        train.main((FIT + "--data.batch_size 0").format(d=d, new=tmp_path / "new").split()[1:]) == 2
    )
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "error: --data.batch_size must be >0 (got 0)" in err.splitlines()[-1]


def test_a_worker_s_mistake_is_one_line_too(
    d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("datamodules.images.files.IN_MEMORY_BYTES", 0)
    loader = ImageFolder(
        str(d / "corrupt"), size=16, batch_size=5, num_workers=1
    ).train_dataloader()
    with pytest.raises(ValueError, match=r"(?s)Caught BadImage in DataLoader worker.*Traceback"):
        next(iter(loader))
    code, line = call(
        PICTURES + "corrupt --data.num_workers 1 --data.batch_size 5", d, tmp_path / "new", capsys
    )
    assert code == 2
    assert line.startswith(f"error: {d}/corrupt/train/bad.png: cannot be read as an image")


def test_a_lost_process_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [::1]:5")

    assert run(fail) == 1
    assert (
        "error: the connection to another process of this run was lost" in capsys.readouterr().err
    )


def test_a_full_disk_is_a_fault_of_the_machine_and_keeps_the_last_checkpoint(
    d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Path(shutil.copytree(d / "run", tmp_path / "run")) / "checkpoints/last.ckpt"
    before = checkpoint.read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, line = call(FIT + "--extend --ckpt_path last", d, tmp_path / "run", capsys)
    assert code == 1
    assert line.startswith(f"error: {checkpoint}: could not be written (No space left on device)")
    assert "free some space and resume with --ckpt_path last" in line
    assert checkpoint.read_bytes() == before
    assert not list(checkpoint.parent.glob("*.tmp*"))
    again = FIT + "--extend --ckpt_path last"
    assert train.main(again.format(d=d, new=tmp_path / "run").split()[1:]) == 0
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2


def test_an_interrupted_run_exits_with_130(
    d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VAE, "training_step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    try:
        code, line = call(FIT, d, tmp_path / "new", capsys)
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    assert code == 130
    assert line == "error: interrupted", "there is no checkpoint to resume from"


def test_a_split_without_samples_is_a_mistake(tmp_path: Path) -> None:
    shutil.rmtree(folder(tmp_path) / "test")
    data = ImageFolder(str(tmp_path), size=16)
    for ask in (data.test_dataloader, lambda: data.batch("test", [0])):
        with pytest.raises(ValueError, match="the test split has no samples: add some"):
            ask()


def test_names_of_splits_are_no_labels(tmp_path: Path) -> None:
    assert "num_classes" not in ImageFolder(str(folder(tmp_path)), size=16).data_spec
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir()
        picture(tmp_path / "train" / name / "0.png")
    assert "num_classes" not in ImageFolder(str(tmp_path), size=16).data_spec, (
        "some images are in no class folder"
    )
    for path in tmp_path.rglob("*.png"):
        if path.parent.name not in ("cat", "dog"):
            path.unlink()
    assert ImageFolder(str(tmp_path), size=16).data_spec["num_classes"] == 2
