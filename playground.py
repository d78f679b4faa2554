"""Play with trained systems in the browser: `python playground.py [PATH ...] [options]`.

Play: everything that a checkpoint can do, such as sampling with its options, moving through its
latent space, continuing a text token by token, translating, and drawing an input image.
Compare: the same request to two checkpoints, side by side.
Runs: the table of all runs, their curves, previews, evaluations and configurations.

PATH is a folder of runs (default: runs), a run, a checkpoint, the folder of an export, or
`hf://USER/NAME`. Checkpoints are read without running code that is stored in them (no pickle). The
server is reachable from this machine only, unless `--host` says otherwise. It writes files to a
temporary folder only, and deletes this folder when it ends.
"""

import os
import sys

from common.errors import run


def playground(argv: list[str]) -> None:
    """Start the server, and wait until it is stopped."""
    from cli.playground.options import parse

    options = parse(argv, __doc__)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    from cli.playground import program  # imports torch and Gradio, which takes seconds

    program.serve(options)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: playground(argv))


if __name__ == "__main__":
    sys.exit(main())
