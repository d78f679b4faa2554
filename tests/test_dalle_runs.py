"""DALL-E with a discrete VAE and CLIP by the command line: prompts, ranking, priming, errors."""

import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import sample
import train
from cli.data import data_module
from cli.image_inputs import image_input
from lightning_modules import load
from lightning_modules.dalle import DALLE
from lightning_modules.decoding.filters import SamplingConfig
from metrics.features import to_bytes
from metrics.retrieval import image_keys
from tests.runs import tiny_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny discrete VAE, a DALL-E on its checkpoint, and a CLIP."""
    folder = tmp_path_factory.mktemp("dalle")
    for system, more in (
        ("dvae", []),
        ("clip", []),
        ("dalle", ["--model.dvae", str(folder / "dvae/checkpoints/last.ckpt")]),
    ):
        config = tiny_config(folder / f"{system}.yaml", system, max_samples=200)
        few = [
            "--trainer.max_steps",
            "4",
            "--trainer.limit_val_batches",
            "1",
            "--run_dir",
            str(folder / system),
        ]
        assert train.main(["fit", "--config", str(config), *few, *more]) == 0
    return folder


def test_images_encoded_once_give_the_same_training(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without augmentation, `captions_only` changes the speed only."""
    encoded, encode = [], DALLE._encode_split
    monkeypatch.setattr(
        DALLE, "_encode_split", lambda self, split: (encoded.append(split), encode(self, split))
    )
    config = tiny_config(tmp_path / "c.yaml", "dalle", max_samples=200, captions_only=True)
    dvae = ["--model.dvae", str(runs / "dvae/checkpoints/last.ckpt")]
    few = ["--trainer.max_steps", "4", "--trainer.limit_val_batches", "1"]
    run = ["--config", str(config), "--run_dir", str(tmp_path / "run")]
    assert train.main(["fit", *run, *few, *dvae]) == 0
    assert encoded == ["train", "val"]
    once = load(tmp_path / "run/checkpoints/last.ckpt").state_dict()
    for name, value in load(runs / "dalle/checkpoints/last.ckpt").state_dict().items():
        torch.testing.assert_close(once[name], value, msg=name)


def draw(runs: Path, *options: str) -> int:
    return sample.main([str(runs / "dalle/checkpoints/last.ckpt"), *options])


def test_one_file_is_enough(runs: Path) -> None:
    """The checkpoint holds the discrete VAE's averaged weights and the tokenizer, but no path."""
    model, dvae = (
        load(runs / "dalle/checkpoints/last.ckpt"),
        load(runs / "dvae/checkpoints/last.ckpt"),
    )
    averaged = dvae.ema.networks["network"].state_dict()
    assert any(
        not torch.equal(value, averaged[name]) for name, value in dvae.network.state_dict().items()
    )
    own = {name: value for name, value in model.state_dict().items() if name.startswith("dvae.")}
    assert own.keys() == {f"dvae.network.{name}" for name in averaged}, "no second copy"
    for name, value in averaged.items():
        assert torch.equal(value, own[f"dvae.network.{name}"]), name
    assert "last.ckpt" not in repr(dict(model.hparams))
    assert model.sample([0, 1], prompt=["red apple"]).shape == (2, 3, 16, 16)


def test_previews_show_pairs_of_prompts(runs: Path) -> None:
    names = {path.name.rpartition("-")[0] for path in (runs / "dalle/samples").iterdir()}
    assert {"samples", "prompts"} <= names
    height = Image.open(runs / "dalle/samples/prompts-0000004.png").size[1]
    assert height > 2 * (96 + 15), "red apple above green apple, each with its caption"


