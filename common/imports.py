"""Import of modules and classes by path, with errors that name the file and line at fault."""

import importlib
import sysconfig
import traceback
from typing import Any

from common.errors import UserError
from common.files import ROOT

# Folders of the standard library and of installed packages.
INSTALLED = ("<frozen", *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))


def import_module(name: str) -> Any:
    """Import a module by its dotted name.

    Raises:
        ModuleNotFoundError: If there is no such module, or one of its packages does not exist.
        UserError: If the module exists and fails: it imports a missing package, has a syntax error
            or raises an exception. The message says where and why.
    """
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise
        raise UserError(f"importing {name} failed in {place_of(error)}: {reason(error)}") from error


def import_object(path: str) -> Any:
    """Import an object, such as a class, by its dotted path `module.name`.

    Raises:
        ModuleNotFoundError: If there is no such module.
        AttributeError: If the module has no such name.
        UserError: If the module fails while it is imported.
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise ModuleNotFoundError(f"{path} names no module", name=path)
    return getattr(import_module(module), name)


def reason(error: Exception) -> str:
    """Return the type and the message of an exception, and what to do, in one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    advice = "install the package, or correct the file"
    if not isinstance(error, ImportError):
        advice = "correct the file"
    return f"{type(error).__name__}: {text}; {advice}"


def place_of(error: Exception) -> str:
    """Return the file and line that raised an exception, such as "mine.py, line 3".

    The line is the last one at the top level of a module that is not part of an installed package.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return place(error.filename, error.lineno)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame
        for frame in frames
        if frame.name == "<module>" and not frame.filename.startswith(INSTALLED)
    ]
    last = (ours or frames)[-1]
    return place(last.filename, last.lineno)


def place(file: str, line: int | None) -> str:
    """Return a file, relative to the repository if it is in it, and a line number, as text."""
    return f"{file.removeprefix(f'{ROOT}/')}, line {line}"
