"""What a run shows: progress, curves, captions, animation, last lines and help."""

import re
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer

import train
from callbacks import animation, curves, gan_health, progress
from callbacks.animation import write_animation
from callbacks.curves import arrange
from callbacks.fid import why_no_fid
from callbacks.latent_plots import histograms
from callbacks.non_finite_guard import remedy
from callbacks.run_summary import layer_table, slow_precision
from callbacks.series import POINTS, read_series, smooth, thin
from callbacks.targets import Target, targets
from cli.classes import init_parameters
from common import images as images_common
from common import progress as shown
from common.errors import UserError
from common.images import captioned
from common.progress import Bars, Task, duration, track
from common.run import RANKS
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.cyclegan import CycleGAN
from lightning_modules.dcgan import DCGAN
from lightning_modules.gan import GAN
from lightning_modules.gpt import GPT
from lightning_modules.made import MADE
from lightning_modules.pix2pix import Pix2Pix
from tests.runs import tiny_config


class Terminal(StringIO):
    """stderr of a terminal."""

    def isatty(self) -> bool:
        return True


def fit(config: Path | str, run: Path, *more: str) -> int:
    return train.main(["fit", "--config", str(config), "--run_dir", str(run), *more])


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Directory, stdout and stderr of a short run of a GAN, with a progress line at each step."""
    run = tmp_path_factory.mktemp("watching") / "ring"
    out, err = StringIO(), StringIO()
    short = "--trainer.max_steps 12 --trainer.log_every_n_steps 3 --trainer.val_check_interval 8"
    short += " --updates_per_step 1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(progress, "PERIOD", 0.0)
        patch.setattr(curves, "FIRST", 0.0)
        assert fit("configs/gan/ring.yaml", run, *short.split()) == 0
    return run, out.getvalue(), err.getvalue()


def test_progress_lines_of_a_gan_show_its_losses(ring: tuple[Path, str, str]) -> None:
    _, _, err = ring
    lines = [line for line in err.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0] for line in lines] == [f"step {n}/12" for n in range(1, 13)]
    number = r"-?[\d.e+-]+"
    losses = rf"train/loss_g {number}  train/loss_d {number}"
    assert not re.search(losses, lines[1]), "before the first logging interval"
    for line in lines[2:]:
        assert re.fullmatch(rf"step \d+/12  {losses}  [\d,]+ samples/s  \d+ s left", line), line


def test_a_run_of_a_gan_ends_with_what_to_do_next(ring: tuple[Path, str, str]) -> None:
    run, out, err = ring
    assert f"run: {run}" in err, "at the start"
    directory, best, samples, logs = out.splitlines()[-4:]
    assert directory == f"run: {run}"
    assert best == "best: none, because no value selects it", "points have no FID"
    assert samples == f"samples: python sample.py {run}/checkpoints/last.ckpt"
    assert logs == f"logs: {run}/samples/curves.png, {run}/metrics.csv"


def test_a_run_without_validation_names_the_option_that_validates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tmp_path / "tiny.yaml", "vae", max_samples=64)
    every = ("--trainer.check_val_every_n_epoch", "3")
    assert fit(config, tmp_path / "run", "--trainer.max_epochs", "1", *every) == 0
    _, best, *_ = capsys.readouterr().out.splitlines()[-4:]
    assert best == (
        "best: none, because no validation has measured val/loss; "
        "--trainer.check_val_every_n_epoch 1 validates after every epoch"
    )


def test_fid_needs_images_with_labels() -> None:
    points = SimpleNamespace(data_spec={"image_shape": [2, 1, 1], "num_classes": 8})
    images = SimpleNamespace(**vars(points), fingerprint=None)
    unlabelled = SimpleNamespace(data_spec={"image_shape": [3, 8, 8]}, fingerprint=None)
    gan, gpt = GAN.__new__(GAN), GPT.__new__(GPT)
    assert why_no_fid(gan, images) is None
    assert "need images, and SimpleNamespace has none" in str(why_no_fid(gan, points))
    assert "needs labels" in str(why_no_fid(gan, unlabelled))
    assert why_no_fid(gan, unlabelled, "inception") is None
    assert "GPT generates none" in str(why_no_fid(gpt, images))


def test_strips_of_images_cannot_be_compared() -> None:
    model, image = Autoencoder(image_shape=[1, 8, 8], hidden=[4]), torch.zeros(2, 1, 8, 8)
    data = SimpleNamespace(batch=lambda split, seeds: {"image": image})
    (target,) = targets(model, data)
    with pytest.raises(UserError, match="Autoencoder samples strips of images"):
        target.generate([0, 1])
    assert target.generate([0, 1], mode="holes").shape == image.shape


def test_a_run_that_diverges_is_told_an_option_that_it_has(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(default_root_dir=tmp_path)
    assert "--model.generator_clip" in remedy(trainer, GAN.__new__(GAN))
    assert "--trainer.gradient_clip_val" in remedy(trainer, GPT.__new__(GPT))


def test_health_of_points_has_modes_and_no_value_that_means_nothing_for_them(
    ring: tuple[Path, str, str],
) -> None:
    run, out, _ = ring
    header = (run / "health.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"modes", "near", "diversity"} <= set(header)
    assert not {"novelty", "overfitting"} & set(header)
    assert re.search(r"^modes: [0-8] of 8 at update 8$", out, re.MULTILINE)


@pytest.mark.parametrize("system", [GAN, DCGAN, CycleGAN, Pix2Pix])
def test_advice_names_only_options_of_the_system(system: type) -> None:
    """An option is also left out where it has its advised value."""
    defaults = {name: one.default for name, one in init_parameters(system).items()}
    named = set()
    for failure in gan_health.ADVICE:
        text = gan_health.advice(failure, SimpleNamespace(hparams=defaults))  # type: ignore[arg-type]
        named |= set(re.findall(r"--model\.(\w+)", text))
    expected = {GAN: {"r1_weight", "spectral"}, DCGAN: {"augment", "spectral"}}
    assert named == expected.get(system, set())
    model: Any = SimpleNamespace(hparams={"r1_weight": 1.0, "augment": 0.7})
    assert gan_health.advice("overfitting", model) == gan_health.ADVICE["overfitting"]


def test_the_last_lines_name_the_best_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second command shows the progress of a test, batch by batch."""
    config, run = tiny_config(tmp_path / "tiny.yaml", "vae", max_samples=64), tmp_path / "run"
    often = ("--trainer.log_every_n_steps", "1")
    assert fit(config, run, "--trainer.max_epochs", "2", "--tensorboard", *often) == 0
    _, best, samples, logs = capsys.readouterr().out.splitlines()[-4:]
    assert re.fullmatch(r"best: val/loss [\d.]+ at update \d, best\.ckpt", best)
    assert samples == f"samples: python sample.py {run}/checkpoints/best.ckpt"
    assert logs.endswith(f"; tensorboard --logdir {run}/tensorboard")
    assert (run / "samples/curves.png").is_file()
    assert Image.open(run / "samples/animation.webp").n_frames == 2  # type: ignore[attr-defined]
    monkeypatch.setattr(shown, "PERIOD", 0.0)
    test = ["test", "--run_dir", str(run), "--ckpt_path", "best"]
    assert train.main([*test, "--trainer.limit_test_batches", "2"]) == 0
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("test batches")] == [
        "test batches: 0/2",
        *[line for line in err.splitlines() if re.match(r"test batches: 1/2  \d+ s left", line)],
        "test batches: 2/2",
    ]


