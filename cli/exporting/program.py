"""Export a checkpoint: weights and configuration without pickle, or networks for other programs."""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from cli.exporting.card import data_entry, metrics_of, model_card
from cli.exporting.graphs import write_networks
from cli.options import OptionParser
from common.errors import UserError
from common.run import run_of
from lightning_modules import load
from lightning_modules.core.checkpoints import read_checkpoint, system_class
from lightning_modules.core.exports import CONFIG, FILES, HUB, WEIGHTS, local_path, write_export


def parse(argv: list[str], description: str | None = None) -> argparse.Namespace:
    """Parse a command line."""
    parser = OptionParser(prog="export.py", description=description)
    parser.add_argument("checkpoint", metavar="CKPT", help="Checkpoint to export.")
    parser.add_argument(
        "--format",
        default="safetensors",
        choices=("safetensors", "onnx", "pt2"),
        help="Format: safetensors for this template, onnx for ONNX Runtime, or pt2 for "
        "torch.export.load (default: safetensors).",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="Folder of the export (default: exports/NAME in the directory of the run, with the "
        "name of the checkpoint, and -onnx or -pt2).",
    )
    parser.add_argument(
        "--push_to_hub",
        metavar="USER/NAME",
        help="Also upload the folder to this repository of the Hugging Face Hub. It is created as "
        "a private one if it does not exist.",
    )
    return parser.parse_args(argv)


def export(options: argparse.Namespace) -> list[str]:
    """Export a checkpoint, and return lines that say where it is and how to use it.

    Raises:
        UserError: If no folder is given for a checkpoint that is in no run.
    """
    path = local_path(options.checkpoint)
    if options.push_to_hub and options.format != "safetensors":
        raise UserError("--push_to_hub uploads safetensors; leave out --format")
    checkpoint = read_checkpoint(path)
    run, stem = run_of(path), path.stem
    if options.out is None and run is None:
        raise UserError(f"{path} is not in the folder checkpoints/ of a run; give --out DIR")
    suffix = "" if options.format == "safetensors" else f"-{options.format}"
    folder: Path = options.out or run.path / "exports" / f"{stem}{suffix}"  # type: ignore[union-attr]
    if suffix:
        model = load(path)
        with model.averaged_weights(model.has_averaged_weights):
            return write_networks(model, folder, options.format)
    cls = system_class(checkpoint["class_path"], path)
    write_export(checkpoint, folder)
    check_equal(path, folder)
    entry = data_entry(run)
    (folder / "config.yaml").unlink(missing_ok=True)  # of an earlier export
    if entry is not None:
        text = yaml.safe_dump({"data": entry}, sort_keys=False, allow_unicode=True)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    card = model_card(checkpoint, cls, entry, metrics_of(checkpoint, run, stem))
    (folder / "README.md").write_text(card, encoding="utf-8")
    lines = [f"export: {folder}"]
    if options.push_to_hub:
        lines.append(f"hub: {push(folder, options.push_to_hub)}")
    return lines


def check_equal(path: Path, folder: Path) -> None:
    """Check that the export has the weights of the checkpoint, with the same bits.

    Raises:
        RuntimeError: If a weight or hyper-parameter differs.
    """
    one, other = load(path), load(folder)
    theirs = other.state_dict()
    for name, value in one.state_dict().items():
        if not value.equal(theirs.pop(name)):
            raise RuntimeError(f"{folder / WEIGHTS}: {name} differs from the checkpoint")
    if theirs or json.dumps(dict(one.hparams)) != json.dumps(dict(other.hparams)):
        raise RuntimeError(f"{folder / CONFIG} differs from the checkpoint")


def push(folder: Path, name: str) -> str:
    """Upload a folder to a repository of the hub, and return the address for `load`.

    Raises:
        UserError: If the upload fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    api: Any = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=FILES)
    except (HTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--push_to_hub {name}: {reason}; check the name and the connection, and log in with "
            "`hf auth login`"
        ) from error
    return f"{HUB}{name}"
