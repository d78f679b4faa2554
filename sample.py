"""Draw from any checkpoint: `python sample.py CKPT [options]`; `python sample.py CKPT --help` lists
what its system offers.

The options are those of the system's `sample` method. Previews go to `--out`, one file per seed and
the first 64 side by side in grid.png, and their paths to stdout; texts go to stdout, one sample a
line. Picture i depends on its seed alone, whatever is drawn beside it.

Texts go on from `--prompt TEXT`, or from what stdin brings with `--prompt -`; a terminal sees them
grow. `--show_probs 5` shows each step's likeliest tokens, and `--score FILE` how much every token
of a text surprises the model. Systems that translate pictures take your own: `--input
FOLDER_OR_IMAGE --direction a2b --out DIR` keeps names and sizes. Those that translate texts take a
file of any length or a sentence, `--input FILE --out FILE`, a line for a line, and `--attention
DIR` draws what the first lines looked at. Systems that draw from words take a `--prompt` as often
as you like, or a line for each from stdin; `--ranker CKPT` has a CLIP choose the `--keep K`
pictures that fit best. Systems that fill in a picture take `--input IMAGE` and `--mask IMAGE`,
white where they are to draw. `--no-ema` uses live weights instead of averaged ones.
"""

import sys

from common.errors import run


def sample(argv: list[str]) -> None:
    """Sample from the checkpoint that the command line names."""
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
