"""Translate images of the test split, or the images of `--input`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from cli.image_inputs import image_batches
from cli.sampling import images
from cli.sampling.seeds import CHUNK, arguments_of
from common.errors import UserError
from lightning_modules.core.module import GenerativeModule
from metrics.features import to_bytes


def add_options(parser: argparse.ArgumentParser, model: GenerativeModule) -> None:
    """Add the options for the input images and the output folder."""
    images.add_options(parser, model)
    parser.add_argument(
        "--input",
        type=Path,
        help="Image file or folder of images to translate (default: images of the test split).",
    )


# Formats in which an image is written without loss or with a chosen quality.
WRITTEN = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def output_name(path: Path) -> Path:
    """Return the name of the translation of an image; .png is added to other formats' names."""
    return path if path.suffix.lower() in WRITTEN else path.with_name(f"{path.name}.png")


def run(model: GenerativeModule, options: argparse.Namespace) -> None:
    """Translate the images of `--input`; without this option, one test image per seed."""
    if options.input:
        translate(model, options)
    else:
        images.run(model, options, size=CHUNK // 4)  # images may be large


def translate(model: Any, options: argparse.Namespace) -> None:
    """Translate the images of `--input` and save them in `--out` with their names and sizes.

    An image that cannot be translated is skipped, with a warning on stderr.

    Raises:
        UserError: If an option cannot be used, or an image was skipped. For a skipped image, the
            error is raised after all other images are translated.
    """
    source, out, done = options.input, options.out, 0
    if options.seeds:
        raise UserError(
            "--seeds selects images of the test split; "
            "with --input give --seed, the seed for every image"
        )
    failed: list[str] = []
    if not source.exists():
        raise UserError(f"--input {source}: there is no such file or folder; give images")
    home = source if source.is_dir() else source.parent
    if out.resolve() == home.resolve():
        raise UserError(f"--out {out} would overwrite the images of --input; give another folder")
    arguments = arguments_of(model, options)
    domain = arguments["direction"][0]
    for paths, inputs in image_batches(source, model.hparams.image_shape[0], failed, out):
        batch = {domain: inputs.float() / 127.5 - 1}
        try:
            outputs = model.sample([options.seed] * len(paths), batch=batch, **arguments)
        except UserError as error:
            failed += [f"{path}: {error}" for path in paths]
            continue
        for path, image in zip(paths, to_bytes(outputs).cpu()):
            target = out / output_name(path.relative_to(home))
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(target, quality=95)
            print(target)
            done += 1
    if failed and source.is_dir():
        print("\n".join(f"warning: {line}" for line in failed), file=sys.stderr)
        raise UserError(
            f"{len(failed)} of {done + len(failed)} images could not be translated; "
            "see the warnings above"
        )
    if failed:
        raise UserError(failed[0])
