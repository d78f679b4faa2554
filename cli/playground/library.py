"""Runs and checkpoints that the playground offers, and the systems that it has loaded."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    """

    key: str
    model: Any
    config: Path | None


class Library:
    """Runs and checkpoints below the given folders.

    A request names runs and checkpoints by the keys of `runs()` and `checkpoints()`. Other names
    are refused, so no request can reach other files.

    Args:
        sources: Folders of runs, runs, checkpoints, folders of exports, or `hf://USER/NAME`.
        device: Device of the loaded systems.

    Raises:
        UserError: If a source does not exist, or if there is neither a run nor a checkpoint.
    """

    def __init__(self, sources: Sequence[str], device: str) -> None:
        self.device = device
        self._folders: list[Path] = []
        self._single: dict[str, Path] = {}
        self._loaded: OrderedDict[tuple[Path, int], Loaded] = OrderedDict()
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
                found[folder.resolve().name if relative == "." else relative] = run
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

    def system(self, key: str) -> type[GenerativeModule]:
        """Return the class of a checkpoint's system, without loading its weights."""
        path = find(self.checkpoints(), key, "checkpoint")
        return system_class(read_checkpoint(path, weights=False)["class_path"], path)

    def load(self, key: str) -> Loaded:
        """Load a checkpoint, unless it is in memory.

        Raises:
            UserError: If there is no such checkpoint, or it cannot be loaded.
        """
        path = find(self.checkpoints(), key, "checkpoint")
        version = path, path.stat().st_mtime_ns
        if version not in self._loaded:
            model = load(path)
            move_to(model, self.device)
            folder = run_folder(path)
            config = None if folder is None else folder / "config.yaml"
            self._loaded[version] = Loaded(key, model, config)
        self._loaded.move_to_end(version)
        while len(self._loaded) > MAX_LOADED:
            self._loaded.popitem(last=False)
        return self._loaded[version]


def find(offered: dict[str, Any], key: Any, kind: str) -> Any:
    """Return the entry of a key.

    Raises:
        UserError: If there is no such entry.
    """
    if key not in offered:
        raise UserError(f"{key!r:.80}: there is no such {kind}; reload the page")
    return offered[key]
