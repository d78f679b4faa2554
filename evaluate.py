"""Score pictures: `python evaluate.py CKPT|FOLDER [--against CONFIG] [--metrics fid,kid,...]
[--seed 0]`.

CKPT is a checkpoint; its averaged weights and its live ones are scored side by side. A system that
draws no pictures is scored by its own figures on the test split, such as BLEU. FOLDER holds
pictures that anything made. One generation and one pass through the feature extractor serve all
metrics; the real pictures' features are computed once and kept beside the corpora. Each value is a
line of JSON on stdout, with its signature. Systems that translate are given the split's pictures
and scored per direction. Metrics: fid, kid, precision, recall, density, coverage, is (Inception
only), parzen, nn (conditional systems only), and l1, psnr, ssim (translations whose answers are
known). Systems that draw from captions are also asked by `--ranker CKPT`, a CLIP, for ranking: how
often a picture's caption fits it best among 32, beside the same of the real pictures and of
shuffled captions.
"""

import json
import sys

from common.errors import run


def evaluate(argv: list[str]) -> None:
    """Print the answer, a line per value as soon as it is known."""
    from cli.evaluation import options, program  # import torch, which takes seconds

    for line in program.evaluate(options.parse(argv, __doc__)):
        print(json.dumps(line), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv in ([], ["-h"], ["--help"]):
        print(__doc__)
        return 0
    return run(lambda: evaluate(argv))


if __name__ == "__main__":
    sys.exit(main())
