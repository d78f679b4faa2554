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
pictures that fit best.
"""

import argparse
import inspect
import itertools
import math
import os
import sys
import typing
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cli.data import unseen
from cli.options import OptionParser, add_option, parse_seeds
from common.errors import UserError, run

CHUNK = 64  # seeds drawn at a time, so that memory does not grow with their number
PIXELS = 2**20  # of pictures that are translated at a time
LINES, MAPS = (
    512,
    8,
)  # of texts that are translated at a time, and of those whose attention is drawn


def parse(argv: list[str]) -> tuple[Any, argparse.Namespace, dict[str, Any]]:
    """The loaded system, the program's options, and those of its `sample`."""
    path = argv[0]
    if path.startswith("-"):
        raise UserError(
            "which checkpoint? python sample.py runs/.../checkpoints/best.ckpt [options]"
        )

    from docstring_parser import parse as parse_docstring

    from lightning_modules import load

    model = load(path)
    signature = inspect.signature(model.sample)
    if any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD
        for parameter in signature.parameters.values()
    ):
        model.sample([])  # the base class says what this system does instead
    described = {
        entry.arg_name: " ".join((entry.description or "").split())
        for entry in parse_docstring(model.sample.__doc__ or "").params
    }

    parser = OptionParser(
        prog=f"sample.py {path}",
        description=f"Draw from a {type(model).__name__}.",
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", help="seeds to draw, such as 0-31,85")
    parser.add_argument(
        "--num", type=int, default=16, help="how many, where no --seeds are given (default: 16)"
    )
    parser.add_argument("--seed", type=int, default=0, help="first of them (default: 0)")
    if hasattr(model, "translate"):
        parser.add_argument(
            "--input", help="file with a text on each line, or a text; the test split unless given"
        )
        parser.add_argument("--out", type=Path, help="file for translations; stdout unless given")
        parser.add_argument(
            "--attention",
            type=Path,
            metavar="DIR",
            help="folder for pictures of what the first lines looked at",
        )
    else:
        parser.add_argument(
            "--out",
            type=Path,
            default=Path("samples"),
            help="folder for pictures (default: samples)",
        )
    parser.add_argument(
        "--data", type=Path, help="configuration of the data; the run's config.yaml unless given"
    )
    parser.add_argument(
        "--device", default="cpu", help="where to compute, such as cuda (default: cpu)"
    )
    if "direction" in signature.parameters:
        parser.add_argument(
            "--input",
            type=Path,
            help="picture, or folder of pictures, to be translated; the test split unless given",
        )
    if hasattr(model, "listener"):
        parser.add_argument(
            "--show_probs",
            type=int,
            default=0,
            metavar="K",
            help="show the K likeliest tokens of each step",
        )
        parser.add_argument(
            "--score",
            type=Path,
            metavar="FILE",
            help="how many bits each token of this text surprises by",
        )
    options_of = signature.parameters
    paints = (
        "prompt" in options_of and typing.get_origin(options_of["prompt"].annotation) is not None
    )
    if paints:
        parser.add_argument(
            "--ranker",
            type=Path,
            metavar="CKPT",
            help="CLIP (or DALL-E, by its likelihood) that puts the pictures of a prompt in order",
        )
        parser.add_argument(
            "--keep", type=int, help="how many of them are kept, the best first; all unless given"
        )
    names = [name for name in signature.parameters if name not in ("seeds", "batch")]
    for name in names:
        add_option(parser, signature.parameters[name], described.get(name, ""))
    options = parser.parse_args(argv[1:])
    if options.data is None:
        options.data = Path(path).resolve().parents[1] / "config.yaml"
    options.takes_batch = "batch" in signature.parameters
    return model, options, {name: getattr(options, name) for name in names}


def use_device(model: Any, device: str) -> None:
    """Move a system.

    Raises:
        UserError: if there is no such device.
    """
    try:
        model.to(device)
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # what torch raises for a device that it does not know or have
        raise UserError(
            f"--device {device}: there is no such device here; give cpu, or leave it out"
        ) from error


def pictures_of(source: Path, channels: int, failed: list[str]) -> Iterator[tuple[list[Path], Any]]:
    """Previews of one size, as many as `PIXELS` allows but at least one at a time: their files, and
    uint8 (N, C, H, W).

    Args:
        source: a picture, or a folder with pictures anywhere in it.
        channels: 1 or 3.
        failed: gets a line for each file that cannot be read.

    Raises:
        UserError: if there is nothing to read.
    """
    import torch

    from datamodules.images.files import (
        SUFFIXES,
        BadImage,
        image_files,
        read_image,
        to_tensor,
    )

    found = image_files(source) if source.is_dir() else [source]
    if not found:
        raise UserError(
            f"--input {source}: there are no pictures in it ({', '.join(sorted(SUFFIXES))})"
        )
    paths: list[Path] = []
    images: list[torch.Tensor] = []
    for path in found:
        try:
            image = to_tensor(read_image(path, channels))
        except BadImage as error:
            failed.append(str(error))
            continue
        if images and (
            image.shape != images[0].shape or image[0].numel() * (len(images) + 1) > PIXELS
        ):
            yield paths, torch.stack(images)
            paths, images = [], []
        paths.append(path)
        images.append(image)
    if images:
        yield paths, torch.stack(images)


def translate(model: Any, options: argparse.Namespace, sampling: dict[str, Any]) -> None:
    """Translate the pictures of `--input` into `--out`, under their names and in their sizes.

    Raises:
        UserError: if any could not be translated, after all others were; a line on stderr says why
            of each.
    """
    from PIL import Image

    from metrics.features import to_bytes

    source, out, done = options.input, options.out, 0
    if options.seeds:
        raise UserError(
            "--seeds picks pictures of the test split: with --input give --seed, the noise of every picture"
        )
    failed: list[str] = []
    if not source.exists():
        raise UserError(f"--input {source}: there is no such picture or folder")
    home = source if source.is_dir() else source.parent
    if out.resolve() == home.resolve():
        raise UserError(f"--out {out} would overwrite the pictures of --input: give another folder")
    for paths, images in pictures_of(source, model.hparams.image_shape[0], failed):
        batch = {sampling["direction"][0]: images.float() / 127.5 - 1}
        try:
            made = to_bytes(
                model.sample([options.seed] * len(paths), batch=batch, **sampling)
            ).cpu()
        except UserError as error:
            failed += [f"{path}: {error}" for path in paths]
            continue
        for path, picture in zip(paths, made):
            target = out / path.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).squeeze(2).numpy()).save(target, quality=95)
            print(target)
            done += 1
    if failed and source.is_dir():
        print("\n".join(f"warning: {line}" for line in failed), file=sys.stderr)
        raise UserError(
            f"{len(failed)} of {done + len(failed)} pictures could not be translated, see the lines above; repair them"
        )
    if failed:
        raise UserError(failed[0])


