"""The command line of `evaluate.py`."""

import argparse
from pathlib import Path

from cli.evaluation.scores import DISTANCES, METRICS
from cli.options import OptionParser
from common.errors import UserError


def parse(argv: list[str], description: str | None = None) -> argparse.Namespace:
    """Options of a command line."""
    parser = OptionParser(prog="evaluate.py", description=description)
    parser.add_argument("source", type=Path, help="checkpoint, or folder of pictures")
    parser.add_argument(
        "--against",
        type=Path,
        help="configuration of the real data; the run's config.yaml unless given",
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "val", "test"),
        help="real pictures (default: test)",
    )
    parser.add_argument(
        "--metrics",
        default=",".join(DISTANCES),
        help=f"some of {','.join(METRICS)} (default: the first six)",
    )
    parser.add_argument(
        "--num", type=int, help="pictures to generate; as many as there are real ones unless given"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first picture (default: 0)"
    )
    parser.add_argument(
        "--extractor",
        default="classifier",
        choices=("classifier", "inception"),
        help="(default: classifier)",
    )
    parser.add_argument(
        "--ranker", type=Path, metavar="CKPT", help="CLIP that judges by captions, for ranking"
    )
    parser.add_argument(
        "--domain",
        default="b",
        choices=("a", "b"),
        help="of data that has two, which a folder is scored against",
    )
    parser.add_argument(
        "--batch_size", type=int, default=250, help="pictures at a time (default: 250)"
    )
    parser.add_argument(
        "--device", default="cpu", help="where to compute, such as cuda (default: cpu)"
    )
    options = parser.parse_args(argv)
    options.metrics, options.default_metrics = options.metrics.split(","), list(DISTANCES)
    unknown = [name for name in options.metrics if name not in METRICS]
    if unknown:
        raise UserError(
            f"--metrics {unknown[0]}: there is no such metric; there are {', '.join(METRICS)}"
        )
    return check(options)


def check(options: argparse.Namespace) -> argparse.Namespace:
    """Refuse what cannot be scored, before anything is read.

    Raises:
        UserError: naming the option and the mend.
    """
    if "is" in options.metrics and options.extractor != "inception":
        raise UserError(
            "--metrics is: the Inception Score is one only with Inception's classes: "
            "use --extractor inception"
        )
    if ("ranking" in options.metrics) != (options.ranker is not None):
        raise UserError("--metrics ranking asks a CLIP: give --ranker CKPT, and only with it")
    if options.num is not None and options.num < 10:
        raise UserError(f"--num {options.num}: give at least 10")
    if options.batch_size < 1:
        raise UserError(f"--batch_size {options.batch_size}: give at least 1")
    if not options.source.exists():
        raise UserError(
            f"{options.source}: there is no such checkpoint or folder; "
            "a run keeps its checkpoints in checkpoints/"
        )
    if options.source.is_dir() and options.against is None:
        raise UserError(f"{options.source}: a folder does not know its data: give --against CONFIG")
    if options.against is None:
        options.against = options.source.resolve().parents[1] / "config.yaml"
    return options
