"""Find the run that a command line starts or resumes, and the checkpoint that it reads."""

from pathlib import Path
from typing import Any

from cli.option_order import CONFIG, values_of
from common.errors import UserError
from common.files import ROOT
from common.run import Run, new_run, run_of, runs_in
from lightning_modules.core.module import GenerativeModule

NAMES = ("last", "best")  # checkpoints that --ckpt_path may name without a path


def option(words: list[str], name: str) -> str | None:
    """Return the last value of an option, given as `--name value` or `--name=value`."""
    return dict(values_of(words)).get(name)


def config_files(words: list[str]) -> list[str]:
    """Return the values of all options `--config`."""
    return [value for name, value in values_of(words) if name in CONFIG]


def resumed_run(words: list[str]) -> tuple[Run, Path] | None:
    """Return the run and the checkpoint file that `--ckpt_path` names; None without this option.

    `last` and `best` name a checkpoint of `--run_dir`, or else of the newest run of the recipe.

    Raises:
        UserError: If there is no such checkpoint, or if a file is in no run and `fit` has no
            `--run_dir`.
    """
    name, given = option(words, "--ckpt_path"), option(words, "--run_dir")
    if name is None:
        return None
    if name in NAMES:
        run = Run(given) if given else newest_run(recipe_home(words), name)
        path = run.checkpoint(name)
        if not path.is_file():
            raise UserError(f"--ckpt_path {name}: {missing(run, name)}")
        return run, path
    path = Path(name)
    own = run_of(path)
    if given is None and own is None and "fit" in words:
        raise UserError(
            f"--ckpt_path {name} is not in the folder checkpoints/ of a run; "
            "name the directory of the resumed run with --run_dir"
        )
    if given is None:
        return own or Run(path.resolve().parent), path
    run = Run(given)
    if "fit" in words and (own is None or own.path != run.path.resolve()):
        refuse_existing(run)
    return run, path


def missing(run: Run, name: str) -> str:
    """Return the message that a run lacks a checkpoint, and which one it has."""
    others = [other for other in NAMES if run.checkpoint(other).is_file()]
    if name == "best" and others:
        return (
            f"{run.path} has no best.ckpt, because no validation has logged the value that selects "
            "it (adversarial systems have none without --fid.count); use last"
        )
    if others:
        return f"{run.path} has no {name}.ckpt; use {others[0]}"
    return (
        f"there is no checkpoint in {run.path}; name another run with --run_dir, or leave out "
        "--ckpt_path to start a new one"
    )


def newest_run(home: Path, name: str) -> Run:
    """Return the run in `home` that was updated last."""
    runs = runs_in(home)
    if not runs:
        raise UserError(
            f"--ckpt_path {name}: there is no run in {home}; name the run with --run_dir, or leave "
            "out --ckpt_path to start a new one"
        )
    return runs[0]


def recipe_home(words: list[str]) -> Path:
    """Return `runs/<system>/<dataset>`, named after the first recipe on the command line.

    Without a recipe, the names are those of the files of the classes `--model` and `--data`.
    """
    for file in config_files(words):
        path = Path(file).resolve()
        if path.parent.parent == ROOT / "configs" and not path.parent.name.startswith("_"):
            return Path("runs", path.parent.name, path.stem)
    names = [(option(words, f"--{key}") or "other").split(".") for key in ("model", "data")]
    return Path("runs", *(parts[-2] if len(parts) > 1 else parts[-1].lower() for parts in names))


def start_run(words: list[str]) -> Run:
    """Return the directory of a new run.

    Raises:
        UserError: If the directory holds a run, is in use or cannot be written.
    """
    given = option(words, "--run_dir")
    run = Run(given) if given else new_run(recipe_home(words))
    refuse_existing(run)
    return run


def refuse_existing(run: Run) -> None:
    """Raise an error if a directory holds the last checkpoint of a run."""
    if run.checkpoint("last").exists():
        raise UserError(
            f"--run_dir {run.path} already holds a run; "
            "resume it with --ckpt_path last or choose another --run_dir"
        )


def check_system(path: Path, checkpoint: dict[str, Any], model: GenerativeModule) -> None:
    """Check that the system in a checkpoint has the same class as the model."""
    here = f"{type(model).__module__}.{type(model).__qualname__}"
    if checkpoint["class_path"] != here:
        raise UserError(
            f"--ckpt_path {path} is a {checkpoint['class_path']}, but this model is a {here}; "
            "use the config.yaml of its run"
        )
