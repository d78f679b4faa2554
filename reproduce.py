"""Train and score the papers' recipes: `python reproduce.py list | run ID [--seeds 0,1,2] |
render`.

A reproduction is a file `configs/_reproduce/<id>.yaml`. `run` trains in
`runs/reproduce/<id>/seed<k>` (continuing where it was interrupted), tests, writes what it measured
to `results/<id>.json`, and renders RESULTS.md. `render` only does the last of these. RESULTS.md
takes measured values from `results/` and everything else (protocol, published value, source) from
the entries.

Beside its `metric` an entry may want other `figures` of the same test, and with `run_dir` several
score one run. An ablation has `variants`, each with overrides of its own; what counts of it is
their order, by the first figure of each. `earlier` lists values that no longer hold, each with its
reason; such an entry is withdrawn as long as it has no file in `results/`.
"""

import argparse
import sys

from cli import reproduction, results
from cli.options import OptionParser, parse_seeds
from common.errors import run
from common.files import ROOT


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = OptionParser(prog="reproduce.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is, with our value beside the published one")
    commands.add_parser("render", help="write RESULTS.md again, after an entry was edited")
    runner = commands.add_parser("run", help="train, test and record one of them")
    runner.add_argument("id")
    runner.add_argument("--seeds", default="0", help="such as 0-2 (default: 0)")
    return parser.parse_args(argv)


def program(argv: list[str]) -> None:
    """Dispatch the command."""
    options = parse(argv)
    if options.command == "list":
        print(results.listing())
        return
    if options.command == "run":
        result = reproduction.reproduce(options.id, parse_seeds(options.seeds))
        published = reproduction.registry()[options.id].get("published")
        print(f"{options.id}: {result['value']:.5g} (published {published})")
    (ROOT / "RESULTS.md").write_text(results.render())


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: program(argv))


if __name__ == "__main__":
    sys.exit(main())
