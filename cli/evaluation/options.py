"""The command line of `evaluate.py`."""

import argparse
from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt, restricted_number_type

from cli.evaluation.scores import DISTANCES, METRICS
from cli.options import OptionParser, number
from cli.sampling.output import run_folder
from common.errors import UserError
from lightning_modules.core.exports import is_export, local_path

ImageCount = restricted_number_type("ImageCount", int, (">=", 10))


def parse(argv: list[str], description: str | None = None) -> argparse.Namespace:
    """Parse and check a command line.

    Returns:
        Values of the options, and a list `changed` of the options that differ from their defaults.

    Raises:
        UserError: If an option is unknown or out of its range, or options contradict each other.
    """
    parser = OptionParser(prog="evaluate.py", description=description)
    parser.add_argument(
        "source", help="Checkpoint, export, hf://USER/NAME, or folder of images to evaluate."
    )
    parser.add_argument(
        "--against",
        type=Path,
        help="Configuration file of the real data (default: config.yaml of the checkpoint's run).",
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "val", "test"),
        help="Split of the real images (default: test).",
    )
    parser.add_argument(
        "--metrics",
        default=",".join(DISTANCES),
        help=f"Metrics, separated by commas: {','.join(METRICS)} (default: the first six).",
    )
    parser.add_argument(
        "--num",
        type=number(ImageCount),
        help="Number of images to evaluate, at least 10 (default: the size of the split).",
    )
    parser.add_argument(
        "--seed",
        type=number(NonNegativeInt),
        default=0,
        help="Seed of the first generated image (default: 0).",
    )
    parser.add_argument(
        "--weights",
        default="both",
        choices=("averaged", "trained", "both"),
        help="Weights to evaluate, if the checkpoint has averaged weights (default: both).",
    )
    parser.add_argument(
        "--extractor",
        default="classifier",
        choices=("classifier", "inception"),
        help="Feature extractor: a small classifier trained on the real data, or Inception-v3 "
        "(default: classifier).",
    )
    parser.add_argument(
        "--ranker",
        type=Path,
        metavar="CKPT",
        help="Checkpoint of the CLIP that --metrics ranking needs.",
    )
    parser.add_argument(
        "--domain",
        default="b",
        choices=("a", "b"),
        help="Domain of the real images for a folder, if the data has two domains (default: b).",
    )
    parser.add_argument(
        "--unknown",
        default="refuse",
        choices=("refuse", "replace"),
        help="Refuse test text with characters that the tokenizer of data.tokenizer_file lacks, or "
        "replace these characters by a space (default: refuse).",
    )
    parser.add_argument(
        "--batch_size",
        type=number(PositiveInt),
        default=250,
        help="Number of images per batch (default: 250).",
    )
    parser.add_argument(
        "--device", default="cpu", help="Device for the computation, such as cuda (default: cpu)."
    )
    options = parser.parse_args(argv)
    default = vars(parser.parse_args([options.source]))
    options.changed = [name for name, value in vars(options).items() if value != default[name]]
    options.source, options.metrics = local_path(options.source), options.metrics.split(",")
    unknown = [name for name in options.metrics if name not in METRICS]
    if unknown:
        raise UserError(
            f"--metrics {unknown[0]!r}: there is no such metric; give some of {', '.join(METRICS)}"
        )
    return check(options)


def check(options: argparse.Namespace) -> argparse.Namespace:
    """Check options before any file is read.

    Without `--against`, the configuration of the checkpoint's run is used.

    Raises:
        UserError: If an option is out of its range, or options contradict each other.
    """
    if "is" in options.metrics and options.extractor != "inception":
        raise UserError(
            "--metrics is (Inception Score) needs the classes of Inception-v3; "
            "use --extractor inception"
        )
    if ("ranking" in options.metrics) != (options.ranker is not None):
        raise UserError("--metrics ranking and --ranker CKPT need each other; give both or neither")
    if not options.source.exists():
        raise UserError(
            f"{options.source}: there is no such checkpoint or folder; "
            "the checkpoints of a run are in its folder checkpoints/"
        )
    if is_images(options.source) and options.against is None:
        raise UserError(f"{options.source} is a folder; name the real data with --against CONFIG")
    if options.against is None and (run := run_folder(options.source)):
        options.against = run / "config.yaml"
    return options


def is_images(source: Path) -> bool:
    """Return whether a source is a folder of images, not an export."""
    return source.is_dir() and not is_export(source)
