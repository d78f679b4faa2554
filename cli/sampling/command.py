"""The command line of `sample.py`: options by the system's modality and its `sample` method."""

import argparse
from pathlib import Path
from types import ModuleType

from cli.device import move_to
from cli.options import OptionParser, add_sample_options
from cli.sampling import images, text, text_to_image, translate_images, translate_text
from common.errors import UserError
from lightning_modules import load
from lightning_modules.core.module import GenerativeModule, Modality

# Each has `add_options(parser, model)` and `run(model, options)`.
BY_MODALITY: dict[Modality, ModuleType] = {
    "images": images,
    "text": text,
    "image-to-image": translate_images,
    "text-to-text": translate_text,
    "text-to-image": text_to_image,
}


def run(argv: list[str]) -> None:
    """Load a checkpoint, parse the options that its system has, and sample.

    Args:
        argv: Checkpoint, then options.

    Raises:
        UserError: if the first word is an option, or the system does not generate.
    """
    path = argv[0]
    if path.startswith("-"):
        raise UserError(
            "which checkpoint? python sample.py runs/.../checkpoints/best.ckpt [options]"
        )
    model = load(path)
    if model.modality not in BY_MODALITY:
        raise UserError(
            f"{type(model).__name__} does not generate; its `preview` shows what it does"
        )
    program = BY_MODALITY[model.modality]
    parser = common_options(path, model)
    program.add_options(parser, model)
    if model.has_averaged_weights:
        parser.add_argument(
            "--ema",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="use averaged weights (default: True)",
        )
    add_sample_options(parser, model.sample)
    options = parser.parse_args(argv[1:])
    if options.data is None:
        options.data = Path(path).resolve().parents[1] / "config.yaml"
    move_to(model, options.device)
    with model.averaged_weights(not model.has_averaged_weights or options.ema):
        program.run(model, options)


def common_options(path: str, model: GenerativeModule) -> argparse.ArgumentParser:
    """Options of every system."""
    name = type(model).__name__
    parser = OptionParser(prog=f"sample.py {path}", description=f"Draw from a {name}.")
    parser.add_argument("--seeds", help="seeds to draw, such as 0-31,85")
    parser.add_argument(
        "--num", type=int, default=16, help="how many, where no --seeds are given (default: 16)"
    )
    parser.add_argument("--seed", type=int, default=0, help="first of them (default: 0)")
    parser.add_argument(
        "--data", type=Path, help="configuration of the data; the run's config.yaml unless given"
    )
    parser.add_argument(
        "--device", default="cpu", help="where to compute, such as cuda (default: cpu)"
    )
    return parser