def prime_of(path: Path, shape: list[int]) -> Any:
    """A picture file in a system's size, (C, H, W) in [-1, 1]."""
    from datamodules.images.files import read_image, square

    if not path.is_file():
        raise UserError(f"--prime {path}: there is no such picture")
    return square(read_image(path, shape[0]), shape[-1], path, min_size=1).float() / 127.5 - 1


def paint(
    model: Any, options: argparse.Namespace, seeds: list[int], sampling: dict[str, Any]
) -> None:
    """Draw all seeds for each prompt, put them in order by `--ranker`, and write those that are
    kept, and all in one grid.

    Raises:
        UserError: if a prompt could not be drawn, after all others were; a line on stderr says why
            of each.
    """
    import torch

    from common.images import grid, labelled, save_png
    from lightning_modules import load

    prompts = sampling.pop("prompt")
    if prompts == ["-"]:
        prompts = [line for line in map(str.strip, sys.stdin) if line]
    ranker = load(options.ranker).to(options.device) if options.ranker else None
    if ranker is not None and not hasattr(ranker, "score"):
        raise UserError(
            f"--ranker {options.ranker}: is a {type(ranker).__name__}; give the checkpoint of a CLIP, or of a DALL-E"
        )
    keep = len(seeds) if options.keep is None else options.keep
    if keep < 1:
        raise UserError(f"--keep {keep}: give at least 1")
    if options.keep is not None and ranker is None:
        raise UserError(
            "--keep takes the pictures that fit best: give --ranker CKPT, which says so, or leave it out"
        )
    rows: list[tuple[str, torch.Tensor]] = []
    failed: list[str] = []
    for number, prompt in enumerate(prompts, 1):
        chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
        try:
            for reader in (model, ranker) if ranker is not None else (model,):
                reader.read([prompt])
        except UserError as error:
            failed.append(str(error))
            continue
        drawn = torch.cat([model.sample(chunk, prompt=[prompt], **sampling) for chunk in chunks])
        scores = (
            ranker.score(drawn, [prompt])[:, 0] if ranker is not None else torch.zeros(len(seeds))
        )
        best = scores.argsort(descending=True, stable=True)[:keep].tolist()
        for place in best:
            path = options.out / f"prompt{number:02d}-seed{seeds[place]:04d}.png"
            save_png(grid(drawn[place][None], columns=1), path)
            print(f"{path}\t{prompt}" + (f"\t{scores[place]:.3f}" if ranker is not None else ""))
        rows.append((prompt, drawn[best].cpu()))
    if rows:
        save_png(labelled(rows), options.out / "grid.png")
        print(options.out / "grid.png")
    if failed and len(prompts) > 1:
        print("\n".join(f"warning: {line}" for line in failed), file=sys.stderr)
        raise UserError(
            f"{len(failed)} of {len(prompts)} prompts could not be drawn, see the lines above"
        )
    if failed or not prompts:
        raise UserError(
            failed[0] if failed else "--prompt -: stdin holds no prompt; give one a line"
        )


