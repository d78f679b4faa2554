"""Errors that a user can mend: one line on stderr and an exit code.

A user's mistake is a `UserError`: one line on stderr that names the thing and what to do, exit code
2. A fault of the machine (a full disk, no permission) exits with 1. DEBUG=1 shows the traceback of
either.
"""

import errno
import os
import re
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Callable

MACHINE_FAULTS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
}


WORKER = re.compile(
    r"Caught \w+ in DataLoader worker.*\n[\w.]+: ", re.DOTALL
)  # and the traceback that torch puts before a message


class UserError(ValueError):
    """A mistake the user can mend; the message says how, in one line."""


def one_line(text: str, limit: int = 400) -> str:
    """An error message in one line, without the traceback of a loader's worker process."""
    joined = " ".join(WORKER.sub("", text).split())
    return joined if len(joined) <= limit else joined[: limit - 3] + "..."


def mistake_behind(error: BaseException) -> UserError | None:
    """The user's mistake that caused an error, if one did: jsonargparse wraps whatever a
    constructor raises.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return cause


def run(program: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Call a program and turn whatever it raises into one line on stderr and an exit code; what
    Ctrl-C leaves is `interrupted`.
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
    except BrokenPipeError:  # the reader of stdout, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return fail(
            f"{name}{error.strerror or error}", 1 if error.errno in MACHINE_FAULTS | {None} else 2
        )
    except Exception as error:
        if mistake := mistake_behind(error):
            return fail(str(mistake), 2)
        return fail(f"{type(error).__name__}: {error} (DEBUG=1 shows where)", 1)


def fail(message: str, code: int) -> int:
    """Print one line (the traceback first where DEBUG is set) and return the code."""
    if os.environ.get("DEBUG"):
        traceback.print_exc()
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code
