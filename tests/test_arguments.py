"""Arguments of systems and data modules have ranges, and messages name options that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cli.class_options import class_parameters
from cli.classes import BASES, FOLDERS, classes_in, init_parameters
from cli.options import option_name, sample_parameters
from cli.sampling.command import BY_MODALITY
from common.errors import UserError
from common.files import ROOT
from common.imports import import_object
from lightning_modules.core.modes import sampling
from lightning_modules.core.seeding import seed_list
from tests.test_architecture import SOURCES

CLASSES = {
    path: import_object(path)
    for folder in BASES
    for paths in classes_in(folder).values()
    for path in paths
}
UNBOUNDED = {"forget_bias"}  # arguments that may have every value


def provided() -> set[str]:
    """Names of all values that data modules pass to models."""
    return {name for cls in CLASSES.values() for name in getattr(cls, "provides", ())}


@pytest.mark.parametrize("path", CLASSES)
def test_numbers_have_a_range(path: str) -> None:
    """Otherwise a negative size would reach torch. `PositiveInt` and the like state the range."""
    given_by_data = provided() if path.startswith("lightning_modules") else set()
    for name, parameter in init_parameters(CLASSES[path]).items():
        if name in given_by_data | UNBOUNDED:
            continue
        kinds = parameter.annotation
        text = kinds.__name__ if isinstance(kinds, type) else str(kinds)
        bare = re.search(r"(?<![\w.])(int|float)(?![\w.])", text)
        assert not bare, f"{path}: {name}: {text} needs a type of jsonargparse.typing"


def test_optimizers_and_schedules_are_found() -> None:
    parameters = class_parameters(init_parameters(CLASSES["lightning_modules.gan.GAN"]))
    assert {name.partition("_")[2] for name in parameters} == {"optimizer", "schedule"}
    assert len(parameters) == 4


# Sampling from Python


class Sampler(nn.Module):
    """Smallest module with a sampling method; returns the seeds that it receives."""

    def averaged_weights(self) -> Any:
        return torch.no_grad()

    @sampling
    def sample(self, seeds: list[int], *, scale: float = 1.0) -> Any:
        return seeds, scale


@pytest.mark.parametrize(
    "seeds",
    [[0, 1], (0, 1), range(2), np.arange(2), torch.arange(2), [np.int64(0), torch.tensor(1)]],
)
def test_seeds_may_be_any_sequence_of_integers(seeds: Any) -> None:
    sampler = Sampler()
    for found, scale in (sampler.sample(seeds, scale=2.0), sampler.sample(seeds=seeds, scale=2.0)):
        assert found == [0, 1]
        assert all(type(seed) is int for seed in found)
        assert scale == 2.0


@pytest.mark.parametrize(
    "seeds",
    [3, None, [], "01", ["a"], [1.0], [True], [2**70], np.array([0.5]), torch.tensor(3)],
    ids=str,
)
def test_other_seeds_are_refused(seeds: Any) -> None:
    with pytest.raises(UserError, match=r"seeds must be a list of one or more integers, such as"):
        Sampler().sample(seeds)
    assert isinstance(seed_list([3]), list)


# Messages


def words_of(path: Path) -> Iterator[str]:
    """The options, such as `--ckpt_path`, in the errors that a file raises."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield from re.findall(r"(?<![\w-])--[a-z][\w.]*\w", part.value)


def added_options(*files: str) -> set[str]:
    """The options that files add to a parser."""
    calls = [
        node
        for file in files
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"
    ]
    return {
        call.args[0].value for call in calls if call.args and isinstance(call.args[0], ast.Constant)
    }


def options_of_sample() -> set[str]:
    """All options of `sample.py`, of all systems."""
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "cli/sampling").glob("*.py")]
    systems = [cls for path, cls in CLASSES.items() if path.startswith("lightning_modules")]
    assert {cls.modality for cls in systems} - {"embeddings"} == BY_MODALITY.keys()
    return added_options(*files) | {
        f"--{option_name(parameter)}"
        for cls in systems
        for parameter in sample_parameters(cls.sample).values()
    }


def options_of_train() -> set[str]:
    """All options of `train.py`, of all systems and data modules."""
    import inspect

    from pytorch_lightning import Trainer

    from callbacks.fid import FID
    from cli.loggers import WandbOptions

    arguments = {
        f"--{key}.{name}"
        for key, folder in FOLDERS.items()
        for path, cls in CLASSES.items()
        if path.startswith(folder)
        for name in init_parameters(cls)
    }
    arguments |= {f"--trainer.{name}" for name in inspect.signature(Trainer).parameters}
    for section, cls in (("wandb", WandbOptions), ("fid", FID)):
        arguments |= {f"--{section}.{name}" for name in inspect.signature(cls).parameters}
    own = {"--config", "--ckpt_path", "--model", "--data", "--trainer", "--seed_everything"}
    return arguments | own | added_options("cli/run_options.py")


def test_messages_name_options_of_the_program_that_prints_them() -> None:
    """`evaluate.py` named `--data`, which it does not have."""
    sample, train = options_of_sample(), options_of_train()
    evaluate = added_options("cli/evaluation/options.py")
    programs = {
        "cli/sampling": sample,
        "cli/evaluation": evaluate,
        "cli/exporting": added_options("cli/exporting/program.py"),
        "cli/playground": added_options("cli/playground/options.py"),
        "cli/device.py": sample & evaluate,
        "cli/image_inputs.py": sample,
        "cli/data.py": sample,  # evaluate.py passes the name of its own option
        "cli/options.py": sample | {"--seeds"},
        "cli": train,
        "callbacks": train,
        "lightning_modules": train | sample,
        "datamodules": train | sample,
        "metrics": evaluate | train,
        "common": train,
    }
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        place = next((one for one in programs if name.startswith(one)), None)
        unknown = set(words_of(path)) - programs[place] if place else set()
        assert not unknown, f"{name} tells of {unknown}, which the program does not have"
    assert any(set(words_of(path)) for path in SOURCES)
