"""Sample images for prompts, and rank the images of each prompt by similarity or likelihood."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from cli.device import move_to
from cli.options import number
from cli.sampling import images
from cli.sampling.seeds import arguments_of, sample_chunks, wanted_seeds
from cli.sampling.text import read_stdin
from common.errors import UserError, utf8_argument
from common.images import grid, labelled, save_png
from lightning_modules import load
from lightning_modules.core.module import GenerativeModule


def add_options(parser: argparse.ArgumentParser, model: GenerativeModule) -> None:
    """Add the options for the output folder and the ranking."""
    images.add_options(parser, model)
    parser.add_argument(
        "--ranker",
        type=Path,
        metavar="CKPT",
        help="Checkpoint that ranks the images of each prompt: a CLIP ranks by similarity, a "
        "DALL-E by likelihood.",
    )
    parser.add_argument(
        "--keep",
        type=number(PositiveInt),
        help="Number of images to save per prompt, the best by --ranker (default: all).",
    )


def run(model: GenerativeModule, options: argparse.Namespace) -> None:
    """Sample images for each `--prompt`, or for captions of the test split if none is given."""
    if options.prompt is not None:
        sample_prompts(model, options)
        return
    if options.ranker or options.keep:
        raise UserError("--ranker and --keep select images of a prompt; give --prompt TEXT")
    images.run(model, options)


def load_ranker(options: argparse.Namespace) -> Any:
    """Load the system of `--ranker`; return None without this option.

    Raises:
        UserError: If the system cannot score captions, or `--keep` is given without `--ranker`.
    """
    if options.ranker is None:
        if options.keep is not None:
            raise UserError(
                "--keep needs --ranker, which selects the best images; "
                "give --ranker CKPT, or leave out --keep"
            )
        return None
    ranker = load(options.ranker)
    if not ranker.scores_captions:
        raise UserError(
            f"--ranker {options.ranker} is a {type(ranker).__name__}; "
            "give the checkpoint of a CLIP or a DALL-E"
        )
    move_to(ranker, options.device)
    return ranker


def read_prompts(prompts: list[str]) -> list[str]:
    """Return the prompts of the command line; `-` reads one prompt per line from stdin.

    Raises:
        UserError: If stdin has no prompt, or is not UTF-8.
    """
    if prompts == ["-"]:
        prompts = list(filter(None, map(str.strip, read_stdin().split("\n"))))
    if not prompts:
        raise UserError("--prompt -: stdin is empty; give one prompt per line")
    return list(map(utf8_argument, prompts))


def sample_prompts(model: GenerativeModule, options: argparse.Namespace) -> None:
    """Sample images with all seeds for each prompt, rank them, and save the best and a grid.

    A prompt that cannot be used is skipped, with a warning on stderr.

    Raises:
        UserError: If a prompt was skipped. The error is raised after all other prompts are sampled.
    """
    seeds, arguments = wanted_seeds(options), arguments_of(model, options)
    prompts, ranker = read_prompts(arguments.pop("prompt")), load_ranker(options)
    rows: list[tuple[str, Tensor]] = []
    failed: list[str] = []
    for place, prompt in enumerate(prompts, 1):
        try:
            check_prompt(prompt, model, ranker)
        except UserError as error:
            failed.append(str(error))
            continue
        chunks = sample_chunks(model, options, seeds, {**arguments, "prompt": [prompt]})
        outputs = torch.cat([chunk for _, chunk in chunks])  # type: ignore[misc]
        scores = ranker.score(outputs, [prompt])[:, 0] if ranker else torch.zeros(len(seeds))
        best = scores.argsort(descending=True, stable=True)[: options.keep].tolist()
        for i in best:
            path = options.out / f"prompt{place:02d}-seed{seeds[i]:04d}.png"
            save_png(grid(outputs[i][None], columns=1), path)
            print(f"{path}\t{prompt}" + (f"\t{scores[i]:.3f}" if ranker else ""))
        rows.append((prompt, outputs[best].cpu()))
    if rows:
        save_png(labelled(rows), options.out / "grid.png")
        print(options.out / "grid.png")
    if failed and len(prompts) > 1:
        print("\n".join(f"warning: {line}" for line in failed), file=sys.stderr)
        raise UserError(
            f"{len(failed)} of {len(prompts)} prompts could not be used; see the warnings above"
        )
    if failed:
        raise UserError(failed[0])


def check_prompt(prompt: str, model: Any, ranker: Any) -> None:
    """Raise a UserError if the model or the ranker cannot tokenize the prompt."""
    model.tokenize([prompt])
    if ranker is not None:
        ranker.tokenize([prompt])
