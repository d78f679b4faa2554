"""Find the directory of a run and the checkpoint that the run resumes."""

import os
import time
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from common.errors import UserError
from common.files import ROOT
from lightning_modules.core.checkpoints import read_checkpoint
from lightning_modules.core.module import GenerativeModule

LAST = Path("checkpoints/last.ckpt")


def find_run(subcommand: str, options: Namespace) -> tuple[Path, dict[str, Any]]:
    """Find the run directory and the checkpoint, before any object is built.

    In `options`, `--ckpt_path last` is replaced by the path of the checkpoint.

    Args:
        subcommand: One of "fit", "validate", "test".
        options: Parsed options of the subcommand.

    Returns:
        Directory of the run, and content of the checkpoint (an empty dictionary without one).

    Raises:
        UserError: If options contradict each other, or the directory or checkpoint is unusable.
    """
    given, home = options.run_dir, recipe_home(options)
    if options.init_from and options.ckpt_path:
        raise UserError(
            "--init_from starts a new run and --ckpt_path resumes one; give one of them"
        )
    if options.ckpt_path == "last":
        given, options.ckpt_path = last_checkpoint(given, home)
    if subcommand != "fit" and not options.ckpt_path:
        raise UserError(f"{subcommand} evaluates a checkpoint; give --ckpt_path FILE")
    checkpoint = read_checkpoint(options.ckpt_path) if options.ckpt_path else {}
    if checkpoint and not given:
        given = run_of_checkpoint(options.ckpt_path, needs_run=subcommand == "fit")
    run_dir = Path(given or new_run(home))
    if subcommand == "fit" and not options.dry_run:
        claim(run_dir, resuming=bool(checkpoint))
    return run_dir, checkpoint


def recipe_home(options: Namespace) -> Path:
    """Return `runs/<system>/<dataset>`, named after the first recipe or else the class files."""
    for path in options.config or []:
        path = Path(str(path)).resolve()
        if path.parent.parent == ROOT / "configs" and not path.parent.name.startswith("_"):
            return Path("runs", path.parent.name, path.stem)
    model, data = (options[key].class_path.split(".")[-2] for key in ("model", "data"))
    return Path("runs", model, data)


def last_checkpoint(run_dir: str | None, home: Path) -> tuple[str, str]:
    """Return a run directory and the path of its last checkpoint.

    The run is `run_dir`, or else the newest run in `home` that has a checkpoint.
    """
    runs = [Path(run_dir)] if run_dir else sorted(home.glob("*/"), reverse=True)
    found = [run for run in runs if (run / LAST).is_file()]
    if not found:
        raise UserError(
            f"--ckpt_path last: there is no {LAST} in {run_dir or home}; "
            "name the run with --run_dir, or leave out --ckpt_path to start a new one"
        )
    return str(found[0]), str(found[0] / LAST)


def run_of_checkpoint(path: str, needs_run: bool) -> str:
    """Return the directory of the run that a checkpoint belongs to."""
    folder = Path(path).resolve().parent
    if needs_run and folder.name != "checkpoints":
        raise UserError(
            f"--ckpt_path {path} is not in the folder checkpoints/ of a run; "
            "name the directory of the resumed run with --run_dir"
        )
    return str(folder.parent)


def new_run(home: Path) -> str:
    """Return the path of a new run directory, named after the current time.

    All ranks of a run use the path that rank 0 chose.
    """
    run_dir = str(home / time.strftime("%Y-%m-%d_%H-%M-%S"))
    if "LOCAL_RANK" in os.environ:
        run_dir = os.environ.get("MAQUETTE_RUN_DIR", run_dir)
    os.environ["MAQUETTE_RUN_DIR"] = run_dir
    return run_dir


def claim(run_dir: Path, resuming: bool) -> None:
    """Create the run directory; raise a UserError if it contains a run or is not writable."""
    if not resuming and (run_dir / LAST).exists():
        raise UserError(
            f"--run_dir {run_dir} already holds a run; "
            "resume it with --ckpt_path last or choose another --run_dir"
        )
    # Only rank 0 creates a directory: under torchrun, ranks may have different times in the name.
    if getattr(rank_zero_only, "rank", 0) != 0:
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.yaml").touch()
    except OSError as error:
        raise UserError(
            f"--run_dir {run_dir} cannot be written ({error.strerror}); choose another"
        ) from error


def check_system(path: str, checkpoint: dict[str, Any], model: GenerativeModule) -> None:
    """Check that the system in a checkpoint has the same class as the model."""
    here = f"{type(model).__module__}.{type(model).__qualname__}"
    if checkpoint["class_path"] != here:
        raise UserError(
            f"--ckpt_path {path} is a {checkpoint['class_path']}, but this model is a {here}; "
            "use the config.yaml of its run"
        )


def check_resume(checkpoint: dict[str, Any], model: GenerativeModule) -> None:
    """Check that a resumed run has the same hyper-parameters as its checkpoint."""
    then = checkpoint["hyper_parameters"]
    for name, value in model.hparams.items():
        if name in then and then[name] != value:
            raise UserError(
                f"--ckpt_path resumes a run with model.{name} {then[name]}, not {value}; "
                "leave it out, or start a new run from these weights with --init_from"
            )