def test_prompts_are_drawn_ranked_and_labelled(runs: Path, tmp_path: Path, capsys: Any) -> None:
    """`--ranker` keeps the best samples of each prompt, as files and in a labelled grid."""
    ranker = str(runs / "clip/checkpoints/last.ckpt")
    options = [
        "--prompt",
        "red apple",
        "--prompt",
        "dog face",
        "--num",
        "6",
        "--out",
        str(tmp_path),
    ]
    capsys.readouterr()
    assert draw(runs, *options, "--ranker", ranker, "--keep", "2") == 0
    *rows, last = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows] == ["red apple"] * 2 + ["dog face"] * 2
    assert last == [str(tmp_path / "grid.png")]
    model, clip = load(runs / "dalle/checkpoints/last.ckpt"), load(ranker)
    drawn = model.sample(list(range(6)), prompt=["red apple"])
    scores = clip.score(drawn, ["red apple"])[:, 0]
    best = scores.argsort(descending=True)[:2].tolist()
    assert [Path(row[0]).name for row in rows[:2]] == [
        f"prompt01-seed{seed:04d}.png" for seed in best
    ]
    assert [float(row[2]) for row in rows[:2]] == pytest.approx(scores[best].tolist(), abs=1e-3)
    width, height = Image.open(tmp_path / "grid.png").size
    assert height == 2 * (64 + 2), "a line for each prompt"
    assert width > 2 * 64 + 40, "two images and the caption"


def test_it_ranks_by_its_own_likelihood(runs: Path, tmp_path: Path, capsys: Any) -> None:
    """`score` is log p(z|y) of an image's tokens, and `--ranker` accepts a DALL-E."""
    checkpoint = runs / "dalle/checkpoints/last.ckpt"
    model = load(checkpoint)
    drawn = model.sample([0, 1, 2], prompt=["red apple"])
    scores = model.score(drawn, ["red apple", "dog face"])
    assert scores.shape == (3, 2)
    codes = model.dvae.encode_tokens(drawn).flatten(1)
    tokens = model.tokenize(["dog face"] * 3)
    with torch.no_grad():
        torch.testing.assert_close(scores[:, 1], -model.token_nll(tokens, codes)[1].sum(1))
    capsys.readouterr()
    assert (
        draw(
            runs,
            "--prompt",
            "red apple",
            "--num",
            "3",
            "--keep",
            "1",
            "--ranker",
            str(checkpoint),
            "--out",
            str(tmp_path),
        )
        == 0
    )
    best = model.score(drawn, ["red apple"])[:, 0].argmax().item()
    assert f"prompt01-seed{best:04d}.png" in capsys.readouterr().out


