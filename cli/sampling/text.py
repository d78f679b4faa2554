"""Sample texts, and compute the surprisal of the tokens of a given text."""

import argparse
import math
import sys
from pathlib import Path

from jsonargparse.typing import NonNegativeInt
from torch import Tensor

from cli.options import number
from cli.sampling.seeds import arguments_of, sample_chunks, wanted_seeds
from common.errors import UserError, utf8_argument
from datamodules.text_files import read_shards
from datamodules.tokenizers.unseen import UNKNOWN_OPTION, Unknown, handle_unseen
from lightning_modules.core.language_model import LanguageModel
from lightning_modules.core.module import GenerativeModule


def add_options(parser: argparse.ArgumentParser, model: GenerativeModule) -> None:
    """Add the options of language models, `--show_probs` and `--score`."""
    if isinstance(model, LanguageModel):
        parser.add_argument(
            "--show_probs",
            type=number(NonNegativeInt),
            default=0,
            metavar="K",
            help="Print the K most probable tokens of each step to stderr (default: 0).",
        )
        parser.add_argument(
            "--score",
            type=Path,
            metavar="FILE",
            help="Text file: the surprisal of each token is printed in bits; nothing is sampled.",
        )
        add_unknown_option(parser)


def add_unknown_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for characters that a character tokenizer lacks."""
    parser.add_argument(
        "--unknown",
        choices=("refuse", "replace"),
        default="refuse",
        help="Refuse texts with characters that are not in the vocabulary, or replace these "
        "characters by a space (default: refuse).",
    )


def run(model: GenerativeModule, options: argparse.Namespace) -> None:
    """Print one text per seed, or the surprisal of each token of the file in `--score`."""
    if isinstance(model, LanguageModel) and options.score:
        print_surprisals(model, options.score, options.unknown)
        return
    arguments = arguments_of(model, options)
    if isinstance(model, LanguageModel):
        prompt = str(arguments["prompt"])
        prompt = read_stdin().removesuffix("\n") if prompt == "-" else utf8_argument(prompt)
        clean = handle_unseen(
            model.known_tokenizer(), [prompt], options.unknown, "--prompt", UNKNOWN_OPTION
        )
        arguments["prompt"] = clean(prompt)
    seeds = wanted_seeds(options)
    if isinstance(model, LanguageModel) and (options.show_probs or sys.stdout.isatty()):
        type_texts(model, seeds, arguments, options.show_probs)
        return
    for _, texts in sample_chunks(model, options, seeds, arguments):
        for text in texts:
            print(text)


def read_stdin() -> str:
    """Return the text on stdin, for `--prompt -`.

    Raises:
        UserError: If stdin is not UTF-8.
    """
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(f"--prompt -: stdin is not UTF-8 ({error}); give UTF-8 text") from error


class Typewriter:
    """Function that `generate` calls at each step, to print the text or token probabilities.

    Args:
        model: Language model.
        prompt: Start of the text.
        show_probs: Number of most probable tokens to print to stderr at each step; 0 prints the
            text to stdout.
    """

    def __init__(self, model: LanguageModel, prompt: str, show_probs: int) -> None:
        self.tokenizer, self.show_probs = model.known_tokenizer(), show_probs
        self.ids = model.prompt_ids(prompt)
        self.printed = len(self.tokenizer.decode(self.ids))

    def __call__(self, tokens: list[int], probabilities: Tensor) -> None:
        """Print the token of one generation step, or its most probable tokens."""
        self.ids.append(tokens[0])
        if self.show_probs:
            top = probabilities[0].topk(min(self.show_probs, probabilities.shape[1]))
            likely = "  ".join(
                f"{self.tokenizer.token(i)!r} {p:.1%}"
                for p, i in zip(top.values.tolist(), top.indices.tolist())
            )
            print(f"{self.tokenizer.token(tokens[0])!r:12} {likely}", file=sys.stderr)
            return
        text = self.tokenizer.decode(self.ids)
        if not text.endswith("\ufffd"):  # "\ufffd" marks an incomplete character
            print(text[self.printed :], end="", flush=True)
            self.printed = len(text)


def type_texts(
    model: LanguageModel, seeds: list[int], arguments: dict[str, object], show_probs: int
) -> None:
    """Sample texts one by one and print each text while it is generated."""
    prompt = str(arguments["prompt"])
    for seed in seeds:
        model.listener = Typewriter(model, prompt, show_probs)
        if not show_probs:
            print(prompt, end="")
        (text,) = model.sample([seed], **arguments)  # type: ignore[arg-type]
        print(text if show_probs else "")


def print_surprisals(model: LanguageModel, source: Path, unknown: Unknown) -> None:
    """Print the surprisal of each token in bits to stdout, and the sum to stderr.

    Args:
        model: Language model.
        source: Text file.
        unknown: Whether to refuse or to replace characters that are not in the vocabulary.

    Raises:
        UserError: If there is no such file, or if it has such characters and they are refused.
    """
    if not source.is_file():
        raise UserError(f"--score {source}: there is no such file; give a text file")
    text = "".join(read_shards(source))
    tokenizer = model.known_tokenizer()
    # With special tokens, each line is a text: its line break needs no id.
    parts = text.split("\n") if tokenizer.specials else [text]
    clean = handle_unseen(tokenizer, parts, unknown, f"--score {source}", UNKNOWN_OPTION)
    surprisals, characters = model.surprisals(
        ("\n" if tokenizer.specials else "").join(map(clean, parts))
    )
    for token, nats in surprisals:
        print(f"{nats / math.log(2):.3f}\t{token!r}")
    total = sum(nats for _, nats in surprisals) / math.log(2)
    per_character = f", {total / characters:.3f} per character" if tokenizer.lossless else ""
    print(
        f"{total:.1f} bits, {total / len(surprisals):.3f} per token{per_character}", file=sys.stderr
    )