def translate_texts(model: Any, options: argparse.Namespace, sampling: dict[str, Any]) -> None:
    """Translate the lines of `--input`, as many at a time as fit into memory however long the file
    is; empty lines stay empty.

    Raises:
        UserError: if a line cannot be read, or `--out` is the input.
    """
    from callbacks.attention_maps import heat_map
    from common.images import save_png
    from datamodules.text_files import read_lines
    from lightning_modules.decoding.beam_search import BeamSearchConfig

    search, source, given = (
        BeamSearchConfig(**sampling),
        Path(options.input),
        os.path.isfile(options.input),
    )
    if options.seeds:
        raise UserError("--seeds picks texts of the test split: leave it out with --input")
    if not given and (
        os.path.isdir(options.input) or (source.suffix and len(options.input.split()) == 1)
    ):
        raise UserError(
            f"--input {options.input}: there is no such file; give a file with a text on each line, or a text"
        )
    if given and options.out and options.out.resolve() == source.resolve():
        raise UserError(
            f"--out {options.out} would overwrite the texts of --input: give another file"
        )
    lines = read_lines(source) if given else iter([options.input])
    with (
        open(options.out, "w", encoding="utf-8") if options.out else nullcontext(sys.stdout) as file
    ):
        for number in itertools.count():
            chunk = list(itertools.islice(lines, LINES))
            for line in model.translate(chunk, search):
                print(line, file=file)
            if options.attention and number == 0:
                for row, line in enumerate(chunk[:MAPS]):
                    if not line.strip():
                        continue
                    tokens, length = model.read([line])
                    for name, shown in model.attention_maps(
                        {"source": tokens, "source_length": length}, search
                    ).items():
                        save_png(
                            heat_map(shown), options.attention / f"line{row + 1:04d}-{name}.png"
                        )
            if len(chunk) < LINES:
                break


class Typewriter:
    """Shows a text while it is made.

    Args:
        model: a system over tokens.
        prompt: how the text begins.
        show: likeliest tokens that are shown of each step, on stderr; 0 writes the text itself to
            stdout.
    """

    def __init__(self, model: Any, prompt: str, show: int) -> None:
        self.tokenizer, self.show, self.ids = model.tokenizer, show, model.prompt_ids(prompt)
        self.written = len(self.tokenizer.decode(self.ids))

    def __call__(self, tokens: list[int], probabilities: Any) -> None:
        """Listener of `generate`, of one text."""
        self.ids.append(tokens[0])
        if self.show:
            top = probabilities[0].topk(min(self.show, probabilities.shape[1]))
            likely = "  ".join(
                f"{self.tokenizer.token(i)!r} {p:.1%}"
                for p, i in zip(top.values.tolist(), top.indices.tolist())
            )
            print(f"{self.tokenizer.token(tokens[0])!r:12} {likely}", file=sys.stderr)
            return
        text = self.tokenizer.decode(self.ids)
        if not text.endswith("\ufffd"):  # half a character
            print(text[self.written :], end="", flush=True)
            self.written = len(text)