def test_lines_of_another_program_are_sampled(
    runs: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--prompt -` reads lines from stdin; prompts that cannot be encoded are counted."""
    monkeypatch.setattr("sys.stdin", io.StringIO("red apple\n\nквадрат\nDog  Face\n"))
    assert draw(runs, "--prompt", "-", "--num", "1", "--out", str(tmp_path)) == 2
    captured = capsys.readouterr()
    assert "'к', 'в', 'а', 'д', 'р', 'т', which is in no training caption" in captured.err
    assert "error: 1 of 3 prompts could not be used" in captured.err
    assert (tmp_path / "prompt03-seed0000.png").exists()


def test_primed_pictures_keep_their_upper_half(runs: Path, tmp_path: Path) -> None:
    """`--prime` reads an image file, whose first image tokens are kept in every sample."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(
        tmp_path / "a.png"
    )
    options = [
        "--prompt",
        "red apple",
        "--num",
        "2",
        "--prime",
        str(tmp_path / "a.png"),
        "--out",
        str(tmp_path / "out"),
    ]
    options += ["--guidance", "2", "--temperature", "0.7"]
    assert draw(runs, *options) == 0
    model = load(runs / "dalle/checkpoints/last.ckpt")
    image = image_input(tmp_path / "a.png", [3, 16, 16], "--prime")
    given = model.dvae.encode_tokens(image[None])[0, :2].flatten()
    codes = model.generate_tokens(
        model.tokenize(["red apple"] * 2), [0, 1], 2.0, SamplingConfig(0.7), given
    )
    assert torch.equal(codes[:, :2].flatten(1), given.expand(2, -1))
    for seed, expected in enumerate(to_bytes(model.dvae.decode_tokens(codes))):
        drawn = np.asarray(Image.open(tmp_path / f"out/prompt01-seed{seed:04d}.png"))
        assert np.abs(drawn.astype(int) - expected.permute(1, 2, 0).numpy()).max() <= 1


def test_captions_are_those_of_the_split(runs: Path, capsys: Any) -> None:
    """`--split val` samples for the validation captions, row i for caption i."""
    from callbacks.targets import targets

    model, data = (
        load(runs / "dalle/checkpoints/last.ckpt"),
        data_module(runs / "dalle/config.yaml"),
    )
    (target,) = targets(model, data, "val")
    torch.testing.assert_close(
        target.generate([3]), model.sample([3], prompt=[data.split("val").captions[3]])
    )


def test_ranking_is_scored_with_both_baselines(runs: Path, capsys: Any) -> None:
    capsys.readouterr()
    ranker = [
        "--ranker",
        str(runs / "clip/checkpoints/last.ckpt"),
        "--metrics",
        "ranking",
        "--num",
        "384",
    ]
    assert evaluate.main([str(runs / "dalle/checkpoints/last.ckpt"), *ranker]) == 0
    lines = {line["metric"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(lines) == {"ranking", "ranking-real", "ranking-shuffled"}
    assert "passes=2|" in lines["ranking"]["signature"]
    clip, data = (
        load(runs / "clip/checkpoints/last.ckpt"),
        data_module(runs / "clip/config.yaml"),
    )
    assert "|n=192|" in lines["ranking"]["signature"]
    assert all(
        "|negatives=other-caption-of-other-image|" in line["signature"] for line in lines.values()
    )
    batch = data.batch("test", list(range(192)))
    features = clip.features(batch["image"]), clip.features(data.split("test").captions)
    expected = clip.ranking
    expected.update(*features, batch["tokens"], image_keys(batch["image"]), batch["index"])
    assert lines["ranking-real"]["value"] == pytest.approx(expected.compute().item())


MISTAKES = {
    "--prompt 'a \u2603'": "which is in no training caption: write the caption without it",
    "--prompt ''": "the caption is empty: write one",
    f"--prompt '{'red apple ' * 20}'": "more than the 24 of data.text_length: shorten it",
    "--prompt cat --guidance -1": "--guidance must be >=0 and <inf (got -1)",
    "--prompt cat --prime {runs}/nothing.png": "there is no such file; give an image",
    "--prompt cat --prime_share 2 --prime {runs}/dvae/samples/real.png": (
        "--prime_share must be >0 and <1 (got 2)"
    ),
    "--prompt cat --ranker {runs}/dvae/checkpoints/last.ckpt": (
        "is a DiscreteVAE; give the checkpoint of a CLIP"
    ),
    "--prompt cat --keep 0": "--keep must be >0 (got 0)",
    "--prompt cat --keep 2": (
        "--keep needs --ranker, which selects the best images; give --ranker CKPT"
    ),
    "--keep 2": "--ranker and --keep select images of a prompt; give --prompt TEXT",
    "--prompt cat --temperature -1": "--temperature must be >=0 and <inf (got -1)",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_mistakes_are_one_line(options: str, runs: Path, tmp_path: Path, capsys: Any) -> None:
    assert (
        draw(runs, *shlex.split(options.replace("{runs}", str(runs))), "--out", str(tmp_path)) == 2
    )
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert MISTAKES[options] in lines[0]


@pytest.mark.parametrize(
    ("dvae", "message"),
    [
        ("clip", "is a CLIP; give the checkpoint of a discrete VAE"),
        ("dvae", "train a discrete VAE on this data"),
    ],
)
def test_the_wrong_dvae(dvae: str, message: str, runs: Path, tmp_path: Path, capsys: Any) -> None:
    """Checkpoints of another system, or for images of another size, are refused."""
    argv = ["fit", "--config", str(runs / "dalle.yaml"), "--run_dir", str(tmp_path / "run")]
    argv += [
        "--model.dvae",
        str(runs / f"{dvae}/checkpoints/last.ckpt"),
        *(["--data.size", "32"] if dvae == "dvae" else []),
    ]
    assert train.main(argv) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
