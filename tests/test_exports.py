"""Exports: the same bits as the checkpoint, without pickle, from a folder and from a hub."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
import export
import sample
from cli.exporting import graphs
from common.errors import UserError
from lightning_modules import load
from lightning_modules.core.checkpoints import read_checkpoint
from tests.hub import hub
from tests.runs import tiny_config
from train import main as train


def trained(folder: Path, system: str, updates: int = 2) -> Path:
    """Train a system for a few updates, and return its checkpoint."""
    config = tiny_config(folder / "config.yaml", system)
    argv = ["fit", "--config", str(config), "--run_dir", str(folder / "run")]
    assert train([*argv, f"--trainer.max_steps={updates}", "--trainer.limit_val_batches=0"]) == 0
    return folder / "run/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a GPT."""
    return trained(tmp_path_factory.mktemp("gpt"), "gpt")


@pytest.mark.parametrize("system", ["vae", "dalle"])
def test_a_system_is_exported_with_the_same_bits(
    system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trial test_all_exports.py exports every system."""
    path = trained(tmp_path, system)
    check_bits(path, tmp_path, capsys)
    if system == "dalle":
        assert export.main([str(path), "--format", "pt2"]) == 2
        assert "DALLE has no network that can be exported to pt2" in capsys.readouterr().err


def check_bits(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Export a checkpoint of a run in `tmp_path`, and compare weights, arguments and card."""
    capsys.readouterr()
    assert export.main([str(path)]) == 0
    folder = tmp_path / "run/exports/last"
    assert capsys.readouterr().out == f"export: {folder}\n"
    one, other = load(path), load(folder)
    assert type(one) is type(other)
    assert other.training is False
    theirs = other.state_dict()
    assert list(theirs) == list(one.state_dict())
    for name, value in one.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert dict(one.hparams) == dict(other.hparams)
    assert (one.tokenizer is None) or one.tokenizer.to_json() == other.tokenizer.to_json()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"# {type(one).__name__}" in card
    assert "Licence of the data: that of the training data" not in card
    assert str(tmp_path) not in card + (folder / "config.yaml").read_text(encoding="utf-8")


def test_programs_accept_an_export(
    gpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "export"
    assert export.main([str(gpt), "--out", str(folder)]) == 0
    outputs = []
    for source in (gpt, folder):
        capsys.readouterr()
        assert sample.main([str(source), "--num", "2", "--max_new_tokens", "5"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != ""
    assert evaluate.main([str(folder)]) == 0
    assert '"metric": "nll"' in capsys.readouterr().out
    config = tiny_config(tmp_path / "config.yaml", "gpt")
    argv = ["fit", "--config", str(config), "--init_from", str(folder), "--trainer.max_steps=1"]
    assert train([*argv, "--run_dir", str(tmp_path / "new")]) == 0
    assert export.main([str(folder)]) == 2
    assert "give --out DIR" in capsys.readouterr().err
    argv = ["fit", "--config", str(config), "--data.tokenizer_file", str(folder)]
    argv += ["--run_dir", str(tmp_path / "same"), "--trainer.max_steps=1"]
    assert train([*argv, "--init_from", str(folder)]) == 0


def test_images_of_an_export_are_sampled_and_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(trained(tmp_path, "vae"))]) == 0
    folder = tmp_path / "run/exports/last"
    capsys.readouterr()
    assert sample.main([str(folder), "--num", "1", "--mode", "reconstruct"]) == 0
    (first, *_) = capsys.readouterr().out.splitlines()
    assert Path(first).is_relative_to(folder / "samples")
    assert evaluate.main([str(folder), "--metrics", "precision", "--num", "10"]) == 0


def test_an_export_is_pushed_to_and_loaded_from_a_hub(
    gpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub() as (address, files):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        folder = tmp_path / "export"
        (folder / "samples").mkdir(parents=True)
        (folder / "samples/x.png").write_bytes(b"x")
        argv = [str(gpt), "--out", str(folder), "--push_to_hub", "user/gpt"]
        assert export.main(argv) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "hub: hf://user/gpt"
        names = {"model.safetensors", "config.json", "config.yaml", "README.md"}
        assert files.keys() == {f"user/gpt/{name}" for name in names}
        model = load("hf://user/gpt")
        assert load(Path("hf://user/gpt")).hparams == model.hparams
        for name, value in load(gpt).state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name
        argv = ["hf://user/gpt", "--num", "1", "--max_new_tokens", "3"]
        assert sample.main(argv) == 0
        assert evaluate.main(["hf://user/other", "--metrics", "fid"]) == 2
        assert "cannot be downloaded" in capsys.readouterr().err
        with pytest.raises(
            UserError, match=r"hf://user/other: cannot be downloaded .*check the name"
        ):
            load("hf://user/other")


def broken(folder: Path, name: str, content: bytes) -> Path:
    """Replace a file of an export."""
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"x" * 100, "not a readable export"),
        ("config.json", b"{", "not a readable export"),
        ("config.json", b"[]", "names no class of this template"),
        ("config.json", b'{"class_path": "os.system"}', "names no class of this template"),
    ],
)
def test_damaged_exports_are_refused(
    name: str, content: bytes, message: str, gpt: Path, tmp_path: Path
) -> None:
    assert export.main([str(gpt), "--out", str(tmp_path)]) == 0
    with pytest.raises(UserError, match=message):
        read_checkpoint(broken(tmp_path, name, content))