def type_texts(
    model: Any, options: argparse.Namespace, seeds: list[int], sampling: dict[str, Any]
) -> None:
    """Draw one text after the other, shown while it is made.

    Raises:
        UserError: if less than one candidate is to be shown.
    """
    if options.show_probs < 0:
        raise UserError(f"--show_probs {options.show_probs}: give at least 1")
    for seed in seeds:
        model.listener = Typewriter(model, sampling["prompt"], options.show_probs)
        if not options.show_probs:
            print(sampling["prompt"], end="")
        (text,) = model.sample([seed], **sampling)
        print(text if options.show_probs else "")


def score(model: Any, source: Path) -> None:
    """Print the bits that each token of a text surprises by, one a line, and their sum on
    stderr.
    """
    from datamodules.text_files import read_shards

    if not source.is_file():
        raise UserError(f"--score {source}: there is no such file")
    text = "".join(read_shards(source))
    found, characters = model.surprisals(text)
    for token, nats in found:
        print(f"{nats / math.log(2):.3f}\t{token!r}")
    total = sum(nats for _, nats in found) / math.log(2)
    per_character = f", {total / characters:.3f} a character" if model.tokenizer.lossless else ""
    print(f"{total:.1f} bits, {total / len(found):.3f} a token{per_character}", file=sys.stderr)


def draw(argv: list[str]) -> None:
    """Parse, draw, write, and print what was written."""
    model, options, sampling = parse(argv)
    use_device(model, options.device)
    if getattr(options, "input", None):
        (translate_texts if hasattr(model, "translate") else translate)(model, options, sampling)
        return
    if hasattr(model, "translate") and (options.out or options.attention):
        raise UserError("--out and --attention go with --input: give a file or a text")
    if getattr(options, "score", None):
        score(model, options.score)
        return
    if sampling.get("prime") is not None:
        sampling["prime"] = prime_of(sampling["prime"], model.hparams.image_shape)
    if sampling.get("prompt") == "-":
        sampling["prompt"] = sys.stdin.read().removesuffix("\n")
    seeds = (
        parse_seeds(options.seeds)
        if options.seeds
        else list(range(options.seed, options.seed + options.num))
    )
    if not seeds:
        raise UserError(f"--num {options.num} draws nothing: give at least 1")
    if getattr(options, "show_probs", 0) or (hasattr(model, "listener") and sys.stdout.isatty()):
        type_texts(model, options, seeds, sampling)
        return

    if isinstance(sampling.get("prompt"), list):
        paint(model, options, seeds, sampling)
        return
    if getattr(options, "ranker", None) or getattr(options, "keep", None):
        raise UserError(
            "--ranker and --keep choose among the pictures of a prompt: give --prompt TEXT"
        )

    import torch

    from common.images import grid, save_png, strips

    size = CHUNK // 4 if "direction" in sampling else CHUNK  # what is translated may be large
    for start in range(0, len(seeds), size):
        chunk = seeds[start : start + size]
        data = (
            {"batch": unseen(model, options.data, chunk, sampling.get("attribute"))}
            if options.takes_batch
            else {}
        )
        drawn = model.sample(chunk, **data, **sampling)
        for seed, one in zip(chunk, drawn, strict=True):
            if isinstance(one, str):
                print(one)
                continue
            path = options.out / f"seed{seed:04d}.png"
            save_png(strips(one[None]) if one.dim() == 4 else grid(one[None], columns=1), path)
            print(path)
        if start == 0 and isinstance(drawn, torch.Tensor):
            save_png(strips(drawn) if drawn.dim() == 5 else grid(drawn), options.out / "grid.png")
            print(options.out / "grid.png")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv in ([], ["-h"], ["--help"]):
        print(__doc__)
        return 0
    return run(lambda: draw(argv))


if __name__ == "__main__":
    sys.exit(main())