@pytest.mark.parametrize(
    ("environment", "first"),
    [({}, True), ({"SLURM_PROCID": "3"}, False), ({"SLURM_PROCID": "3", "RANK": "0"}, True)],
)
def test_only_the_first_process_shows_progress(
    environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert shown.is_first_process() == first


def test_health_reads_real_images_once() -> None:
    read: list[int] = []

    def batch(split: str, index: list[int]) -> dict[str, torch.Tensor]:
        read.extend(index)
        return {"image": torch.zeros(len(index), 1, 4, 4)}

    data = SimpleNamespace(split=lambda split: range(600), batch=batch)
    health, target = gan_health.GanHealth(), Target("", data, lambda seeds: torch.zeros(1))
    assert len(health._images(target, "train", 300)) == 300
    assert len(health._images(target, "train", 300)) == 300
    assert read == list(range(0, 600, 2))


def test_curves_of_a_gan_have_its_health(ring: tuple[Path, str, str]) -> None:
    run, _, _ = ring
    series = read_series(run / "metrics.csv") | read_series(run / "health.csv", "health/")
    panels = {panel.title.partition(":")[0]: panel.names for panel in arrange(series, None)}
    names = [f"{part}/{name}" for name in ("loss_g", "loss_d") for part in ("train", "val")]
    assert sorted(panels["loss"]) == sorted(names)
    assert panels["learning rate"] == ["train/lr", "train/lr_d"]
    assert "gradient norm, before clipping" in panels
    assert "health/diversity" in series
    assert "GAN health" in panels
    every = [name for panel in arrange(series, None) for name in panel.names]
    assert sorted(every) == sorted(set(series) - {"train/samples_seen"}), "each value once"
    assert Image.open(run / "samples/curves.png").size[0] > 1000


def test_curves_skip_what_is_not_finite_and_change_no_file(tmp_path: Path) -> None:
    rows = ["step,train/loss,val/nll"]
    rows += [f"{step},{'nan' if step == 3 else 1000 / (step + 1)}," for step in range(2000)]
    rows += ["500,,7.5", "1000,,6.5", "1500,,7"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    before = (tmp_path / "metrics.csv").read_bytes()
    series = read_series(tmp_path / "metrics.csv")
    assert len(series["train/loss"][0]) == 1999
    steps, values = thin(*series["train/loss"])
    assert len(steps) <= POINTS
    assert values[0] == series["train/loss"][1][:5].mean()
    assert np.allclose(smooth(np.ones(50)), 1)
    loss, chosen = arrange(series, ("val/nll", "min"))
    assert (loss.names, chosen.names) == (["train/loss", "val/nll"], ["val/nll"])
    assert chosen.mode == "min"
    steps, values = series["train/loss"]
    adversarial = {"train/loss_g": (steps, values), "train/loss_d": (steps, values / 100)}
    assert [panel.names for panel in arrange(adversarial, None)] == [
        ["train/loss_g"],
        ["train/loss_d"],
    ], "curves of different size have panels of their own, in a fixed order"
    close = {**adversarial, "train/loss_d": (steps, values / 2)}
    assert [panel.names for panel in arrange(close, None)] == [["train/loss_g", "train/loss_d"]]
    assert curves.palette(close) == curves.palette(adversarial) == {"loss_g": 0, "loss_d": 1}
    outputs = {f"train/{name}": series["train/loss"] for name in ("d_real", "d_fake", "accuracy_d")}
    assert curves.palette(outputs) == {"accuracy_d": 0, "d_fake": 1, "d_real": 2}
    sizes = {"exact": 0.5, "nll": 1.7, "ppl": 5.6, "recall": 0.6}
    scores = {f"val/{name}": (steps, np.full(len(steps), size)) for name, size in sizes.items()}
    assert [panel.names for panel in arrange(scores, None)] == [
        ["val/exact", "val/recall"],
        ["val/nll"],
        ["val/ppl"],
    ], "validation values of different units too"
    states = torch.get_rng_state(), np.random.get_state()[1]
    image = curves.curves(tmp_path, ("val/nll", "min"), "GPT")
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert image is not None
    assert image.dtype == torch.uint8
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert curves.curves(tmp_path / "none", None, "") is None


def test_curves_take_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing takes 1 s: validations closer than 20 s to the last drawing draw nothing."""
    now, drawn = 0.0, []

    def draw(*_: object) -> None:
        nonlocal now
        now += 1
        drawn.append(trainer.global_step)

    monkeypatch.setattr("callbacks.curves.time.perf_counter", lambda: now)
    monkeypatch.setattr(curves, "curves", draw)
    state = SimpleNamespace(fn="fit")
    trainer: Any = SimpleNamespace(
        is_global_zero=True, global_step=0, default_root_dir=".", state=state, callbacks=[]
    )
    module: Any = SimpleNamespace(monitor=None)
    callback = curves.Curves()
    callback.on_train_start(trainer, module)
    for step in range(5, 51, 5):  # a validation every 5 s
        now += 5
        trainer.global_step = step
        callback.on_validation_end(trainer, module)
    callback.on_train_end(trainer, module)
    assert drawn == [10, 30, 50, 50]


def test_captions_stand_in_the_image() -> None:
    """Small images are enlarged; names of rows are to the left, captions below, a title above."""
    images = torch.zeros(2, 10, 3, 16, 16)
    plain = captioned(images, "t")
    assert plain.dtype == torch.uint8
    named = captioned(images, "t", ["real", "reconstructed"])
    texts = captioned(images, "t", captions=[f"apple {number}" for number in range(10)])
    side = 48 + 1
    assert plain.shape[1] >= 4 * side, "two blocks of two rows"
    assert named.shape[2] > plain.shape[2] + 50
    assert texts.shape[1] > 4 * 96
    assert (named[:, 30:, :60] < 128).any(), "names are to the left of the images"
    assert (plain[:, :20] < 128).any(), "the title is above them"
    long = captioned(images, "t", ["a name of a row that has several lines " * 2])
    assert long.shape[2] < plain.shape[2] + 180, "long names are wrapped"
    pairs = captioned(torch.zeros(2, 1, 3, 16, 16), "t", captions=["a", "b"])
    assert pairs.shape[1] > 2 * (96 + 15), "a caption below each image"
    points = captioned(torch.zeros(5, 2, 1, 1), "a ring of Gaussians")
    assert points.shape[1] > 320
    real = torch.full((1, 2, 1, 1), 0.5)
    both = captioned(torch.zeros(1, 2, 1, 1), "a ring of Gaussians", real=real)
    assert both.shape[1] == points.shape[1] + 15, "a line says what is red and what is grey"
    for colour in (images_common.RED, images_common.GREY):
        dots = (both[:, 30:-25] == torch.tensor(colour)[:, None, None]).all(0).sum()
        assert dots >= images_common.DOT**2


def test_the_run_summary_counts_trainable_parameters() -> None:
    model, count = MADE([1, 2, 2], [5]), 4 * 5 + 5 + 5 * 4 + 4
    first, *_, last = layer_table(model, {}).splitlines()
    assert first.split("  ")[-2] == "output (batch size first)"
    assert last.split() == ["total", str(count)]
    next(model.parameters()).requires_grad_(False)  # as averaged and frozen weights
    last = layer_table(model, {}).splitlines()[-1]
    assert last.split() == ["trainable", str(count - 20)]


@pytest.mark.parametrize("bf16", [True, False])
def test_the_run_summary_says_that_bf16_is_slow(
    bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"architecture": "x86_64", "avx512_bf16": bf16}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: found, raising=False)
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False}
    remark = slow_precision(Trainer(precision="bf16-mixed", **options))
    assert ("32-true is faster" in remark) != bf16
    assert not slow_precision(Trainer(precision="32-true", **options))


@pytest.mark.parametrize("size", [2, 48])
def test_the_title_of_histograms_is_near_its_plots(size: int) -> None:
    white = (histograms(torch.randn(50, size)) == 255).all(0).all(1).tolist()
    gaps = "".join(" " if row else "#" for row in white).split("#")
    assert max(map(len, gaps)) < 25, "pixels without content"


def test_the_animation_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most `MAX_FRAMES` frames of the same size, with the first and the last preview."""
    assert write_animation(tmp_path, "samples") is None
    monkeypatch.setattr(animation, "MAX_FRAMES", 5)
    monkeypatch.setattr(animation, "MAX_PIXELS", 1000)
    for number in range(0, 210, 10):
        size = (60 + number // 100, 40)  # titles differ in width
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"samples-{number:07d}.png")
    Image.new("RGB", (5, 5)).save(tmp_path / "samples-last-step1.png")  # of sample.py
    path = write_animation(tmp_path, "samples")
    assert path is not None
    with Image.open(path) as film:
        assert film.n_frames == 5  # type: ignore[attr-defined]
        assert film.size[0] * film.size[1] <= 1050
        reds = []
        for frame in range(5):
            film.seek(frame)
            reds.append(film.convert("RGB").getpixel((5, 5))[0])  # type: ignore[index]
    assert np.allclose(reds, [0, 50, 100, 150, 200], atol=8)
    assert {one.suffix for one in tmp_path.iterdir()} == {".png", ".webp"}


def test_bars_leave_nothing_but_what_was_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(shown, "BARS", bars := Bars())
    key = bars.add("train", 10)
    bars.update(key, 5, "5/10  3 s left", "train/loss 0.5 [kl]")
    print("warning: something", file=sys.stderr)
    for _ in track(range(2), "features", quiet=0):
        pass
    bars.remove(key)
    bars.remove(key)
    assert sys.stderr is terminal
    text = terminal.getvalue()
    for part in ("train", "5/10  3 s left", "train/loss 0.5 [kl]", "warning: something\n"):
        assert part in text, part
    assert "features" in text


def test_long_work_prints_a_line_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each part takes 1 s; nothing is printed in the first two seconds, nor on other ranks."""
    now = 0.0
    monkeypatch.setattr("common.progress.time.perf_counter", lambda: now)
    for item in track(range(30), "rasterising"):
        now = item + 1.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "rasterising: 2/30  28 s left",
        "rasterising: 12/30  18 s left",
        "rasterising: 22/30  8 s left",
    ]
    monkeypatch.setenv("LOCAL_RANK", "1")
    Task("rasterising", 3, 0).update(1)
    assert not capsys.readouterr().err
    assert [duration(time) for time in (9, 90, 9000)] == ["9 s", "1.5 min", "2.5 h"]


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "preview"])
def test_help_leads_with_what_people_change(
    subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help has at most 25 lines, and every option in it exists in the complete help."""
    assert train.main([subcommand, "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 25
    assert max(map(len, text.splitlines())) <= 100
    assert train.main([subcommand, "--help_all"]) == 0
    complete = capsys.readouterr().out
    assert len(complete.splitlines()) > 300
    for option in re.findall(r"--[a-z][\w.]*\w", text):
        if not option.startswith(("--model.", "--data.")) and option != "--help_all":
            assert option in complete, option
