"""Error messages and exit codes of the programs: one line on stderr instead of a traceback.

A user's mistake raises a `UserError`, whose message says what is wrong and what to do. The program
then exits with code 2. After a fault of the machine, such as a full disk or a missing permission,
it exits with code 1. If the environment variable DEBUG is set, the traceback is printed too.
"""

import errno
import io
import os
import re
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Callable
from pathlib import Path

from common.files import ROOT

MACHINE_FAULTS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
}


# Text and traceback that PyTorch puts before the message of an error in a data loader's worker.
WORKER = re.compile(r"Caught \w+ in DataLoader worker.*\n[\w.]+: ", re.DOTALL)


# What gloo and NCCL report if another process of a distributed run has died.
LOST = re.compile(
    r"gloo.*(Connection (closed|reset) by peer|Broken pipe)|remote process exited", re.DOTALL
)


class UserError(ValueError):
    """Mistake that the user can fix; the message says in one line what to do."""


def one_line(text: str, limit: int = 400) -> str:
    """Convert an error message to one line of at most `limit` characters.

    The traceback of a data loader's worker is removed.
    """
    joined = " ".join(WORKER.sub("", text).split())
    return joined if len(joined) <= limit else joined[: limit - 3] + "..."


def mistake_behind(error: BaseException) -> UserError | None:
    """Return the `UserError` that caused an error, or None if there is none.

    The chain of causes is searched, because jsonargparse wraps each exception of a constructor.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return cause


def run(program: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Call a program and return its exit code; print an exception as one line on stderr.

    The standard streams use UTF-8 in every locale. If the reader of stdout or stderr, such as
    `head`, has closed it, the program ends silently, with exit code 0 unless it was training.

    Args:
        program: Main function of the program, without arguments.
        interrupted: Message to print after Ctrl-C.
    """
    use_utf8()
    code = 0
    try:
        code = exit_code(program, interrupted)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        discard_output()
    return code


def exit_code(program: Callable[[], object], interrupted: str) -> int:
    """Call a program and return its exit code; the arguments are those of `run`.

    Raises:
        BrokenPipeError: If the reader of stdout or stderr has closed it.
    """
    try:
        program()
        return 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            return fail(stop.code, 2)
        return stop.code or 0
    except KeyboardInterrupt:
        return fail(interrupted, 130)
    except (UserError, ArgumentError) as error:
        return fail(str(error), 2)
    except BrokenPipeError:
        raise
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return fail(
            f"{name}{error.strerror or error}", 1 if error.errno in MACHINE_FAULTS | {None} else 2
        )
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (package := missing_package(error)):
            return fail(not_installed(package), 2)
        if mistake := mistake_behind(error):
            return fail(str(mistake), 2)
        if LOST.search(str(error)):
            return fail(
                "the connection to another process of this run was lost; its own output may say "
                "why. A training can be resumed with --ckpt_path last",
                1,
            )
        cause = without_wrapper(error)
        return fail(f"{type(cause).__name__}: {cause} (set DEBUG=1 to see the traceback)", 1)


def without_wrapper(error: BaseException) -> BaseException:
    """Return the exception of a constructor from inside the exception of jsonargparse."""
    while "Does not validate against any of the Union" in str(error) and error.__cause__:
        error = error.__cause__
    return error


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Return the name of the package that is not installed; None for a module of this project."""
    package = (error.name or "").partition(".")[0]
    ours = (ROOT / package).is_dir() or (ROOT / f"{package}.py").is_file()
    return None if ours else package


def not_installed(package: str) -> str:
    """Return the error message for a missing package: activate the environment, or install it."""
    active = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
    advice = f"pip install {package}`" if active else "make setup`, then `. .venv/bin/activate`"
    return f"the package {package} is not installed in this Python ({sys.prefix}); run `{advice}"


def discard_output() -> None:
    """Redirect stdout and stderr to the null device where their reader has closed them.

    Otherwise the interpreter would report a broken pipe when it flushes them at its end.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def use_utf8() -> None:
    """Set the encoding of stdin, stdout and stderr to UTF-8.

    Names of files that are not valid in the locale are printed byte by byte, as they are.
    """
    for stream, errors in (
        (sys.stdin, "strict"),
        (sys.stdout, "surrogateescape"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):  # else replaced, as by a test
            stream.reconfigure(encoding="utf-8", errors=errors)


def utf8_argument(text: str) -> str:
    """Return a word of the command line as text, also if the locale is not UTF-8.

    Python decodes the command line by the locale. In the locale C, each non-ASCII byte becomes a
    lone surrogate.

    Raises:
        UserError: If the word is not UTF-8.
    """
    try:
        return os.fsencode(text).decode() if any("\ud800" <= c <= "\udfff" for c in text) else text
    except UnicodeError as error:
        raise UserError(f"{text!r} is not UTF-8; write it in UTF-8") from error


def fail(message: str, code: int) -> int:
    """Print an error as one line on stderr, after the traceback if DEBUG is set; return `code`."""
    if os.environ.get("DEBUG"):
        traceback.print_exc()
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code
