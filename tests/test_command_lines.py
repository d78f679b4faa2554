"""Wrong command lines of all programs: each is refused in one line that names the remedy."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import evaluate
import export
import playground
import reproduce
import sample
import shard
import sweep
import train
from cli import classes
from common.errors import UserError
from tests.runs import tiny_config

PROGRAMS = {
    "train": train.main,
    "sample": sample.main,
    "evaluate": evaluate.main,
    "export": export.main,
    "playground": playground.main,
    "reproduce": reproduce.main,
    "sweep": sweep.main,
    "shard": shard.main,
}
# {d} is the folder of the fixture, {new} a path that does not exist yet.
GAN = "train fit --config {d}/gan.yaml --run_dir {new} "
VAE = "train fit --config {d}/vae.yaml --run_dir {new} "
SAMPLE = "sample {d}/run/checkpoints/last.ckpt "
TEXT = "sample {d}/text/checkpoints/last.ckpt "
EVALUATE = "evaluate {d}/run/checkpoints/last.ckpt "

# Command line -> parts of its message: the option as typed and the fault, then the remedy.
WRONG: dict[str, tuple[str, ...]] = {
    # train.py: misspelt
    "train foo": ("foo: there is no such subcommand", "`python train.py` lists them"),
    VAE + "--model.latent_dm=3": ("--model.latent_dm: there is no such", "--model.latent_dim?"),
    VAE + "--data.batchsize 3": ("--data.batchsize: there is no such", "--data.batch_size"),
    VAE + "--trainer.max_step 3": ("--trainer.max_step: there", "--trainer.max_steps"),
    VAE + "--rundir x": ("--rundir: there is no such option", "did you mean --run_dir?"),
    VAE + "--model VEA": ("--model VEA: there is no such class", "similar names: VAE"),
    VAE + "--model=lightning_modules.vaes.VAE": (
        "--model lightning_modules.vaes.VAE: there is no such class",
        "similar names: VAE",
    ),
    VAE + "--data OpenMoj": ("--data OpenMoj: there is no such class", "similar names: OpenMoji"),
    "train fit --model.help GANN": ("--model.help GANN", "similar names: GAN"),
    GAN + "--model.generator_optimizer torch.optim.Adm": (
        "--model.generator_optimizer torch.optim.Adm: there is no such Optimizer",
        "similar names: torch.optim.Adam",
    ),
    GAN + "--model.generator_optimizer Adm": (
        "--model.generator_optimizer Adm: there is no such Optimizer",
        "similar names: torch.optim.Adam",
    ),
    GAN + "--model.generator_optimizer.lrr 2": (
        "--model.generator_optimizer.lrr: there is no such option",
        "did you mean --model.generator_optimizer.lr?",
    ),
    GAN + "--trainer.callbacks+=EarlyStoping": (
        "--trainer.callbacks EarlyStoping: there is no such Callback",
        "EarlyStopping",
    ),
    GAN + "--trainer.callbacks+=Every100": (
        "--trainer.callbacks Every100: there is no such Callback",
        "a class of your own needs the path of its module: MODULE.Every100",
    ),
    GAN + "--trainer.callbacks+=callbacks.mine.Mine": (
        "--trainer.callbacks callbacks.mine.Mine: there is no such class",
        "correct the path",
    ),
    GAN + "--trainer.logger WandbLoger": ("--trainer.logger WandbLoger", "WandbLogger"),
    "train fit --config {d}/optimizer.yaml --run_dir {new}": (
        "{d}/optimizer.yaml: model.generator_optimizer torch.optim.Adm: there is no such",
        "similar names: torch.optim.Adam",
    ),
    "train fit --config {d}/section.yaml --run_dir {new}": (
        "{d}/section.yaml: trainr.max_steps: there is no such option",
        "did you mean trainer.max_steps?",
    ),
    "train preview --data OpenMoj": ("--data OpenMoj", "similar names: OpenMoji"),
    "train preview --config {d}/vae.yaml --data.sise 3": ("--data.sise: there", "--data.size?"),
    VAE + "--model ImageFolder": ("--model ImageFolder", "give --data ImageFolder"),
    VAE + "--model datamodules.images.ring.Ring": ("this is not a GenerativeModule", "give one of"),
    VAE + "--model.class_path foo.Bar": ("--model foo.Bar: there is no such class", "similar"),
    "train fit -config {d}/vae.yaml": ("-config: there is no such", "did you mean --config?"),
    # train.py: misplaced
    "train --config {d}/vae.yaml fit": ("--config: the subcommand comes first", "train.py fit"),
    "train --trainer.max_steps 3 fit": ("--trainer.max_steps: the subcommand comes first",),
    VAE + "--model.hidden [32, 8]": ("--model.hidden must be a list without spaces", "got [32,"),
    VAE + "--dry_run 5": ("5 belongs to no option", "put quotes around a value"),
    VAE + "--trainer.max_steps": ("--trainer.max_steps needs a value", "give"),
    "train fit --config": ("--config needs a value", "give --config VALUE"),
    "train fit": ("--data, --model", "give --config FILE"),
    "train preview": ("--data", "give --config FILE"),
    "train fit {d}/vae.yaml": ("{d}/vae.yaml belongs to no option", "--config {d}/vae.yaml?"),
    "train fit --model VAE": ("--data", "give --config FILE"),
    # train.py: wrong type or range
    VAE + "--model.latent_dim many": ("--model.latent_dim must be an integer", "got many"),
    VAE + "--model.latent_dim -8": ("--model.latent_dim must be >0", "got -8"),
    VAE + "--model.hidden [8,-16]": ("--model.hidden must be >0", "got -16"),
    VAE + "--model.hidden []": ("model.hidden must have at least one number", "got []"),
    GAN + "--model.hidden [0,4]": ("--model.hidden must be >0", "got 0"),
    GAN + "--model.ema_decay 1.5": ("--model.ema_decay must be >0 and <1", "got 1.5"),
    GAN + "--model.spectral maybe": ("--model.spectral must be true or false", "got maybe"),
    GAN + "--model.loss wgan2": ("--model.loss must be one of non_saturating", "got wgan2"),
    GAN + "--model.generator_optimizer.lr fast": (
        "--model.generator_optimizer.lr must be a number",
        "got fast",
    ),
    GAN + "--model.generator_optimizer.lr=-1": (
        "--model.generator_optimizer cannot be used: Invalid learning rate: -1.0",
        "correct its arguments",
    ),
    GAN + "--model.generator_schedule ExponentialLR": (
        "--model.generator_schedule needs gamma",
        "give --model.generator_schedule.gamma VALUE",
    ),
    "train fit --config {d}/type.yaml --run_dir {new}": (
        "{d}/type.yaml: model.latent_dim must be an integer",
        "got many",
    ),
    "train fit --config configs/gpt/python_docs.yaml --model.betas [0.9,1.5]": (
        "--model.betas must be >=0 and <1",
        "got 1.5",
    ),
    VAE + "--trainer.max_steps -5": ("--trainer.max_steps must be >=-1", "got -5"),
    VAE + "--trainer.limit_train_batches 2.5": ("--trainer.limit_train_batches", "[0.0, 1.0]"),
    VAE + "--trainer.val_check_interval 0": ("--trainer.val_check_interval must be >0", "got 0"),
    VAE + "--trainer.gradient_clip_val -1": ("--trainer.gradient_clip_val must be >=0", "got -1"),
    VAE + "--trainer.accumulate_grad_batches 0": (
        "--trainer.accumulate_grad_batches must be >0",
        "got 0",
    ),
    VAE + "--seed_everything -1": ("--seed_everything cannot be used: -1", "from 0 to"),
    VAE + "--trainer.max_time xx": ("--trainer.max_time cannot be used", "DD:HH:MM:SS"),
    VAE + "--data.max_samples 0": ("--data.max_samples must be >0", "got 0"),
    VAE + "--trainer.precision 8": ("--trainer.precision must be one of 64, 32, 16", "got 8"),
    VAE + "--trainer.devices 0": (
        "--trainer.devices cannot be used",
        "devices='0'",
    ),
    VAE + "--trainer.accelerator gpu": ("--trainer.accelerator: this machine has no", "leave it"),
    VAE + "--trainer.max_epochs x": ("trainer.max_epochs must be an integer", "got x"),
    VAE + "--trainer.limit_val_batches x": (
        "trainer.limit_val_batches must be an integer or a number",
        "got x",
    ),
    VAE + "--model.num_classes 10": (
        "model.num_classes is provided by the data",
        "leave it out",
    ),
    VAE + "--data.batch_size 0": ("data.batch_size must be >0", "got 0"),
    VAE + "--data.eval_batch_size -1": ("data.eval_batch_size must be >0", "got -1"),
    VAE + "--data.num_workers -1": ("data.num_workers must be >=0", "got -1"),
    VAE + "--previews.every_n_train_steps 0": ("previews.every_n_train_steps must be >0", "got 0"),
    VAE + "--previews.count 0": ("previews.count must be >0", "got 0"),
    VAE + "--trainer.log_every_n_steps 0": (
        "--trainer.log_every_n_steps must be >0",
        "got 0",
    ),
    VAE + "--trainer.precision 16-true": (
        "trainer.precision 16-true",
        "not supported by VAE: set 32-true or bf16-mixed",
    ),
    VAE + "--compile inducter": ("--compile inducter", "give one of", "inductor"),
    "train fit --config configs/gpt/python_docs.yaml --model.dropout 2": (
        "model.dropout must be >=0 and <=1",
        "got 2",
    ),
    # train.py: wrong system
    GAN + "--trainer.gradient_clip_val 1": (
        "--trainer.gradient_clip_val 1: GAN does not support this option",
        "give --model.generator_clip and --model.discriminator_clip",
    ),
    GAN + "--trainer.accumulate_grad_batches 2": (
        "--trainer.accumulate_grad_batches 2: GAN does not support this option",
        "give --model.accumulate",
    ),
    GAN + "--trainer.sync_batchnorm true": ("--trainer.sync_batchnorm True: GAN does not",),
    VAE + "--trainer.use_distributed_sampler true": (
        "--trainer.use_distributed_sampler cannot be set",
        "leave it out",
    ),
    VAE + "--trainer.num_sanity_val_steps 2": (
        "--trainer.num_sanity_val_steps cannot be set",
        "--trainer.fast_dev_run 1",
    ),
    VAE + "--trainer.accelerator mps": ("--trainer.accelerator mps: the GPU of Apple", "use cpu"),
    GAN + "--fid.count 9": ("--fid.count 9: FID needs at least 10 images",),
    VAE + "--trainer.default_root_dir x": ("--trainer.default_root_dir", "give --run_dir"),
    VAE + "--model.optimizer.lr 1e-3": (
        "--model.optimizer.lr: there is no such option",
        "did you mean --model.learning_rate?",
    ),
    "train fit --config configs/autoencoder/openmoji.yaml --model.optimizer.lr 1e-3": (
        "--model.optimizer.lr: there is no such option",
        "did you mean --model.learning_rate?",
    ),
    GAN + "--model.learning_rate 1e-3": (
        "--model.learning_rate: there is no such option",
        "--model.discriminator_optimizer.lr or --model.generator_optimizer.lr",
    ),
    VAE + "--model.image_shape [3,16,16]": (
        "--model.image_shape is provided by the data",
        "leave it out",
    ),
    # sample.py
    "sample {d}/vae.yaml": ("{d}/vae.yaml: not a readable checkpoint", "written by train.py"),
    "sample {d}/none.ckpt": ("{d}/none.ckpt: there is no such checkpoint", "checkpoints/"),
    "sample {d}/loose.ckpt": ("{d}/loose.ckpt is not in the folder checkpoints/", "give --out DIR"),
    "sample {d}/loose.ckpt --out {new} --mode reconstruct": ("in no run", "--data CONFIG"),
    "sample --seeds 3 {d}/run/checkpoints/last.ckpt": ("(got --seeds)", "python sample.py runs/"),
    SAMPLE + "--num": ("--num needs a value", "give --num VALUE"),
    SAMPLE + "--num x": ("--num must be an integer", "got x"),
    SAMPLE + "--num 0": ("--num must be >0", "got 0"),
    SAMPLE + "--seed -1": ("--seed must be >=0", "got -1"),
    SAMPLE + "--seeds 5-3": ("--seeds 5-3: the range is empty", "smaller number first"),
    SAMPLE + "--temperature -1": ("--temperature must be >=0", "got -1"),
    SAMPLE + "--label x": ("--label must be an integer", "got x"),
    SAMPLE + "--mode dream": ("--mode must be one of prior, interpolate", "got dream"),
    SAMPLE + "--modes prior": ("--modes: there is no such option", "did you mean --mode?"),
    SAMPLE + "--prompt hi": ("--prompt: there is no such option", "--help` lists the options"),
    SAMPLE + "extra": ("extra belongs to no option", "put quotes around a value"),
    TEXT + "--mode prior": ("--mode: there is no such option", "--help` lists the options"),
    TEXT + "--out x": ("--out: there is no such option", "--help` lists the options"),
    TEXT + "--top_p 2": ("--top_p must be >0 and <=1", "got 2"),
    TEXT + "--show_probs -1": ("--show_probs must be >=0", "got -1"),
    TEXT + "--score {d}/none.txt": ("--score {d}/none.txt: there is no such file", "give a text"),
    SAMPLE + "--temperature hot": (
        "--temperature must be a number",
        "got hot",
    ),
    SAMPLE + "--seeds a-b": ("--seeds must be numbers and ranges, such as 0-31,85", "got 'a-b'"),
    SAMPLE + "--device gpuu": ("--device gpuu", "give cpu"),
    SAMPLE + "--mode interpolate --steps 0": ("--steps must be >0", "got 0"),
    SAMPLE + "--label 3": ("--label 3", "needs a conditional model, which this is not; omit it"),
    # evaluate.py
    "evaluate --metrics fid": ("source", "--help` lists the options"),
    "evaluate {d}/vae.yaml": ("{d}/vae.yaml: not a readable checkpoint", "written by train.py"),
    "evaluate {d}/loose.ckpt": ("the checkpoint is in no run", "--against CONFIG"),
    "evaluate {d}/run": ("{d}/run is a folder", "--against CONFIG"),
    EVALUATE + "--against {d}/none.yaml": ("{d}/none.yaml", "--against CONFIG"),
    EVALUATE + "--num x": ("--num must be an integer", "got x"),
    EVALUATE + "--batch_size 0": ("--batch_size must be >0", "got 0"),
    EVALUATE + "--metric fid": ("--metric: there is no such option", "did you mean --metrics?"),
    EVALUATE + "--metrics l1": ("--metrics l1, psnr and ssim need reference images", "give"),
    EVALUATE + "--split tst": ("--split must be one of train, val, test", "got tst"),
    EVALUATE + "--ranker x": ("--ranker CKPT need each other", "give both or neither"),
    EVALUATE + "--data x": ("--data: there is no such option", "--help` lists the options"),
    EVALUATE + "--metrics fid,fidd": ("--metrics 'fidd'", "give some of fid, kid, precision"),
    EVALUATE + "--metrics is": ("--metrics is", "use --extractor inception"),
    EVALUATE + "--metrics nn --num 10": (
        "--metrics nn needs class labels",
        "give the checkpoint of a conditional system",
    ),
    EVALUATE + "--num 1": ("--num must be >=10", "got 1"),
    EVALUATE + "--extractor inception": (
        "no Inception weights: download http",
        "or use the extractor classifier",
    ),
    EVALUATE + "--device gpuu": ("--device gpuu", "give cpu"),
    # export.py
    "export --out {new}": ("CKPT", "--help` lists the options"),
    "export x.ckpt --push_hub me/x": ("--push_hub: there is no such", "--push_to_hub?"),
    # playground.py
    "playground {new}": ("{new}: there is no such folder or checkpoint", "`make train`"),
    "playground --port 0": ("--port must be", ">=1"),
    "playground --prot 7000": ("--prot: there is no such option", "--port?"),
    # shard.py
    "shard": ("FOLDER", "--help` lists the options"),
    "shard {d} {new} --shard_mb 0": ("--shard_mb must be", "got 0"),
    "shard {d} {new} --skipbad": ("--skipbad: there is no such option", "did you mean --skip_bad?"),
    # reproduce.py and sweep.py
    "reproduce": ("command", "--help` lists the options"),
    "reproduce rendr": ("rendr: there is no such command", "list, render, run"),
    "reproduce run": ("id", "--help` lists the options"),
    "reproduce run vae-mnist-nll --seeds 3-1": ("--seeds 3-1: the range is empty", "first"),
    "reproduce run vae-mnist-nll --sed 1": ("--sed: there is no such option", "--seeds"),
    "reproduce run vae-mnst": (
        "vae-mnst: there is no such reproduction",
        "python reproduce.py list",
        "vae-mnist-nll",
    ),
    "reproduce run vae-mnist-nll --seeds x": ("--seeds must be numbers and ranges", "got 'x'"),
    "reproduce list all": ("all belongs to no option", "put quotes around a value"),
    "sweep": ("sweep", "--help` lists the options"),
    "sweep rng": ("rng: there is no such sweep", "give one of dcgan, gpt, pix2pix, ring, vae"),
    "sweep ring --lr x": ("--lr must be a number", "got x"),
    "sweep ring --lrs 3": ("--lrs: there is no such option", "did you mean --lr?"),
    "sweep vae --model.latent_dim": ("--model.latent_dim needs a value", "VALUE"),
}


@pytest.fixture(scope="module")
def d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a VAE and of a GPT after one update, and right and wrong configurations."""
    d = tmp_path_factory.mktemp("lines")
    for name, system in (("run", "vae"), ("text", "gpt")):
        config = tiny_config(d / f"{system}.yaml", system)
        argv = ["fit", "--config", str(config), "--run_dir", str(d / name)]
        argv += ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1"]
        assert train.main(argv) == 0
    gan = tiny_config(d / "gan.yaml", "gan").read_text(encoding="utf-8")
    shutil.copy(d / "run/checkpoints/last.ckpt", d / "loose.ckpt")
    wrong = "latent_dim: 4\n    generator_optimizer: {class_path: torch.optim.Adm}"
    (d / "optimizer.yaml").write_text(gan.replace("latent_dim: 4", wrong), encoding="utf-8")
    (d / "type.yaml").write_text(gan.replace("latent_dim: 4", "latent_dim: many"), encoding="utf-8")
    for name, steps in (("steps", 77), ("more", 88)):
        (d / f"{name}.yaml").write_text(
            yaml.safe_dump({"trainer": {"max_steps": steps}}), encoding="utf-8"
        )
    (d / "section.yaml").write_text(gan + "trainr:\n  max_steps: 3\n", encoding="utf-8")
    return d


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_line_is_refused_in_one_line(
    command: str, d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"d": d, "new": tmp_path / "new"}
    program, *argv = shlex.split(command.format(**places))
    assert PROGRAMS[program](argv) == 2
    out, err = capsys.readouterr()
    assert not out
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    for part in WRONG[command]:
        assert part.format(**places) in line
    assert not (tmp_path / "new/checkpoints").exists()


