"""Characters that a tokenizer has not seen, and text outside of ASCII in any locale."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import evaluate
import sample
import train
from callbacks.throughput import peak_memory
from common.errors import UserError, utf8_argument
from common.files import ROOT
from datamodules.parallel.files import PairTable
from datamodules.text.files import TextFiles
from datamodules.tokenizers.base import RECORD
from datamodules.tokenizers.pair import PairTokenizer
from datamodules.tokenizers.simple import CharTokenizer

TEXT = "naïve größe 🙂 žlutý\n" * 100
OTHER = "naïve xyz xx\n" * 100


def config(folder: Path, text: str, **options: Any) -> Path:
    """Write a corpus, and the configuration of a tiny GPT on it."""
    folder.mkdir()
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    model = {"context": 8, "layers": 1, "heads": 1, "width": 8, "dropout": 0.0}
    data = {"path": str(folder / "corpus.txt"), "context": 8, "root": str(folder), **options}
    content = {
        "model": {"class_path": "lightning_modules.gpt.GPT", "init_args": model},
        "data": {"class_path": "datamodules.text.files.TextFiles", "init_args": data},
        "trainer": {"max_steps": 1, "accelerator": "cpu"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("unseen")
    path = config(folder / "x", TEXT)
    assert train.main(["fit", "--config", str(path), "--run_dir", str(folder / "run")]) == 0
    os.environ.pop("MAQUETTE_RUN_DIR", None)
    return str(folder / "run/checkpoints/last.ckpt")


LISTED = "has 5 characters that are not in the vocabulary: 'x' (3), 'y' (1), 'w' (1)"


def test_prompts_and_scored_texts(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.txt").write_text("xxnxy\nw", encoding="utf-8")
    prompt = ["--prompt", "xxnxyw", "--num", "1", "--max_new_tokens", "3"]
    score = ["--score", str(tmp_path / "x.txt")]
    for options, name in ((prompt, "--prompt"), (score, f"--score {tmp_path / 'x.txt'}")):
        assert sample.main([checkpoint, *options]) == 2
        error = f"error: {name} {LISTED}; leave them out, or replace them: --unknown replace\n"
        assert capsys.readouterr().err == error
        assert sample.main([checkpoint, *options, "--unknown", "replace"]) == 0
        out, err = capsys.readouterr()
        assert err.startswith(f"{name} {LISTED}; replaced by ' '\n")
        assert out.startswith("  n   ") or out.count("' '") == 4


def test_other_text_for_a_trained_tokenizer(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fine-tuning and evaluation name all characters at once, or replace them."""
    path = config(tmp_path / "x", OTHER, tokenizer_file=checkpoint)
    fit = ["fit", "--config", str(path), "--init_from", checkpoint, "--trainer.max_steps", "1"]
    assert train.main([*fit, "--run_dir", str(tmp_path / "a")]) == 2
    message = "500 characters that are not in the vocabulary: 'x' (300), 'y' (100), 'z' (100)"
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert error.endswith("replace them: data.unknown replace (evaluate.py: --unknown replace)")
    replace = ["--data.unknown", "replace", "--run_dir", str(tmp_path / "b")]
    assert train.main([*fit, *replace]) == 0
    assert f"{message}; replaced by ' '" in capsys.readouterr().err
    assert evaluate.main([checkpoint, "--against", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert evaluate.main([checkpoint, "--against", str(path), "--unknown", "replace"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines
    assert all(line["signature"].endswith("|unknown=replace]") for line in lines)


def test_another_vocabulary_is_not_evaluated(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal ids would be different characters."""
    path = config(tmp_path / "x", OTHER)
    assert evaluate.main([checkpoint, "--against", str(path)]) == 2
    assert "has another vocabulary than" in capsys.readouterr().err


def test_characters_of_held_out_text_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {"train": "abc" * 9, "val": "abß" * 9, "test": "abc" * 9}.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        (tmp_path / f"{name}.tsv").write_text(f"{text}\ta\n", encoding="utf-8")
    root = str(tmp_path / "root")
    for data in (
        TextFiles(str(tmp_path), context=4, root=root),
        PairTable(str(tmp_path), tokenizer="char", root=root),
    ):
        assert data.tokenizer.encode("abcß").min() >= 0
        note = "val split has 9 characters that are not in the training text: 'ß' (9)"
        assert capsys.readouterr().err.count(note) == 1


def test_replacement() -> None:
    tokenizer = CharTokenizer("\n ab", RECORD)
    assert tokenizer.unseen("abzzß") == {"z": 2, "ß": 1}
    assert tokenizer.replace_unseen("abzzß") == "ab   "
    assert CharTokenizer("ab").replace_unseen("bz") == "ba"
    with pytest.raises(UserError, match="the vocabulary has no characters"):
        CharTokenizer("").replace_unseen("x")
    pair = PairTokenizer(tokenizer, CharTokenizer("xyz", RECORD), lower=True)
    assert pair.replace_unseen("ABZ") == "ab "
    assert pair.unseen("ABZ") == {"z": 1}


def test_translated_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All characters of a file are named before its first line is translated."""
    (tmp_path / "x.tsv").write_text("ab\tcd\n" * 20, encoding="utf-8")
    fit = ["fit", "--model", "Transformer", "--model.layers", "1", "--model.width", "16"]
    fit += ["--data", "PairTable", "--data.path", str(tmp_path / "x.tsv")]
    fit += ["--data.tokenizer", "char", "--data.root", str(tmp_path), "--trainer.max_steps", "1"]
    fit += ["--trainer.accelerator", "cpu", "--run_dir", str(tmp_path / "run")]
    assert train.main(fit) == 0
    (tmp_path / "in.txt").write_text("ab \nxa\n\nyx\n", encoding="utf-8")
    capsys.readouterr()
    translate = [str(tmp_path / "run/checkpoints/last.ckpt"), "--input", str(tmp_path / "in.txt")]
    assert sample.main(translate) == 2
    message = "has 3 characters that are not in the vocabulary: 'x' (2), 'y' (1)"
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert sample.main([*translate, "--unknown", "replace"]) == 0
    out, err = capsys.readouterr()
    assert f"{message}; replaced by 'a'" in err
    assert len(out.splitlines()) == 4


PROGRAM = """
import sys, train, sample
config, run, prompt = sys.argv[1:]
assert train.main(["fit", "--config", config, "--run_dir", run]) == 0
ckpt = run + "/checkpoints/last.ckpt"
assert sample.main([ckpt, "--prompt", prompt, "--num", "1", "--max_new_tokens", "4"]) == 0
"""


def test_text_outside_of_ascii_in_the_locale_c(tmp_path: Path) -> None:
    """Training writes samples, and sampling reads a prompt and prints it."""
    path = config(tmp_path / "x", TEXT)
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(tmp_path / "run"), "ï🙂"],
        env={**os.environ, **locale, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines()[-1].startswith("ï🙂")
    samples = list((tmp_path / "run/samples").glob("*.txt"))
    assert samples
    assert not samples[0].read_text(encoding="utf-8").isascii()


def test_words_of_the_command_line_are_utf8() -> None:
    assert utf8_argument("größe") == "größe"
    assert utf8_argument("gr\udcc3\udcb6") == "grö"
    with pytest.raises(UserError, match="is not UTF-8"):
        utf8_argument("\udcff")


def test_peak_memory_without_the_module_of_unix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no module `resource`; macOS counts in bytes."""
    here = peak_memory()["peak_memory_mb"]
    assert 10 < here < 100_000
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory()["peak_memory_mb"] <= here // 1000 + 1
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory() == {}
