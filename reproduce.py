"""Reproduce published results: `python reproduce.py list | run ID [--seeds 0,1,2] | render`.

A reproduction is a file `configs/_reproduce/<id>.yaml`. `run` trains in
`runs/reproduce/<id>/seed<k>` or resumes an interrupted run there, then tests it. It writes the
measured values to `results/<id>.json` and renders RESULTS.md and docs/records.png. `render` only
renders both: measured values come from `results/`, everything else (protocol, published value,
source) from the YAML files.

Reproductions with the key `title` are the rows of "Time to the paper's number". If there is a
reproduction `<id>-fast`, it shares the row of `<id>`: same data, network, metric and protocol, with
another optimizer, schedule or regularisation.

Reproductions with the key `hour` are the rows of "What a system reaches in an hour": the first
recipe of a system, on data that come with the installation.

Optional keys of a reproduction: `figures` lists test metrics to record in addition to `metric`.
`run_dir` is the run's folder, so that several reproductions can evaluate one run. `variants` lists
the settings of an ablation, each with its own overrides. Only the order of the variants by the
first metric is compared with the paper.

`earlier` lists values that were replaced, with the reasons. A reproduction with `earlier` but no
file in `results/` is listed as withdrawn.
"""

import argparse
import sys

from cli.options import OptionParser, parse_seeds
from common.errors import run
from common.files import ROOT


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = OptionParser(prog="reproduce.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="List all reproductions with measured and published values.")
    commands.add_parser("render", help="Rewrite RESULTS.md, for example after editing a YAML file.")
    runner = commands.add_parser("run", help="Train, test and record one reproduction.")
    runner.add_argument("id", help="Name of a file in configs/_reproduce/, without .yaml.")
    runner.add_argument(
        "--seeds", default="0", help="Seeds of the runs, such as 0-2 or 0,3 (default: 0)."
    )
    runner.add_argument(
        "--wandb.project",
        dest="project",
        metavar="NAME",
        help="Also log the runs to this Weights & Biases project, as one group.",
    )
    return parser.parse_args(argv)


def program(argv: list[str]) -> None:
    """Run one command: list, run or render."""
    from cli import reproduction, results  # imports packages of requirements.txt

    options = parse(argv)
    if options.command == "list":
        print(results.listing())
        return
    if options.command == "run":
        result = reproduction.reproduce(options.id, parse_seeds(options.seeds), options.project)
        published = reproduction.registry()[options.id].get("published")
        print(
            f"{options.id}: {result['value']:.5g} (published {published}), "
            f"{result['minutes']:.1f} minutes of training"
        )
    (ROOT / "RESULTS.md").write_text(results.render(), encoding="utf-8")
    results.draw(ROOT / "docs/records.png")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: program(argv))


if __name__ == "__main__":
    sys.exit(main())
