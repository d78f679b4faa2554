"""The table and the figure of the times in which recipes reach published numbers."""

import json
import re
from pathlib import Path

import pytest

from cli import reproduction, results
from cli.pages.systems import system_names, title
from cli.reproduction import training_minutes, validation_curve
from common.files import ROOT

pytestmark = pytest.mark.usefixtures("tracked_systems")
ENTRY = {
    "title": "VAE, NLL ↓",
    "what": "NLL",
    "minutes": 1,
    "config": "configs/vae/mnist.yaml",
    "better": "lower",
    "published": 86.76,
    "protocol": "the same",
}
RESULT = {"value": 88.0, "std": None, "n_seeds": 1, "epochs": 2, "signature": "nll", "minutes": 80}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Directory of a run with rows at updates 50, 100 and 110, and validations at 60 and 110."""
    (tmp_path / "throughput.csv").write_text(
        "step,seconds\n50,30\n100,60\n110,30\n", encoding="utf-8"
    )
    (tmp_path / "metrics.csv").write_text(
        "step,train/loss,val/loss\n50,3.0,\n60,,2.5\n100,2.0,\n110,,1.5\n", encoding="utf-8"
    )
    state = {"state": "finished", "best": {"name": "val/loss", "value": 1.5, "step": 110}}
    (tmp_path / "state.json").write_text(json.dumps(state), encoding="utf-8")
    return tmp_path


def test_minutes_add_up(folder: Path) -> None:
    assert training_minutes(folder) == {50: 0.5, 100: 1.5, 110: 2.0}


def test_the_curve_has_the_value_that_selects_the_best_checkpoint(folder: Path) -> None:
    assert validation_curve(folder) == {"name": "val/loss", "points": [[0.5, 2.5], [2.0, 1.5]]}
    (folder / "state.json").write_text(json.dumps({"state": "finished"}), encoding="utf-8")
    assert validation_curve(folder) == {}


def test_long_curves_are_thinned_and_keep_their_end(folder: Path) -> None:
    rows = [f"{step},,{1 / step}" for step in range(1, 1001)]
    (folder / "metrics.csv").write_text(
        "\n".join(["step,train/loss,val/loss", *rows]), encoding="utf-8"
    )
    points = validation_curve(folder)["points"]
    assert len(points) <= 101
    assert points[-1][1] == 1 / 1000


def test_a_row_has_both_recipes() -> None:
    fast = {name: value for name, value in ENTRY.items() if name != "title"}
    entries = {"vae": ENTRY, "vae-fast": fast, "other": {"what": "a baseline"}}
    found = {"vae": RESULT, "vae-fast": RESULT | {"value": 86.5, "minutes": 39.6}}
    text = results.record_table(entries, found)
    assert "| VAE, NLL ↓ | 86.76 | 88 | 80 | **86.5** | 40 | `vae`, `vae-fast` |\n" in text
    assert "records.png" not in text
    on_gpu = results.record_table(entries | {"vae": ENTRY | {"hardware": "H100"}}, found)
    assert "| 88 | 80 (H100) | **86.5** | 40 |" in on_gpu
    assert "records.png" in results.record_table(entries, {"vae": RESULT | {"curve": {}}})


def test_the_figure_is_drawn_for_recipes_with_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "registry", lambda: {"vae": ENTRY})
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.draw(tmp_path / "records.png")
    assert not (tmp_path / "records.png").exists()
    curve = {"name": "val/loss", "points": [[0.5, 2.5], [2.0, 1.5]]}
    (tmp_path / "vae.json").write_text(json.dumps(RESULT | {"curve": curve}), encoding="utf-8")
    results.draw(tmp_path / "records.png")
    assert (tmp_path / "records.png").stat().st_size > 1000


def test_higher_and_lower_values_can_be_better() -> None:
    assert results.reaches(86.7, ENTRY)
    assert not results.reaches(86.8, ENTRY)
    assert results.reaches(230, ENTRY | {"better": "higher", "published": 225})
    assert reproduction.registry()["gan-mnist-parzen"]["title"].endswith("↑")


def test_the_table_of_an_hour_has_each_system() -> None:
    text = results.hour_table(reproduction.registry(), {"made-openmoji-nll": RESULT})
    for system in system_names():
        assert f"| {title(system)[0]} | " in text, f"{system} has no reproduction with `hour`"
    systems = [Path(e["config"]).parent for e in reproduction.registry().values() if "hour" in e]
    assert len(systems) == len(set(systems)), "one row per system"
    gallery = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", gallery, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"gallery.md#([\w-]+)", text)) <= anchors
    row = "| MADE | NLL of unseen emoji in nats ↓ | 88 | 80 | `made-openmoji-nll` |"
    assert f"{row} [gallery](docs/gallery.md#made) |\n" in text
