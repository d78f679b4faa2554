"""The command line of `sample.py`, with options for the system's modality and `sample` method."""

import argparse
import sys
from pathlib import Path
from types import ModuleType

from jsonargparse.typing import NonNegativeInt, PositiveInt

from cli.device import move_to
from cli.options import OptionParser, add_sample_options, number
from cli.sampling import images, text, text_to_image, translate_images, translate_text
from cli.sampling.output import output_folder, run_folder
from common.errors import UserError
from lightning_modules import load
from lightning_modules.core.exports import HUB, local_path
from lightning_modules.core.module import GenerativeModule, Modality

# Each module has `add_options(parser, model)` and `run(model, options)`.
BY_MODALITY: dict[Modality, ModuleType] = {
    "images": images,
    "text": text,
    "image-to-image": translate_images,
    "text-to-text": translate_text,
    "text-to-image": text_to_image,
}
WRITES_IMAGES = ("images", "image-to-image", "text-to-image")


def run(argv: list[str]) -> None:
    """Load a checkpoint, parse the options of its system, and sample.

    Args:
        argv: Words of the command line: path of the checkpoint, then options.

    Raises:
        UserError: If the checkpoint is missing, or its system does not generate samples.
    """
    path = argv[0]
    if path.startswith("-"):
        raise UserError(
            f"the first argument must be a checkpoint (got {path}); "
            "python sample.py runs/.../checkpoints/best.ckpt [options]"
        )
    local = local_path(path)
    model = load(local)
    if model.modality not in BY_MODALITY:
        raise UserError(
            f"{path}: {type(model).__name__} does not generate samples; "
            "give the checkpoint of another system"
        )
    program = BY_MODALITY[model.modality]
    parser = common_options(path, model)
    program.add_options(parser, model)
    if model.has_averaged_weights:
        parser.add_argument(
            "--ema",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="Sample with the moving average of the weights (default: True).",
        )
    add_sample_options(parser, model.sample)
    options = parser.parse_args(argv[1:])
    run_dir = run_folder(local)
    if options.data is None and run_dir is not None:
        options.data = run_dir / "config.yaml"
    if model.modality in WRITES_IMAGES and options.out is None:
        if path.startswith(HUB):
            raise UserError(f"{path} is a repository; give --out DIR for the images")
        options.out = output_folder(local, parser, options)
    move_to(model, options.device)
    with model.averaged_weights(not model.has_averaged_weights or options.ema):
        program.run(model, options)
    if model.modality in WRITES_IMAGES:
        print(f"samples: {options.out}", file=sys.stderr)


def common_options(path: str, model: GenerativeModule) -> argparse.ArgumentParser:
    """Create a parser with the options that all systems have."""
    name = type(model).__name__
    parser = OptionParser(
        prog=f"sample.py {path}", description=f"Generate samples with this {name}."
    )
    parser.add_argument(
        "--seeds",
        help="Seeds of the samples, such as 0-31,85 (default: --num seeds, starting at --seed).",
    )
    parser.add_argument(
        "--num",
        type=number(PositiveInt),
        default=16,
        help="Number of seeds if --seeds is not given (default: 16).",
    )
    parser.add_argument(
        "--seed",
        type=number(NonNegativeInt),
        default=0,
        help="First seed if --seeds is not given (default: 0).",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="Configuration file of the data (default: config.yaml of the checkpoint's run).",
    )
    parser.add_argument(
        "--device", default="cpu", help="Device for the computation, such as cuda (default: cpu)."
    )
    return parser
