"""Translate texts of the test split, a file of any length, or a single text."""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from callbacks.attention_maps import heat_map
from cli.sampling.seeds import arguments_of, sample_chunks, wanted_seeds
from cli.sampling.text import add_unknown_option
from common.errors import UserError, utf8_argument
from common.images import save_png
from datamodules.text_files import read_lines
from datamodules.tokenizers.unseen import UNKNOWN_OPTION, handle_unseen
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.translator import Translator
from lightning_modules.decoding.beam_search import BeamSearchConfig

CHUNK = 512  # lines per call of `translate`
MAPS = 8  # number of first lines whose attention weights are saved


def add_options(parser: argparse.ArgumentParser, model: GenerativeModule) -> None:
    """Add the options for the input, the translations and the attention weights."""
    if isinstance(model, Translator):
        parser.add_argument(
            "--input",
            help="File with one text per line, or a single text (default: the test split).",
        )
        parser.add_argument("--out", type=Path, help="File for the translations (default: stdout).")
        parser.add_argument(
            "--attention",
            type=Path,
            metavar="DIR",
            help=f"Folder for images of the attention weights of the first {MAPS} lines.",
        )
        add_unknown_option(parser)


def run(model: GenerativeModule, options: argparse.Namespace) -> None:
    """Translate the text of `--input`; without this option, one test text per seed."""
    if isinstance(model, Translator):
        if options.input:
            translate(model, options)
            return
        if options.out or options.attention:
            raise UserError("--out and --attention need --input; give a file or a text")
    arguments = arguments_of(model, options)
    for _, texts in sample_chunks(model, options, wanted_seeds(options), arguments):
        for text in texts:
            print(text)


def translate(model: Translator, options: argparse.Namespace) -> None:
    """Translate the lines of `--input`, `CHUNK` at a time; empty lines stay empty.

    Raises:
        UserError: If a line cannot be read, the file does not exist, `--out` is the input file, or
            a character is not in the vocabulary and such characters are refused.
    """
    search = BeamSearchConfig(**arguments_of(model, options))
    if options.seeds:
        raise UserError("--seeds selects texts of the test split; leave it out with --input")
    source, is_file = Path(options.input), os.path.isfile(options.input)
    looks_like_file = source.suffix and len(options.input.split()) == 1
    if not is_file and (looks_like_file or os.path.isdir(options.input)):
        raise UserError(
            f"--input {options.input}: there is no such file; "
            "give a file with one text per line, or a text"
        )
    if is_file and options.out and options.out.resolve() == source.resolve():
        raise UserError(
            f"--out {options.out} would overwrite the file of --input; give another file"
        )

    def read() -> Iterator[str]:
        return read_lines(source) if is_file else iter([utf8_argument(options.input)])

    name = f"--input {options.input}" if is_file else "--input"
    # Surrounding white space is stripped from each line before it is translated.
    stripped = map(str.strip, read())
    clean = handle_unseen(model.known_tokenizer(), stripped, options.unknown, name, UNKNOWN_OPTION)
    lines = map(clean, map(str.strip, read()))
    with (
        open(options.out, "w", encoding="utf-8") if options.out else nullcontext(sys.stdout)
    ) as file:
        for number in itertools.count():
            chunk = list(itertools.islice(lines, CHUNK))
            for line in model.translate(chunk, search):
                print(line, file=file)
            if options.attention and number == 0:
                save_attention(model, chunk[:MAPS], search, options.attention)
            if len(chunk) < CHUNK:
                break


def save_attention(
    model: Translator, lines: list[str], search: BeamSearchConfig, folder: Path
) -> None:
    """Translate each line and save the attention weights of the translation as images."""
    for row, line in enumerate(lines, 1):
        if line.strip():
            tokens, length = model.read([line])
            batch = {"source": tokens, "source_length": length}
            for name, attention in model.attention_maps(batch, search).items():
                save_png(heat_map(attention), folder / f"line{row:04d}-{name}.png")
