"""The directory of a run: lock, state, configuration and checkpoints.

Files of this module in a run directory:

- `state.json`: state, process, last checkpoint and best value. Programs read the state from here.
- `run.lock`: locked while a process trains. The operating system unlocks it when the process and
  its data loader workers have ended. A run that was killed is then "interrupted", although its
  file says "running".
- `config.yaml`: complete configuration, the basis of a resumed run.
"""

import contextlib
import itertools
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from common.errors import UserError, mistake_behind, one_line
from common.files import atomic_save

State = Literal["new", "running", "interrupted", "finished", "failed"]

BROKEN_PIPE = 128 + 13  # exit code that shells report after SIGPIPE
OWN_FILES = ("state.json", "run.lock")
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # environment variables of launchers


class Run:
    """Run directory.

    Args:
        path: Path of the directory, which need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / "run.lock", blocking=False)

    @property
    def config(self) -> Path:
        """Path of the saved configuration."""
        return self.path / "config.yaml"

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint, such as "last" or "best"."""
        return self.path / "checkpoints" / f"{name}.ckpt"

    # State

    def read(self) -> dict[str, Any]:
        """Return the recorded values, empty if the directory holds no run."""
        try:
            content: dict[str, Any] = json.loads(
                (self.path / "state.json").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return {}
        if content.get("state") == "running" and not self.is_locked():
            content["state"] = "interrupted"  # the process was killed
        return content

    @property
    def state(self) -> State:
        """State of the run; "new" if nothing has been trained."""
        state: State = self.read().get("state", "new")
        return state

    def record(self, **values: Any) -> None:
        """Add values to the recorded values; a value of None deletes its key."""
        content = {**self.read(), **values, "updated": time.time()}
        content = {name: value for name, value in content.items() if value is not None}
        text = json.dumps(content, indent=1) + "\n"
        atomic_save(self.path / "state.json", lambda file: file.write(text.encode()))

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Record how the training inside of this context ends; say how to resume it."""
        state, message = "failed", None
        try:
            yield
            state = "finished"
        except (KeyboardInterrupt, SystemExit):
            state = "interrupted"
            raise
        except BrokenPipeError:  # the reader of the output has closed it
            state = "interrupted"
            raise SystemExit(BROKEN_PIPE) from None
        except Exception as error:
            message = one_line(str(mistake_behind(error) or error))
            raise
        finally:
            if self.state == "running":  # otherwise training has not started
                self.record(state=state, message=message)
                if state == "interrupted" and self.checkpoint("last").is_file():
                    folder = shlex.quote(str(self.path))
                    command = f"python train.py fit --run_dir {folder} --ckpt_path last"
                    with contextlib.suppress(BrokenPipeError):
                        print(f"resume with: {command}", file=sys.stderr)

    # Lock

    def is_locked(self) -> bool:
        """Return whether a process trains in this directory; True for the process itself."""
        if self._lock.is_locked:
            return True
        if not (self.path / "run.lock").exists():
            return False
        try:
            with FileLock(self.path / "run.lock", blocking=False):
                return False
        except Timeout:
            return True
        except OSError:  # a directory that may only be read
            return False

    def claim(self) -> None:
        """Create the directory and lock it.

        Raises:
            UserError: If another process trains in the directory, or if it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=1)  # another process may read the state for a moment
        except Timeout as error:
            owner = self.read()
            raise UserError(
                f"--run_dir {self.path} is in use by process {owner.get('pid', '?')} on "
                f"{owner.get('host', '?')}; wait for its end, or choose another --run_dir"
            ) from error
        except OSError as error:
            raise UserError(
                f"--run_dir {self.path} cannot be written ({error.strerror}); choose another"
            ) from error
        self.record(pid=os.getpid(), host=socket.gethostname(), message=None)

    def release(self) -> None:
        """Unlock the directory; delete it if nothing but the files of this module was written."""
        if self.path.is_dir() and {path.name for path in self.path.iterdir()} <= set(OWN_FILES):
            for name in OWN_FILES:
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()
        self._lock.release()


def new_run(home: Path) -> Run:
    """Create a directory in `home`, named after the current time, that no other process has.

    Only rank 0 creates a directory. Processes that rank 0 launches receive its name in their
    environment.
    """
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    if any(int(os.environ.get(rank, 0)) for rank in RANKS):
        return Run(os.environ.get("MAQUETTE_RUN_DIR", home / name))
    for number in itertools.count(1):
        path = home / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:  # another process started in the same second
            continue
        except OSError as error:
            raise UserError(
                f"{path} cannot be created ({error.strerror}); name another directory with "
                "--run_dir"
            ) from error
        os.environ["MAQUETTE_RUN_DIR"] = str(path)
        return Run(path)
    raise AssertionError("unreachable")


def runs_in(folder: Path) -> list[Run]:
    """Return all runs below a folder, the one that was updated last first."""
    found = [Run(path.parent) for path in folder.rglob("state.json")]
    return sorted(found, key=lambda run: -run.read().get("updated", 0))


def run_of(checkpoint: Path) -> Run | None:
    """Return the run that a checkpoint belongs to; None if the checkpoint is in no run."""
    for folder in checkpoint.resolve().parents:
        if folder.name == "checkpoints":
            return Run(folder.parent)
    return None


def as_list(value: Any) -> list[Any]:
    """Convert an option to a list: None or a bool to [], a single object to a list of one."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