def test_each_program_has_wrong_command_lines() -> None:
    assert {command.split()[0] for command in WRONG} == PROGRAMS.keys()


def configuration(argv: str, d: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The configuration that `fit --dry_run` prints for these options."""
    assert train.main(["fit", *shlex.split(argv.format(d=d)), "--dry_run"]) == 0
    return capsys.readouterr().out.partition("\nlayer")[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "--config {d}/vae.yaml --model.latent_dim 7 --trainer.max_steps 3",
            "--trainer.max_steps 3 --model.latent_dim 7 --config {d}/vae.yaml",
        ),
        (
            "--config {d}/vae.yaml --config {d}/steps.yaml --trainer.log_every_n_steps 9",
            "--trainer.log_every_n_steps 9 -c {d}/vae.yaml --config={d}/steps.yaml",
        ),
        (
            "--model VAE --data OpenMoji --data.size 16 --model.latent_dim 7",
            "--model.latent_dim 7 --data.size 16 --data=OpenMoji --model=VAE",
        ),
        (
            "--config {d}/gan.yaml --model.generator_optimizer SGD "
            "--model.generator_optimizer.init_args.lr 0.5",
            "--model.generator_optimizer.lr=0.5 --model.generator_optimizer torch.optim.SGD "
            "--config {d}/gan.yaml",
        ),
    ],
)
def test_the_order_of_options_does_not_matter(
    one: str, other: str, d: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = configuration(one, d, capsys)
    assert found == configuration(other, d, capsys)
    assert "latent_dim: 7" in found or "max_steps: 77" in found or "lr: 0.5" in found


def test_options_override_files_and_later_files_override_earlier_ones(
    d: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = "--config {d}/vae.yaml --config {d}/steps.yaml "
    assert "max_steps: 77" in configuration(files, d, capsys)
    assert "max_steps: 5" in configuration("--trainer.max_steps 5 " + files, d, capsys)
    again = "--config {d}/vae.yaml --config {d}/steps.yaml --config {d}/more.yaml"
    assert "max_steps: 88" in configuration(again, d, capsys)


def test_appended_callbacks_keep_their_order(d: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = (
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/loss "
        "--trainer.callbacks+=Timer --trainer.callbacks.interval epoch --config {d}/vae.yaml"
    )
    found = yaml.safe_load(configuration(argv, d, capsys))["trainer"]["callbacks"]
    first, second = (one["init_args"] for one in found)
    assert first["monitor"] == "val/loss"
    assert second["interval"] == "epoch"


def test_an_argument_changes_the_system_s_own_optimizer(
    d: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its other arguments stay as the system sets them, not as PyTorch does."""
    text = configuration("--config {d}/gan.yaml --model.generator_optimizer.lr 0.125", d, capsys)
    arguments = yaml.safe_load(text)["model"]["init_args"]["generator_optimizer"]["init_args"]
    assert (arguments["lr"], arguments["betas"], arguments["fused"]) == (0.125, [0.5, 0.999], True)
    ring = "--config configs/gan/ring.yaml --model.generator_optimizer.lr 0.125"
    optimizer = yaml.safe_load(configuration(ring, d, capsys))["model"]["init_args"]
    recipe = yaml.safe_load(Path("configs/gan/ring.yaml").read_text(encoding="utf-8"))["model"][
        "init_args"
    ]
    wanted = recipe["generator_optimizer"]["init_args"] | {"lr": 0.125}
    assert optimizer["generator_optimizer"]["init_args"].items() >= wanted.items()


@pytest.mark.parametrize(
    ("source", "place", "reason"),
    [
        ("import nosuch\n", "line 1", "ModuleNotFoundError: No module named 'nosuch'; install"),
        ("\nclass Mine(:\n", "line 2", "SyntaxError: invalid syntax; correct the file"),
        ("x = 1\ny = 1 / 0\n", "line 2", "ZeroDivisionError: division by zero; correct the file"),
        ("from common.errors import Nothing\n", "line 1", "ImportError: cannot import name"),
    ],
)
def test_a_user_s_file_that_cannot_be_imported_is_named_with_its_line(
    source: str,
    place: str,
    reason: str,
    d: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    body = "" if "class Mine" in source else "class Mine(GenerativeModule):\n    pass\n"
    (tmp_path / f"{name}.py").write_text(source + body, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load((d / "gan.yaml").read_text(encoding="utf-8"))
    config["data"]["class_path"] = f"{name}.Mine"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    file = f"{tmp_path / name}.py, {place}: {reason}"
    for argv in (
        f"--config {d}/vae.yaml --model {name}.Mine",
        f"--config {d}/vae.yaml --data={name}.Mine",
        f"--config {tmp_path}/mine.yaml",
        f"--config {d}/gan.yaml --model.generator_optimizer {name}.Mine",
        f"--config {d}/gan.yaml --trainer.callbacks+={name}.Mine",
    ):
        assert train.main(["fit", *argv.split()]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"importing {name} failed in {file}" in line


def test_classes_of_broken_files_are_found_and_namesakes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lightning_modules"
    folder.mkdir()
    (folder / "broken.py").write_text("class Mine(Base):\n    x = [\n", encoding="utf-8")
    (folder / "renamed.py").write_text(
        "from lightning_modules.core.module import GenerativeModule as Base\n"
        "class Helper: ...\nclass Twice(Base): ...\n",
        encoding="utf-8",
    )
    (folder / "second.py").write_text(
        "class Twice(core.module.GenerativeModule): ...\n", encoding="utf-8"
    )
    monkeypatch.setattr(classes, "ROOT", tmp_path)
    assert classes.full_class_paths(["--model", "Mine"])[1] == "lightning_modules.broken.Mine"
    with pytest.raises(UserError, match=r"give one of lightning_modules\.renamed\.Twice, light"):
        classes.full_class_paths(["--model=Twice"])
    with pytest.raises(UserError, match="--model Helper: there is no such class"):
        classes.full_class_paths(["--model", "Helper"])


@pytest.mark.parametrize(
    "command", ["train fit", "sample x", "evaluate x", "reproduce list", "sweep"]
)
def test_a_missing_package_is_one_line_that_says_what_to_run(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packages = {"torch", "pytorch_lightning", "yaml", "jsonargparse", "numpy"}

    class Blocker:
        def find_spec(self, name: str, *_: object) -> None:
            if name.partition(".")[0] in packages:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    ours = ("cli", "callbacks", "lightning_modules", "metrics", "datamodules")
    for name in list(sys.modules):
        if name.partition(".")[0] in {*packages, *ours}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Blocker(), *sys.meta_path])
    monkeypatch.setattr(sys, "prefix", "/usr")
    program, *argv = command.split()
    assert PROGRAMS[program](argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"error: the package \w+ is not installed in this Python \(/usr\); run", line)
    assert line.endswith("run `make setup`, then `. .venv/bin/activate`")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_pipe_ends_a_program_silently(stream: str, tmp_path: Path) -> None:
    """As in `train.py | head -1` and `train.py fit ... 2>&1 | head -1`, also at shutdown."""
    code = (
        "import sys; from common.errors import run\n"
        f"sys.exit(run(lambda: [print('x' * 10000, file=sys.{stream}) for _ in range(100)]))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with (
        open(tmp_path / "other", "w", encoding="utf-8") as other,
        open(writer, "w", encoding="utf-8") as closed,
    ):
        streams = {"stdout": other, "stderr": other} | {stream: closed}
        done = subprocess.run([sys.executable, "-S", "-c", code], **streams)  # type: ignore[call-overload]
    assert done.returncode == 0
    assert not (tmp_path / "other").read_text(encoding="utf-8")


def test_samples_are_written_into_the_run(
    d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(d / "run", tmp_path / "run"))
    checkpoint = str(run / "checkpoints/last.ckpt")
    assert sample.main([checkpoint, "--num", "2"]) == 0
    assert (run / "samples/last-step1/seed0001.png").is_file()
    assert capsys.readouterr().err == f"samples: {run}/samples/last-step1\n"
    assert sample.main([checkpoint, "--num", "1", "--mode", "interpolate", "--steps", "3"]) == 0
    assert (run / "samples/last-step1-mode-interpolate-steps-3/grid.png").is_file()
    assert sample.main([checkpoint, "--num", "1", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/seed0000.png").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
