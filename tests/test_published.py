"""Published weights: GPT-2 in the layout of Hugging Face `transformers`."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from datamodules.tokenizers.bpe import BPETokenizer
from lightning_modules import load
from tests.runs import tiny_config
from train import main as train

TEXT = "The quick brown fox jumps over the lazy dog.\n" * 200


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised GPT-2 with large weights, and its tokenizer, as `transformers` saves
    them."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = BPETokenizer.train([TEXT], 300)
    state = json.loads(tokenizer.to_json())["model"]
    (folder / "tokenizer.json").write_text(state, encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 4, "initializer_range": 0.5}
    GPT2LMHeadModel(GPT2Config(vocab_size=tokenizer.vocab_size, **sizes)).save_pretrained(folder)
    (folder / "input.txt").write_text(TEXT, encoding="utf-8")
    return folder


def arguments(published: Path, folder: Path, *more: str) -> list[str]:
    options = {
        "data.path": published / "input.txt",
        "data.tokenizer": "bpe",
        "data.tokenizer_file": published / "tokenizer.json",
        "data.context": 24,
        "data.root": folder,
        "model.context": 24,
        "model.layers": 2,
        "model.heads": 4,
        "model.width": 16,
        "model.feed_forward": "gelu_tanh",
        "model.learning_rate": 1e-30,
        "trainer.max_steps": 1,
        "trainer.limit_val_batches": 0,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    run = ["--init_from", str(published), "--run_dir", str(folder / "run")]
    return ["fit", "--model", "GPT", "--data", "TextFiles", *words, *run, *more]


def test_logits_equal_those_of_transformers(published: Path, tmp_path: Path) -> None:
    assert train(arguments(published, tmp_path)) == 0
    ours = load(tmp_path / "run/checkpoints/last.ckpt")
    theirs = GPT2LMHeadModel.from_pretrained(published).eval()
    tokens = torch.randint(theirs.config.vocab_size, (3, 24))
    with torch.no_grad():
        expected = theirs(tokens).logits
        torch.testing.assert_close(ours(tokens), expected, atol=1e-4, rtol=0)
    assert expected.abs().max() > 5
    text = "The lazy fox"
    (prompt, *_) = ours.sample([0], prompt=text, max_new_tokens=1)
    assert prompt.startswith(text)


def test_another_tokenizer_is_refused(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tokenizer of the same size would assign the embeddings to other tokens."""
    other = tmp_path / "other.json"
    model = BPETokenizer.train(["Completely different words here, again and again.\n" * 99], 300)
    other.write_text(json.loads(model.to_json())["model"], encoding="utf-8")
    argv = arguments(published, tmp_path, "--data.tokenizer_file", str(other))
    assert train(argv) == 2
    assert "give its tokenizer.json as --data.tokenizer_file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model.layers", "3"], "--init_from needs --model.layers 2"),
        (["--model.feed_forward", "gelu"], "--init_from needs --model.feed_forward gelu_tanh"),
        (["--model.context", "40", "--data.context", "40"], "model.context at most 32"),
    ],
)
def test_options_that_do_not_fit_are_named(
    more: list[str],
    message: str,
    published: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(arguments(published, tmp_path, *more)) == 2
    assert message in capsys.readouterr().err


def test_other_layouts_are_refused(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((published / "config.json").read_text(encoding="utf-8"))
    for name, content, message in (
        ("model.safetensors", None, "has no model.safetensors; only weights in one file of saf"),
        ("config.json", {**config, "model_type": "llama"}, "has a network of the type 'llama'; g"),
        ("config.json", {**config, "n_inner": 9}, "has n_inner 9; GPT reads networks with None"),
        ("config.json", {**config, "vocab_size": 9}, "give its tokenizer.json as --data.tokenizer"),
    ):
        folder = tmp_path / message[:25]
        folder.mkdir()
        for file in published.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        assert train(arguments(folder, tmp_path)) == 2
        assert message in capsys.readouterr().err
    argv = ["fit", "--config", str(tiny_config(tmp_path / "c.yaml", "rnn_lm"))]
    argv += ["--init_from", str(published), "--run_dir", str(tmp_path / "rnn")]
    assert train(argv) == 2
    assert "which RNNLM does not read; GPT reads those of GPT-2" in capsys.readouterr().err
