"""The model card of an export: system, data, licence, metrics, and how to load it."""

import inspect
import json
from pathlib import Path
from typing import Any

import yaml

from cli.classes import import_class
from cli.evaluation.record import Figure, read_rows
from common.errors import UserError
from common.run import Run


def data_entry(run: Run | None) -> dict[str, Any] | None:
    """Return the data of a run as in its configuration, without paths; None without a run.

    Absolute paths are replaced by their last component, and `root` is left out, because an export
    may be published.
    """
    if run is None or not run.config.is_file():
        return None
    entry = yaml.safe_load(run.config.read_text(encoding="utf-8"))["data"]
    arguments = {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in (entry.get("init_args") or {}).items()
        if name != "root"
    }
    return {"class_path": entry["class_path"], "init_args": arguments}


def licence_of(entry: dict[str, Any] | None) -> str:
    """Return the licence of embedded data; otherwise a note that the user has to look it up."""
    unknown = "that of the training data; look it up before you publish the weights"
    if entry is None:
        return unknown
    try:
        data = import_class(entry["class_path"], "data", "the run")
    except UserError:  # the class of the user may be missing
        return unknown
    return getattr(data, "licence", "") or unknown


def metrics_of(checkpoint: dict[str, Any], run: Run | None, stem: str) -> list[str]:
    """Return a table of the values that `evaluation.csv` has for a checkpoint."""
    step = str(checkpoint.get("global_step", 0))
    rows = [dict(zip(Figure._fields, row)) for row in (read_rows(run) if run else [])]
    latest = {row["name"]: row for row in rows if (row["checkpoint"], row["step"]) == (stem, step)}
    if not latest:
        return ["None recorded. `python evaluate.py CHECKPOINT` measures them."]
    lines = ["| metric | value | signature |", "|---|---|---|"]
    for row in latest.values():
        signature = row["signature"].replace("|", "\\|")
        lines.append(f"| {row['name']} | {float(row['value']):.5g} | `{signature}` |")
    return lines


def model_card(
    checkpoint: dict[str, Any], cls: type, entry: dict[str, Any] | None, metrics: list[str]
) -> str:
    """Return the text of `README.md` of an export.

    Args:
        checkpoint: Checkpoint or export.
        cls: Class of the system.
        entry: Data of the run, as in its configuration; None if unknown.
        metrics: Lines of the section on metrics.
    """
    summary = inspect.cleandoc(cls.__doc__ or cls.__name__).partition("\n")[0]
    paper = (inspect.getmodule(cls).__doc__ or "").strip().partition("\n\n")[0]
    arguments = json.dumps(entry["init_args"], ensure_ascii=False) if entry else ""
    data = f"`{entry['class_path']}` with `{arguments}`" if entry else "unknown"
    return "\n".join(
        [
            "---",
            "library_name: pytorch-lightning",
            f"tags: [maquette, {cls.__name__.lower()}]",
            "---",
            "",
            f"# {cls.__name__}",
            "",
            summary,
            "",
            " ".join(paper.split()),
            "",
            f"Trained for {checkpoint.get('global_step', 0):,} updates.",
            "",
            "## Data and licence",
            "",
            f"Training data: {data}.",
            "",
            f"Licence of the data: {licence_of(entry)}.",
            "",
            "## Metrics",
            "",
            *metrics,
            "",
            "## Use",
            "",
            "In a clone of the template that trained it:",
            "",
            "```python",
            "from lightning_modules import load",
            "",
            'model = load("FOLDER")  # or hf://USER/NAME',
            "```",
            "",
            "`sample.py`, `evaluate.py` and `train.py fit --init_from` also accept the folder.",
            "",
        ]
    )
