"""Pages for authors of systems and callbacks: their examples run, and their lists are complete."""

import ast
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pytorch_lightning import Trainer

import train
from cli.classes import FOLDERS, classes_in
from common.files import ROOT
from common.imports import import_object
from datamodules.images.openmoji import OpenMoji
from datamodules.text.base import TextDataModule
from lightning_modules.vae import VAE
from tests.runs import tiny_config
from tests.test_docstrings import faults

# Folder of `datamodules/` of each kind of data in docs/add_a_system.md.
KINDS = {
    "images": "images",
    "pairs of images": "pairs",
    "text": "text",
    "pairs of sentences": "parallel",
    "captions": "captions",
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Contents of the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def module_of(code: str, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Module with the code of a page, which class paths can name."""
    module = ModuleType(name)
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_of_examples_are_annotated(path: Path) -> None:
    """The type checker of `make lint` demands it of a file with the example."""
    for code in blocks(path.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.FunctionDef):
                given = node.args
                extra = [one for one in (given.vararg, given.kwarg) if one is not None]
                named = [one for one in given.args + given.kwonlyargs if one.arg != "self"]
                assert all(one.annotation for one in named + extra), node.name
                assert node.returns, node.name


def test_frozen_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module and the recipe of the page work, and only the encoder is frozen."""
    text = page("howto/add_a_metric.md")
    (code,), (recipe,) = blocks(text, "python"), blocks(text, "yaml")
    module_of(code, "lightning_modules.mine", monkeypatch)
    model = yaml.safe_load(recipe)["model"]
    made = import_object(model["class_path"])(image_shape=[3, 32, 32], **model["init_args"])
    frozen = {name for name, one in made.named_parameters() if not one.requires_grad}
    assert frozen == {name for name, _ in made.named_parameters() if name.startswith("encoder.")}


def trained(tmp_path: Path, *callbacks: Any) -> VAE:
    """A small VAE after 30 updates, at most 8 per step of the trainer."""
    model = VAE(image_shape=[3, 16, 16], hidden=[8], latent_dim=2)
    model.updates_per_step = 8
    Trainer(
        accelerator="cpu",
        max_steps=30,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        limit_val_batches=0,
        callbacks=list(callbacks),
    ).fit(model, datamodule=OpenMoji(size=16, batch_size=8, max_samples=200))
    return model


def test_callbacks_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One prints every 10 updates; the other freezes the encoder after 11."""
    names: dict[str, Any] = {}
    for code in blocks(page("howto/callbacks.md"), "python"):
        exec(code, names)
    weights: list[Any] = []

    class Watched(names["FreezeAfter"]):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *arguments: Any) -> None:
            first = next(pl_module.encoder.parameters())
            weights.append((trainer.global_step, first.detach().clone()))

    model = trained(tmp_path, names["Every"](10), Watched("encoder", 11))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"update {n}" for n in (10, 20, 30)]
    assert not any(one.requires_grad for one in model.encoder.parameters())
    assert all(one.requires_grad for one in model.decoder.parameters())
    values = dict(weights)
    assert not values[8].equal(values[11])
    assert values[11].equal(values[30])


def test_a_callback_is_an_option_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The class of any module is found; `config.yaml` holds it; `null` leaves it out."""
    module_of(blocks(page("howto/callbacks.md"), "python")[0], "my_ideas", monkeypatch)
    tiny = tiny_config(tmp_path / "tiny.yaml", "vae", batch_size=8, max_samples=40)
    run = ["fit", "--run_dir", str(tmp_path / "run"), "--trainer.limit_val_batches", "1"]
    own = ["--trainer.callbacks+=my_ideas.Every", "--trainer.callbacks.every", "2"]
    own += ["--trainer.callbacks+=Timer", "--trainer.callbacks.interval", "epoch"]
    first_run = ["--config", str(tiny), "--model.schedule", "constant", "--trainer.max_steps", "3"]
    assert train.main([*run, *first_run, *own]) == 0
    assert "update 2: norm" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text(encoding="utf-8"))
    first, second = config["trainer"]["callbacks"]
    assert first == {"class_path": "my_ideas.Every", "init_args": {"every": 2}}
    assert second["class_path"].endswith(".Timer")
    resume = [*run, "--ckpt_path", "last", "--trainer.max_steps"]
    assert train.main([*resume, "4"]) == 0
    assert "update 4: norm" in capsys.readouterr().out
    assert train.main([*resume, "6", "--trainer.callbacks", "null"]) == 0
    shown = capsys.readouterr()
    assert "update 6: norm" not in shown.out
    assert "trainer.callbacks" in shown.err


@pytest.mark.parametrize("kind", KINDS)
def test_supplied_arguments_are_listed(kind: str) -> None:
    """The table of the page has all values that data modules of a kind supply, and no other."""
    row = re.search(rf"^\| {kind} \|.*\|(?P<names>[^|]+)\|$", page("add_a_system.md"), re.MULTILINE)
    assert row
    supplied: set[str] = set()
    for (path,) in classes_in(FOLDERS["data"]).values():
        cls: Any = import_object(path)
        folder = "text" if issubclass(cls, TextDataModule) else path.split(".")[1]
        if folder == KINDS[kind]:
            supplied |= set(cls.provides)
    assert set(re.findall(r"`(\w+)`", row["names"])) == supplied


def test_every_kind_of_data_is_listed() -> None:
    folders = {path.split(".")[1] for (path,) in classes_in(FOLDERS["data"]).values()}
    assert folders == set(KINDS.values())


def test_entry_of_the_page_makes_sense_alone() -> None:
    (wrong, right) = re.findall(
        r"^heads: (.*?) {2,}(?:wrong|right)$", page("add_a_system.md"), re.MULTILINE
    )
    assert faults("heads", wrong)
    assert faults("heads", right) == []
