"""Pack a folder of images into shards, for data sets of millions of files:
`python shard.py FOLDER OUT [--shard_mb 100] [--skip_bad]`.

    python shard.py photos photos-shards
    python train.py fit --config configs/dcgan/shards.yaml --data.folder photos-shards

Shards are tar files in the format of WebDataset. Images are copied unchanged, in a random order.
Splits and classes are those of `ImageFolder`: sub-folders or `labels.csv`. All CPU cores are used.
The same command continues after an interruption.
"""

import argparse
import sys

from cli.options import OptionParser, number
from common.errors import run


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    from jsonargparse.typing import PositiveInt

    parser = OptionParser(prog="shard.py", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="Folder of images.")
    parser.add_argument("out", metavar="OUT", help="Folder of the shards.")
    parser.add_argument(
        "--shard_mb",
        type=number(PositiveInt),
        default=100,
        help="Size of a shard in megabytes (default: %(default)s).",
    )
    parser.add_argument(
        "--skip_bad",
        action="store_true",
        help="Leave out unusable files and list them in OUT/unusable.txt. By default, the first "
        "unusable file is an error.",
    )
    return parser.parse_args(argv)


def program(argv: list[str]) -> None:
    """Write the shards that are missing."""
    from pathlib import Path

    options = parse(argv)
    from datamodules.images.packing import shard_folder

    shard_folder(options.folder, Path(options.out), options.shard_mb * 10**6, options.skip_bad)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: program(argv), "interrupted; the same command continues")


if __name__ == "__main__":
    sys.exit(main())
