"""Evaluate generated images: `python evaluate.py CKPT|FOLDER [--against CONFIG]
[--metrics fid,kid,...] [--seed 0]`.

CKPT is a checkpoint. If it has averaged weights, these ("averaged") and the trained ones
("trained") are evaluated separately; --weights selects one of them. A system that generates no
images is evaluated by its own test metrics, such as BLEU. FOLDER holds images from any source and
needs --against CONFIG, the configuration of the real data. Each value is printed as one line of
JSON, with a `signature` that records the metric's settings.

Metrics: fid, kid, precision, recall, density, coverage, is (Inception Score, with --extractor
inception only), parzen, nn (conditional systems only), l1, psnr and ssim (translations with
reference images only), and ranking.

The metric ranking needs data with captions and `--ranker CKPT`, the checkpoint of a CLIP. It is the
share of images whose own caption the CLIP ranks first among 32 captions. It is also computed for
the real images and for shuffled captions.

All metrics use the same generated images and one pass through the feature extractor. The features
of the real images are computed once and cached with the data. Image translation systems translate
the images of the split. Each direction is evaluated separately.
"""

import json
import sys

from common.errors import run


def evaluate(argv: list[str]) -> None:
    """Print each value as a line of JSON when it is computed; without arguments, print the help."""
    if not argv:
        print(__doc__)
        return
    from cli.evaluation import options, program  # imports torch, which takes seconds

    for line in program.evaluate(options.parse(argv, __doc__)):
        print(json.dumps(line), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: evaluate(argv))


if __name__ == "__main__":
    sys.exit(main())
