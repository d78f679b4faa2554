"""Generate samples from a checkpoint: `python sample.py CKPT [options]`.

`python sample.py CKPT --help` lists the options of the checkpoint's system. They include all
parameters of its `sample` method. Each sample depends on its seed only, not on the other samples.

Images: `--out DIR` receives one file per seed, and grid.png with the first 64 (translations: the
first 16). Their paths are printed to stdout. Systems that fill in images take `--input IMAGE` and
`--mask IMAGE`, which is white where the image is to be filled in.

Texts: one sample per line is printed to stdout, token by token in a terminal. `--prompt TEXT` is
the beginning of each text; `--prompt -` reads it from stdin. `--show_probs 5` shows the 5 most
probable tokens of each step. `--score FILE` prints the surprisal of each token of a text in bits.

Image translation: `--input FOLDER_OR_IMAGE --direction a2b --out DIR` translates your own images
and keeps their names and sizes.

Text translation: `--input FILE --out FILE` translates a file line by line; `--input` also takes
one sentence. `--attention DIR` saves the attention weights of the first lines as images.

Text to image: `--prompt TEXT` may be given several times; `--prompt -` reads one prompt per line
from stdin. `--ranker CKPT --keep K` saves only the K images that a CLIP ranks highest.

`--no-ema` samples with the current weights instead of their moving average.
"""

import sys

from common.errors import run


def sample(argv: list[str]) -> None:
    """Load the checkpoint and print or save its samples."""
    from cli.sampling import command  # imports torch, which takes seconds

    command.run(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv in ([], ["-h"], ["--help"]):
        print(__doc__)
        return 0
    return run(lambda: sample(argv))


if __name__ == "__main__":
    sys.exit(main())
