"""Train a recipe with each combination of values, and compare the results:
`python sweep.py NAME [--PARAMETER VALUE ...]`.

A sweep is a file `configs/_sweep/NAME.yaml`. Its parameters are options of `train.py`, and all of
them can be changed on the command line, also to several values:

    python sweep.py vae                                       the grid of configs/_sweep/vae.yaml
    python sweep.py vae --model.latent_dim 8 16               other values of one parameter
    python sweep.py ring --lr 1e-3 --beta1 0.5                a single run

Without a login: the runs are trained one after the other in `runs/sweep/NAME/`. A table of the
results is printed, and written to `sweep.csv` there, with a parallel-coordinates plot `sweep.png`.
The same command continues an interrupted sweep. `--wandb.project` also logs each run to Weights &
Biases, in one group; without an API key, they are logged offline. `--wandb.group`, tags, notes and
artifacts, and `--tensorboard` are those of train.py.

With a login to Weights & Biases: `wandb sweep --project NAME configs/_sweep/NAME.yaml` creates a
sweep on its server. It prints the command of an agent, `wandb agent ID`, which can be started on
several machines.
"""

import argparse
import sys

from cli.options import OptionParser
from common.errors import run


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    from cli.sweeps import add_logging, add_parameters, sweeps

    parser = OptionParser(prog="sweep.py", description=__doc__)
    commands = parser.add_subparsers(dest="sweep", required=True)
    for name, sweep in sweeps().items():
        command = commands.add_parser(name, help=sweep.text, description=sweep.text)
        add_parameters(command, sweep)
        add_logging(command, sweep)
    return parser.parse_args(argv)


def program(argv: list[str]) -> None:
    """Run a sweep and print its results."""
    options = vars(parse(argv))
    from cli.run_end import sync_command
    from cli.sweep_plot import plot
    from cli.sweeps import run_sweep, sweeps

    sweep = sweeps()[options["sweep"]]
    table = run_sweep(sweep, options)
    print(f"table: {table}\nplot: {plot(sweep, table)}")
    if options["wandb.project"] and (command := sync_command(table.parent, "*/")):
        print(f"logs: {command}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: program(argv))


if __name__ == "__main__":
    sys.exit(main())
