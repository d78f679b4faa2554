"""Generate samples from a checkpoint: `python sample.py CKPT [options]`.

`python sample.py CKPT --help` lists the options of the checkpoint's system. All parameters of the
system's `sample` method are options. Each sample depends only on its own seed.

Images: one file per seed, and grid.png with the first 64 images (16 for translations). They are
written to a folder in samples/ of the checkpoint's run, or to `--out DIR`. The paths of the files
are printed to stdout. Systems that fill in images
take the files `--input IMAGE` and `--mask IMAGE`. Pixels are filled in where the mask is white.

Texts: one sample per line is printed to stdout, token by token in a terminal. `--prompt TEXT` is
the start of each text; `--prompt -` reads it from stdin. `--show_probs 5` shows the 5 most
probable tokens of each step. `--score FILE` prints the surprisal of each token of a text file in
bits.

Image translation: `--input FOLDER_OR_IMAGE --direction a2b` translates your own images.
The results have the names and sizes of the inputs.

Text translation: `--input FILE --out FILE` translates a file line by line. `--input` may also be a
single text. `--attention DIR` saves the attention weights of the first lines as images.

Text to image: `--prompt TEXT` may be given several times; `--prompt -` reads one prompt per line
from stdin. Every prompt is sampled with all seeds. `--ranker CKPT --keep K` saves only the K images
per prompt that a CLIP ranks highest. `--prime IMAGE` is an image file whose upper part is given.
The rest of the image is generated.

`--no-ema` samples with the current weights instead of their moving average.
"""

import sys

from common.errors import run


def sample(argv: list[str]) -> None:
    """Load the checkpoint and print or save its samples; without arguments, print the help."""
    if argv in ([], ["-h"], ["--help"]):
        print(__doc__)
        return
    from cli.sampling import command  # imports torch, which takes seconds

    command.run(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: sample(argv))


if __name__ == "__main__":
    sys.exit(main())
