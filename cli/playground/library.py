"""Runs and checkpoints that the playground offers, and the systems that it has loaded."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cli.device import move_to
from cli.sampling.output import run_folder
from common.errors import UserError
from common.run import Run, runs_in
from lightning_modules import load
from lightning_modules.core.checkpoints import read_checkpoint, system_class
from lightning_modules.core.exports import HUB, is_export, local_path
from lightning_modules.core.module import GenerativeModule

MAX_LOADED = 4  # number of systems in memory; the one that was used least recently is removed


class Loaded(NamedTuple):
    """Loaded checkpoint.

    Attributes:
        key: Name of the checkpoint in the playground.
        model: System, in eval mode, on the device of the playground.
        config: Configuration of the run with its data; None for a checkpoint that is in no run.
        path: File of the checkpoint, or folder of an export.
        changed: Time of the last change of `path`; a changed file is loaded again.
    """

    key: str
    model: Any
    config: Path | None
    path: Path
    changed: int


class Library:
    """Runs and checkpoints below the given folders.

    A request names runs and checkpoints by the keys of `runs()` and `checkpoints()`. Other names
    are refused, so no request can reach other files.

    Args:
        sources: Folders of runs, runs, checkpoints, folders of exports, or `hf://USER/NAME`.
        device: Device of the loaded systems.
        data: Configuration with the data of checkpoints that are in no run; None for none.

    Raises:
        UserError: If a source does not exist, or if there is neither a run nor a checkpoint.
    """

    def __init__(self, sources: Sequence[str], device: str, data: Path | None = None) -> None:
        self.device, self.data = device, data
        self._folders: list[Path] = []
        self._single: dict[str, Path] = {}
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._systems: dict[tuple[Path, int], tuple[type[GenerativeModule] | None, Any]] = {}
        move_to(torch.nn.Linear(1, 1), device)  # refuse a device that this machine lacks
        for source in sources:
            path = local_path(source)
            if source.startswith(HUB) or is_export(path) or path.is_file():
                self._single[source] = path
            elif path.is_dir():
                self._folders.append(path)
            else:
                raise UserError(
                    f"{source}: there is no such folder or checkpoint; train a system with "
                    "`make train`, or give a folder of runs"
                )
        if not self.runs() and not self._single:
            raise UserError(
                f"{', '.join(sources)}: holds no run; start one with `python train.py fit`"
            )

    def runs(self) -> dict[str, Run]:
        """Return the runs, the one that was updated last first."""
        found: dict[str, Run] = {}
        for folder in self._folders:
            for run in runs_in(folder):
                relative = run.path.relative_to(folder).as_posix()
                key = folder.resolve().name if relative == "." else relative
                if "state" in run.read():
                    found[run.path.as_posix() if key in found else key] = run
        return found

    def run(self, key: str) -> Run:
        """Return a run by its key.

        Raises:
            UserError: If there is no such run.
        """
        return find(self.runs(), key, "run")

    def checkpoints(self) -> dict[str, Path]:
        """Return the files of checkpoints; of each run, `best` comes before the others."""
        found = dict(self._single)
        for key, run in self.runs().items():
            files = sorted((run.path / "checkpoints").glob("*.ckpt"))
            for file in sorted(files, key=lambda file: file.stem != "best"):
                found[f"{key}: {file.stem}"] = file
        return found

    def rankers(self, image_shape: list[int]) -> list[str]:
        """Return the names of checkpoints whose systems score captions of images of a shape.

        CLIPs, which do nothing else, come first.
        """
        systems = {key: self._system(path) for key, path in self.checkpoints().items()}
        found = [
            (system.modality != "embeddings", key)
            for key, (system, shape) in systems.items()
            if system is not None and system.scores_captions and shape == image_shape
        ]
        return [key for _, key in sorted(found, key=lambda pair: pair[0])]

    def _system(self, path: Path) -> tuple[type[GenerativeModule] | None, Any]:
        """Return the class of a checkpoint's system and its image shape; None for a damaged file.

        A damaged file is reported when the user chooses it.
        """
        version = path, changed(path)
        if version not in self._systems:
            try:
                content = read_checkpoint(path, weights=False)
                system = system_class(content["class_path"], path)
                shape = content["hyper_parameters"].get("image_shape")
                self._systems[version] = system, shape
            except Exception:  # a user's module may raise anything
                self._systems[version] = None, None
        return self._systems[version]

    def load(self, key: str) -> Loaded:
        """Load a checkpoint, unless it is in memory.

        Raises:
            UserError: If there is no such checkpoint, or it cannot be loaded.
        """
        loaded = self._loaded.get(key)
        if loaded is None or changed(loaded.path) != loaded.changed:
            self._loaded.pop(key, None)
            while len(self._loaded) >= MAX_LOADED:
                self._loaded.popitem(last=False)
            path = find(self.checkpoints(), key, "checkpoint")
            model = load(path)
            move_to(model, self.device)
            folder = run_folder(path)
            config = self.data if folder is None else folder / "config.yaml"
            loaded = Loaded(key, model, config, path, changed(path))
            self._loaded[key] = loaded
        self._loaded.move_to_end(key)
        return loaded


def changed(path: Path) -> int:
    """Return the time of the last change of a file in nanoseconds; 0 if it is missing."""
    return path.stat().st_mtime_ns if path.exists() else 0


def find(offered: dict[str, Any], key: Any, kind: str) -> Any:
    """Return the entry of a key.

    Raises:
        UserError: If there is no such entry.
    """
    if key not in offered:
        raise UserError(f"{key!r:.80}: there is no such {kind}; reload the page")
    return offered[key]
