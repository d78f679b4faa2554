"""Command line of `playground.py`."""

import argparse
from pathlib import Path

from jsonargparse.typing import restricted_number_type

from cli.options import OptionParser, number

LOOPBACK = ("127.0.0.1", "localhost", "::1")
Port = restricted_number_type("Port", int, [(">=", 1), ("<=", 65535)])


def parse(argv: list[str], description: str | None = None) -> argparse.Namespace:
    """Parse a command line."""
    parser = OptionParser(prog="playground.py", description=description)
    parser.add_argument(
        "sources",
        nargs="*",
        default=["runs"],
        metavar="PATH",
        help="Folder of runs, run, checkpoint, folder of an export, or hf://USER/NAME "
        "(default: runs).",
    )
    parser.add_argument(
        "--host",
        default=LOOPBACK[0],
        help="Address of the server. The default, 127.0.0.1, is reachable from this machine only; "
        "with 0.0.0.0, everybody on the network can use the playground.",
    )
    parser.add_argument(
        "--port",
        type=number(Port),
        help="Port of the server (default: the first free one from 7860).",
    )
    parser.add_argument(
        "--device", default="cpu", help="Device for the computation, such as cuda (default: cpu)."
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="Configuration file with the data of checkpoints that are in no run.",
    )
    parser.add_argument(
        "--open", action="store_true", help="Open the page in the browser of this machine."
    )
    return parser.parse_args(argv)
