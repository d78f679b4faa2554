"""Resume a run with its own configuration, and check the options that a resumed run changes.

The configuration of a resumed run is the `config.yaml` of its directory. Options and further
configuration files on the command line override it. The configuration files that the run was
started with are not read again, so that they do not undo options of the first start.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from cli.recipes import read_config
from cli.run_directory import config_files
from common.errors import UserError
from common.run import Run, as_list, run_of

Changes = dict[str, list[Any]]

# Options of the trainer that determine which samples an epoch has.
SAMPLES = ("trainer.limit_train_batches", "trainer.overfit_batches")
LIMITS = ("max_steps", "max_epochs", "max_time")


def saved_config(checkpoint: Path) -> Path:
    """Return the path of the configuration of the run that wrote a checkpoint."""
    return (run_of(checkpoint) or Run(checkpoint.parent)).config


def with_saved_config(words: list[str], checkpoint: Path) -> list[str]:
    """Insert the saved configuration of a checkpoint's run into a command line.

    Args:
        words: Words of the command line: subcommand and options.
        checkpoint: Checkpoint file.
    """
    saved = saved_config(checkpoint)
    if not saved.is_file():
        return words
    known = set(Run(saved.parent).read().get("sources", []))
    kept: list[str] = []
    rest = iter(words[1:])
    for word in rest:
        if word in ("-c", "--config"):
            value = next(rest, "")
        elif word.startswith("--config="):
            value = word.partition("=")[2]
        else:
            kept.append(word)
            continue
        if str(Path(value).resolve()) not in known:
            kept += ["--config", value]
    return [words[0], "--config", str(saved), *kept]


def sources(words: list[str]) -> list[str]:
    """Return the absolute paths of the configuration files of a command line."""
    return [str(Path(file).resolve()) for file in config_files(words)]


def changed_options(old: dict[str, Any], new: dict[str, Any]) -> Changes:
    """Return old and new value of each option that differs, keyed like "data.batch_size".

    A saved configuration leaves out options that are None.
    """
    before, after = flatten(old), flatten(new)
    return {
        key.replace(".init_args", "").replace(".class_path", ""): [before.get(key), after.get(key)]
        for key in before | after
        if before.get(key) != after.get(key)
    }


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries, keyed by dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def changes_of_run(checkpoint: Path, config: dict[str, Any], changeable: set[str]) -> Changes:
    """Return the options that a resumed run changes.

    Args:
        checkpoint: Checkpoint that the run resumes.
        config: Configuration of the resumed run.
        changeable: Options of the data module that may change.

    Raises:
        UserError: If an option may not change.
    """
    saved = saved_config(checkpoint)
    if not saved.is_file():
        raise UserError(
            f"--ckpt_path {checkpoint}: its run has no config.yaml, which a resumed run needs; "
            "name a checkpoint in the folder of its run, or start a new run with --init_from"
        )
    changes = changed_options(read_config(saved), config)
    for key, (old, new) in changes.items():
        section, _, name = key.partition(".")
        if section == "model" and "model" in changes:  # `check_system` names both classes
            continue
        if section in ("model", "seed_everything") or key in SAMPLES:
            reason = "it would not be the same training"
        elif section == "data" and name not in changeable:
            reason = "the training data would change"
        else:
            continue
        raise UserError(
            f"--ckpt_path resumes a run with {key} {show(old)}, not {show(new)}: {reason}; "
            "leave it out, or start a new run from these weights with --init_from"
        )
    return changes


def short_class(value: Any) -> Any:
    """Return {class name: arguments} for the configuration of a class, other values unchanged."""
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    return {value["class_path"].rpartition(".")[2]: value.get("init_args", {})}


def show(value: Any) -> str:
    """Format the value of an option in one line; classes without their modules."""
    if isinstance(value, list):
        value = [short_class(one) for one in value]
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).splitlines()[0]


def print_resume(run: Run, checkpoint: dict[str, Any], changes: Changes) -> None:
    """Print the position at which a run resumes, and each changed option as old -> new."""
    step, epoch = checkpoint["global_step"], checkpoint["epoch"]
    print(f"resuming {run.path} at update {step:,} (epoch {epoch})", file=sys.stderr)
    for key, (old, new) in changes.items():
        print(f"changed: {key} {show(old)} -> {show(new)}", file=sys.stderr)


def finished_message(run: Run, checkpoint: dict[str, Any], trainer: dict[str, Any]) -> str | None:
    """Return a message if a run has reached its end and no limit is raised; otherwise None.

    Args:
        run: Run to resume.
        checkpoint: Content of its checkpoint.
        trainer: Options of the trainer for the resumed run.
    """
    step = checkpoint["global_step"]
    before = read_config(run.config)["trainer"] if run.config.is_file() else {}
    limit = trainer.get("max_steps", -1)
    reached = 0 < limit <= step
    raised = any(trainer.get(name) != before.get(name) for name in (*LIMITS, "callbacks"))
    if not reached and (raised or run.state != "finished"):
        return None
    ended_by = "max_steps" if reached else run.read().get("ended_by", "max_epochs")
    advice = (
        f"raise --trainer.{ended_by} {trainer.get(ended_by)}"
        if ended_by in LIMITS
        else f"change {ended_by}"
    )
    return f"{run.path} is finished ({step:,} updates); to train longer, {advice}"


def replace_callbacks(trainer: Namespace, checkpoint: Path) -> None:
    """Let callbacks that the command line appends replace saved callbacks of the same class.

    A repeated `--trainer.callbacks+=CLASS` would otherwise add a callback to those of the saved
    configuration, which has this callback already.
    """
    saved = saved_config(checkpoint)
    before = as_list(read_config(saved)["trainer"].get("callbacks")) if saved.is_file() else []
    if isinstance(trainer.callbacks, list) and len(trainer.callbacks) > len(before):
        appended = trainer.callbacks[len(before) :]
        replaced = {callback.class_path for callback in appended}
        kept = [one for one in trainer.callbacks[: len(before)] if one.class_path not in replaced]
        trainer.callbacks = [*kept, *appended]