def test_an_export_runs_no_other_class(gpt: Path, tmp_path: Path) -> None:
    assert export.main([str(gpt), "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["class_path"] = "subprocess.Popen"
    broken(tmp_path, "config.json", json.dumps(config).encode())
    with pytest.raises(UserError, match=r"subprocess\.Popen is not a GenerativeModule"):
        load(tmp_path)


def test_paths_of_the_user_are_not_exported(tmp_path: Path) -> None:
    from cli.exporting.card import data_entry
    from common.run import Run

    arguments: dict[str, Any] = {"root": "/home/me/data", "folder": "/home/me/faces", "size": 64}
    config = {"data": {"class_path": "datamodules.images.folder.ImageFolder"}}
    config["data"]["init_args"] = arguments  # type: ignore[assignment]
    (tmp_path / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    entry = data_entry(Run(tmp_path))
    assert entry is not None
    assert entry["init_args"] == {"folder": "faces", "size": 64}


@pytest.mark.parametrize(
    ("system", "networks"),
    [("gan", ["generator"]), ("seq2seq", ["encoder", "step"])],
)
def test_networks_are_exported_to_onnx(
    system: str, networks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`write_networks` compares the outputs with those of PyTorch, for other sizes of inputs."""
    path = trained(tmp_path, system)
    capsys.readouterr()
    assert export.main([str(path), "--format", "onnx"]) == 0
    folder = tmp_path / "run/exports/last-onnx"
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(folder / f"{name}.onnx") for name in networks
    ]
    assert all("differs from PyTorch by at most" in line for line in lines)


def test_a_difference_from_pytorch_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(trained(tmp_path, "autoencoder"))

    def wrong(network: Any, path: Path, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor]:
        path.write_bytes(b"")
        return (network.module(*inputs.values()) + 2e-4,)

    monkeypatch.setitem(graphs.WRITERS, "onnx", wrong)
    with pytest.raises(RuntimeError, match=r"encoder.onnx: outputs differ .* by 0.0002"):
        graphs.write_networks(model, tmp_path / "out", "onnx")
    assert not list((tmp_path / "out").iterdir())


def test_gpt_decodes_in_onnx_runtime_from_an_empty_cache(gpt: Path, tmp_path: Path) -> None:
    """The most probable tokens after a prompt are those of PyTorch without a cache."""
    import onnxruntime

    assert export.main([str(gpt), "--format", "onnx", "--out", str(tmp_path)]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    model = load(gpt)
    heads, width = model.hparams.heads, model.hparams.width
    cache = np.zeros((2, len(model.blocks), 2, heads, 0, width // heads), np.float32)
    tokens = [[5, 9], [1, 7]]
    for position in range(8):
        token = np.array([[row[position]] for row in tokens])
        logits, cache = session.run(None, {"token": token, "cache": cache})
        if position >= 1:
            for row, best in zip(tokens, logits.argmax(-1).tolist(), strict=True):
                row.append(best)
    expected = torch.tensor([[5, 9], [1, 7]])
    with torch.no_grad():
        for _ in range(7):
            expected = torch.cat([expected, model(expected)[:, -1:].argmax(-1)], 1)
    assert tokens == expected.tolist()


def test_a_program_of_torch_export_is_loaded(gpt: Path, tmp_path: Path) -> None:
    assert export.main([str(gpt), "--format", "pt2", "--out", str(tmp_path)]) == 0
    step = torch.export.load(tmp_path / "step.pt2").module()
    model = load(gpt)
    heads, width = model.hparams.heads, model.hparams.width
    cache = torch.randn(3, len(model.blocks), 2, heads, 4, width // heads)
    used = {name.removeprefix("weights.") for name in step.state_dict()}
    assert used <= model.state_dict().keys()
    logits, longer = step(torch.tensor([[1], [2], [3]]), cache)
    assert logits.shape == (3, model.hparams.vocab_size)
    assert torch.equal(longer[..., :4, :], cache)


def test_only_safetensors_are_pushed(gpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(gpt), "--format", "onnx", "--push_to_hub", "a/b"]) == 2
    assert "--push_to_hub uploads safetensors; leave out --format" in capsys.readouterr().err
