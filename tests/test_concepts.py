"""Concept pages and the tour: their values, figures and code agree with the code they describe."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pages
import train
from cli.pages import figures
from common.files import ROOT
from lightning_modules.nn.convolution import conv_size, transposed_size

CONCEPTS = ROOT / "docs" / "concepts"
# Options of the trainer that shorten the commands of the tour, for each subcommand of train.py.
SHORT: dict[str, dict[str, int]] = {
    "fit": {
        "max_epochs": 1,
        "check_val_every_n_epoch": 1,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
    },
    "test": {"limit_test_batches": 1},
}


def table_rows(page: str, pattern: str) -> list[tuple[str, ...]]:
    """Groups of the lines of a concept page that match a pattern."""
    text = (CONCEPTS / page).read_text(encoding="utf-8")
    return [found.groups() for found in re.finditer(f"^{pattern}$", text, re.MULTILINE)]


def result(name: str) -> Any:
    return json.loads((ROOT / f"results/{name}.json").read_text(encoding="utf-8"))


def test_sizes_of_convolutions() -> None:
    number = r" ([\d–]+) \|"
    rows = table_rows("convolutions.md", rf"\| (convolution|transposed) \|{5 * number}.*")
    assert len(rows) == 8
    for layer, *values in rows:
        kernel, stride, padding, extra, size = (int(one.replace("–", "0")) for one in values)
        x = torch.zeros(1, 1, 16, 16)
        if layer == "convolution":
            assert conv_size(16, kernel, stride, padding) == size
            shown = nn.Conv2d(1, 1, kernel, stride, padding)(x)
        else:
            assert transposed_size(16, kernel, stride, padding, extra) == size
            shown = nn.ConvTranspose2d(1, 1, kernel, stride, padding, extra)(x)
        assert shown.shape[-1] == size


def test_results_on_concept_pages() -> None:
    """Values of the pages are those of results/, rounded."""
    rows = table_rows("generative.md", r"\| p\(y.* \| (0\.\d+) \| \d+ \| `([\w-]+)` \|")
    assert len(rows) == 2
    for value, name in rows:
        assert float(value) == pytest.approx(result(name)["value"], abs=0.0005)
    rows = table_rows("electra.md", r"\| .*\(`(\w+)`\) \| .* \| (0\.\d+) ± (0\.\d+) \| .*")
    names = {"mlm": "MLM", "all_tokens": "all-tokens MLM", "electra": "ELECTRA"}
    assert [row[0] for row in rows] == list(names)
    for objective, *values in rows:
        measured = result("electra-probe")["variants"][names[objective]]["test/probe"]
        assert [float(value) for value in values] == pytest.approx(measured, abs=0.0005)


def test_a_sampled_token_has_no_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    text = (CONCEPTS / "electra.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(code, {})
    assert code.rstrip().endswith(f"# {capsys.readouterr().out.strip()}")


def test_figures_are_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures without a trained model equal the committed ones, but for the rendering of text."""
    monkeypatch.setattr(figures, "DOCS", tmp_path)
    monkeypatch.setattr(figures, "RUNS", tmp_path)
    assert pages.main(["figures"]) == 0
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["kl-directions.png", "transposed-overlap.png"]
    for name in drawn:
        new, kept = (Image.open(folder / name).convert("L") for folder in (tmp_path, ROOT / "docs"))
        difference = np.asarray(new, float) - np.asarray(kept.resize(new.size), float)
        assert np.abs(difference).mean() < 5, "run `python pages.py figures`"


def small_run(folder: Path, *words: str) -> Path:
    """Train for one update; return the run."""
    options = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]
    options += ["--trainer.accelerator", "cpu", "--run_dir", str(folder / "run")]
    assert train.main(["fit", *words, *options]) == 0
    return folder / "run"


def test_figure_of_bayes_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure has samples of each class, and p(y|x) and log p(x) of four images."""
    words = "--model VAE --model.conditional true --data OpenMoji --data.size 8"
    run = small_run(tmp_path, *words.split(), "--data.max_samples", "200")
    monkeypatch.setattr(figures, "CLASSIFIER_EPOCHS", 1)
    figure = figures.bayes(run)
    titles = [axis.get_title() for axis in figure.axes]
    assert sum("log p(x) = -" in title for title in titles) == 4
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes if axis.patches]
    assert [len(bars) for bars in heights] == [20] * 4
    assert all(sum(bars) == pytest.approx(2) for bars in heights), "two distributions"


def test_figure_of_the_ring(tmp_path: Path) -> None:
    """Both halves have real and generated points, and the number of covered modes as title."""
    run = small_run(tmp_path, "--config", "configs/gan/ring.yaml")
    ring = run.rename(tmp_path / "ring")
    shutil.copytree(ring, tmp_path / "collapse")
    for axis in figures.ring(ring).axes:
        assert re.fullmatch(r"[0-8] of 8 modes, \d+% of the samples near one", axis.get_title())
        assert [len(points.get_offsets()) for points in axis.collections] == [1000, 1000]


def test_figure_of_replaced_tokens(tmp_path: Path) -> None:
    """Each replaced token has a frame and the true token below it."""
    (tmp_path / "text.txt").write_text("the cat sat on a mat\na dog\n" * 30, encoding="utf-8")
    words = (
        "--model ELECTRA --model.layers 1 --model.width 16 --model.embedding 8 --model.context 20"
    )
    words += " --data TextFiles --data.batching records --data.tokenizer word --data.context 20"
    words += f" --data.batch_size 4 --data.path {tmp_path}/text.txt --data.root {tmp_path}"
    (axis,) = figures.electra(small_run(tmp_path, *words.split())).axes
    framed = [
        text
        for text in axis.texts
        if (box := text.get_bbox_patch())
        and box.get_edgecolor()[:3] == (0, 0, 0)
        and box.get_edgecolor()[3] == 1
    ]
    below = [text for text in axis.texts if not text.get_bbox_patch()]
    assert framed
    assert len(below) == len(framed)
    for token, true in zip(framed, below):
        assert token.get_text() != true.get_text()
        assert token.get_position()[0] == true.get_position()[0]


def test_code_of_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells of the tour run, with two updates per training and without `evaluate.py`."""
    text = (ROOT / "docs/howto/tour.md").read_text(encoding="utf-8")
    cells = re.findall(
        r"^```\{code-cell\} ipython3\n(?::[^\n]*\n\n)?(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    code = "\n".join(cells).replace("\\\n", " ").replace("runs/tour", str(tmp_path / "tour"))
    assert code.count("\n%run ") == 4
    called = []

    def run(line: str) -> None:
        program, *words = line.split()
        called.append(program)
        if program == "train.py":
            words += [f"--trainer.{name}={value}" for name, value in SHORT[words[0]].items()]
            assert train.main(words) == 0

    exec(re.sub(r"^%run (.*)$", r"run('\1')", code, flags=re.MULTILINE), {"run": run})
    assert called == ["train.py", "train.py", "evaluate.py", "train.py"]
