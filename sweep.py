"""Measure the sensitivity of a GAN to the learning rate (lr) and the momentum (beta1).

The result is the number of modes of the ring data that the generator covers.

    python sweep.py                          the grid of configs/_sweep/ring.yaml, as a table
    python sweep.py --lr 1e-3 --beta1 0.5    one point; W&B sweep agents use this form

All other settings are those of `configs/gan/ring.yaml`. The generator and the discriminator use the
same lr and beta1. Runs are saved in `runs/sweep/`.
"""

import argparse
import csv
import subprocess
import sys

from cli.options import OptionParser, number
from common.errors import UserError, run
from common.files import ROOT

SWEEP, RECIPE, RUNS = (
    ROOT / "configs/_sweep/ring.yaml",
    ROOT / "configs/gan/ring.yaml",
    ROOT / "runs" / "sweep",
)


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

    from lightning_modules.decoding.filters import MinimumShare  # in [0, 1); imports torch

    parser = OptionParser(prog="sweep.py", description=__doc__)
    parser.add_argument(
        "--lr",
        type=number(PositiveFloat),
        help="Learning rate of both networks (default: all values of the grid).",
    )
    parser.add_argument(
        "--beta1",
        type=number(MinimumShare),
        help="Beta1 of Adam for both networks, in [0, 1) (default: all values of the grid).",
    )
    parser.add_argument(
        "--max_steps",
        type=number(PositiveInt),
        default=1500,
        help="Number of updates of each run (default: 1500).",
    )
    parser.add_argument(
        "--seed",
        type=number(NonNegativeInt),
        default=0,
        help="Random seed of each run (default: 0).",
    )
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="Also log to this Weights & Biases project."
    )
    return parser.parse_args(argv)


def modes(lr: float, beta1: float, options: argparse.Namespace) -> int | None:
    """Return the number of modes covered at the end of a run; None if a value became non-finite."""
    folder = RUNS / f"lr{lr:g}-beta{beta1:g}-seed{options.seed}"
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "fit",
        "--config",
        str(RECIPE),
        "--run_dir",
        str(folder),
    ]
    command += [
        "--trainer.max_steps",
        str(options.max_steps),
        "--seed_everything",
        str(options.seed),
    ]
    command += ["--ckpt_path", "last"] if (folder / "checkpoints/last.ckpt").exists() else []
    for player in ("generator", "discriminator"):
        command += [
            f"--model.{player}_optimizer.init_args.lr={lr}",
            f"--model.{player}_optimizer.init_args.betas=[{beta1},0.999]",
        ]
    done = subprocess.run(
        [*command, *(["--wandb", options.wandb] if options.wandb else [])],
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
    )
    if done.returncode and "is not finite" in done.stderr:
        return None
    if done.returncode:
        raise UserError(
            f"the run with --lr {lr:g} --beta1 {beta1:g} failed: "
            f"{done.stderr.strip().splitlines()[-1].removeprefix('error: ')}"
        )
    with open(folder / "health.csv", encoding="utf-8") as file:
        return int(float(list(csv.DictReader(file))[-1]["modes"]))


def program(argv: list[str]) -> None:
    """Run the selected points of the grid and print each result in a table."""
    import yaml

    options = parse(argv)
    grid = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))["parameters"]
    rates = grid["lr"]["values"] if options.lr is None else [options.lr]
    momenta = grid["beta1"]["values"] if options.beta1 is None else [options.beta1]
    print("| lr \\ beta1 | " + " | ".join(f"{beta1:g}" for beta1 in momenta) + " |")
    print("|---" * (1 + len(momenta)) + "|")
    for lr in rates:
        print(f"| {lr:g} |", end="", flush=True)
        for beta1 in momenta:
            found = modes(lr, beta1, options)
            print(f" {'non-finite' if found is None else found} |", end="", flush=True)
        print()


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: program(argv))


if __name__ == "__main__":
    sys.exit(main())
