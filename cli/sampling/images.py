"""Sample images: one PNG file per seed, and a grid of the first images."""

import argparse
from pathlib import Path

from torch import Tensor

from cli.sampling.seeds import CHUNK, arguments_of, sample_chunks, wanted_seeds
from common.images import grid, save_png, strips
from lightning_modules.core.module import GenerativeModule


def add_options(parser: argparse.ArgumentParser, model: GenerativeModule) -> None:
    """Add the option for the output folder."""
    parser.add_argument(
        "--out",
        type=Path,
        help="Folder for the images (default: a folder in samples/ of the checkpoint's run).",
    )


def run(model: GenerativeModule, options: argparse.Namespace, size: int = CHUNK) -> None:
    """Save one image per seed and a grid of the first `size` images; print the paths.

    Args:
        model: System that samples images (N, C, H, W), or strips of images (N, S, C, H, W).
        options: Parsed options.
        size: Number of seeds per call of `sample`, and maximum number of images in the grid.
    """
    seeds, arguments = wanted_seeds(options), arguments_of(model, options)
    for chunk, images in sample_chunks(model, options, seeds, arguments, size):
        assert isinstance(images, Tensor)
        for seed, image in zip(chunk, images, strict=True):
            path = options.out / f"seed{seed:04d}.png"
            save_png(
                strips(image[None]) if image.dim() == 4 else grid(image[None], columns=1), path
            )
            print(path)
        if chunk[0] == seeds[0]:
            save_png(
                strips(images) if images.dim() == 5 else grid(images), options.out / "grid.png"
            )
            print(options.out / "grid.png")
