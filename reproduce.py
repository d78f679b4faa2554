"""Train and score the papers' recipes: `python reproduce.py list | run ID [--seeds 0,1,2] | render`.

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
import difflib
import importlib
import inspect
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from cli.options import OptionParser, parse_seeds
from common.errors import UserError, run
from common.files import ROOT

RUNS = ROOT / "runs" / "reproduce"
RESULTS = ROOT / "results"
HEADER = """# Results

Written by `python reproduce.py run ID`; every row is one command. A value counts as a reproduction of the published one only where
data, split, protocol and metric are the same; where the protocol column says less, it is less. Minutes are wall-clock on 2 CPU
cores that other work shared.

| id | ours | published | better | n | epochs | min | protocol | signature | source |
|---|---|---|---|---|---|---|---|---|---|
"""


def registry() -> dict[str, dict[str, Any]]:
    """Every reproduction by id."""
    import yaml

    return {
        path.stem: yaml.safe_load(path.read_text())
        for path in sorted((ROOT / "configs/_reproduce").glob("*.yaml"))
    }


def listing() -> str:
    """One line per reproduction."""
    lines = []
    for name, entry in registry().items():
        done = (
            json.loads((RESULTS / f"{name}.json").read_text())["value"]
            if (RESULTS / f"{name}.json").exists()
            else None
        )
        ours = f"{done:.4g}" if done is not None else "-"
        published = entry.get("published") if entry.get("published") is not None else "-"
        lines.append(
            f"{name:32} ours {ours:>8}  published {published!s:>8}  about {entry['minutes']} min  {entry['what']}"
        )
    return "\n".join(lines)


def run_function(entry: dict[str, Any], seed: int) -> dict[str, Any]:
    """Call the floor that the entry names with those tensors of its data that the function asks
    for.
    """
    from cli.data import data_module

    module, _, name = entry["function"].rpartition(".")
    function = getattr(importlib.import_module(module), name)
    data = data_module(ROOT / entry["config"], entry.get("data", {}))
    tensors = {}
    for split, kind in itertools.product(
        ("train", "val", "test"), ("images", "labels", "a", "b", "ids")
    ):
        if hasattr(data.split(split), kind):
            value = getattr(data.split(split), kind)
            tensors[f"{split}_{kind}"] = getattr(value, "images", value)
    if hasattr(data, "texts"):
        tensors |= {f"{split}_texts": data.texts(split) for split in ("train", "val", "test")}
    wanted = inspect.signature(function).parameters
    options = {**tensors, **entry.get("arguments", {}), "seed": seed}
    begin = time.perf_counter()
    value, signature = function(**{key: option for key, option in options.items() if key in wanted})
    return {
        "value": value,
        "signature": signature,
        "epochs": None,
        "minutes": (time.perf_counter() - begin) / 60,
    }


def run_model(name: str, entry: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train (or continue, or find finished) one seed, and test it, or score what it draws where the
    entry has `evaluate`.
    """
    import train

    folder = (
        ROOT / entry["run_dir"] / f"seed{seed}"
        if "run_dir" in entry
        else RUNS / name / f"seed{seed}"
    )
    checkpoint = folder / "checkpoints" / f"{entry['stopping_rule']}.ckpt"
    common = [
        "--config",
        str(ROOT / entry["config"]),
        "--seed_everything",
        str(seed),
        "--run_dir",
        str(folder),
    ]
    common += [f"--{name}={value}" for name, value in entry.get("overrides", {}).items()]
    resume = ["--ckpt_path", "last"] if (folder / "checkpoints/last.ckpt").exists() else []
    train.quiet()
    train.keep_memory()
    fitted = train.TrainCLI(["fit", *common, *resume])
    begin = time.perf_counter()
    if "evaluate" in entry:
        figures = scored(checkpoint, entry["evaluate"])
    else:
        tested = train.TrainCLI(["test", *common, "--ckpt_path", str(checkpoint)])
        names = [entry["metric"], *entry.get("figures", [])]
        figures = {
            metric: (
                tested.trainer.callback_metrics[metric].item(),
                tested.model.signatures[metric],
            )
            for metric in names
        }
    value, signature = next(iter(figures.values()))
    return {
        "value": value,
        "signature": f"{signature} {entry['stopping_rule']}.ckpt",
        "figures": {name: value for name, (value, _) in figures.items()},
        "signatures": {name: signature for name, (_, signature) in figures.items()},
        "epochs": fitted.trainer.current_epoch,
        "minutes": (training_seconds(folder) + time.perf_counter() - begin) / 60,
    }


def scored(checkpoint: Path, options: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Values and signatures by `evaluate.py`, of the average weights where there are any."""
    import evaluate

    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    lines: dict[str, tuple[float, str]] = {}
    for line in evaluate.evaluate(evaluate.parse([str(checkpoint), *arguments])):
        lines.setdefault(line["metric"], (line["value"], line["signature"]))
    return lines


def training_seconds(folder: Path) -> float:
    """Wall-clock seconds of all windows of a run, over all its starts."""
    import csv

    with open(folder / "throughput.csv") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def reproduce(name: str, seeds: list[int]) -> None:
    """Run every seed of one reproduction and write its result."""
    entries = registry()
    if name not in entries:
        near = ", ".join(difflib.get_close_matches(name, entries, n=3, cutoff=0))
        raise UserError(
            f"{name}: there is no such reproduction; `python reproduce.py list` names them all, near: {near}"
        )
    entry = entries[name]
    variants = {
        variant: [
            run_model(
                f"{name}/{variant}",
                {**entry, "overrides": {**entry.get("overrides", {}), **more}},
                seed,
            )
            for seed in seeds
        ]
        for variant, more in entry.get("variants", {}).items()
    }
    runs = next(iter(variants.values()), None)  # the first one is the paper's own
    runs = runs or [
        run_function(entry, seed) if "function" in entry else run_model(name, entry, seed)
        for seed in seeds
    ]
    values = [one["value"] for one in runs]
    result = {
        "id": name,
        "value": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "n_seeds": len(values),
        "signature": runs[0]["signature"],
        "epochs": runs[0]["epochs"],
        "minutes": round(statistics.fmean(one["minutes"] for one in runs), 1),
        **(
            {"variants": {variant: figures_of(those) for variant, those in variants.items()}}
            if variants
            else {}
        ),
        **(
            {"figures": figures_of(runs), "signatures": runs[0]["signatures"]}
            if "figures" in entry
            else {}
        ),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (ROOT / "RESULTS.md").write_text(render())
    print(
        f"{name}: {result['value']:.5g} (published {entry.get('published')}), {(RESULTS / name).relative_to(ROOT)}.json"
    )


def figures_of(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Mean of every figure over the runs, and its standard deviation where there are several."""
    columns = {name: [one["figures"][name] for one in runs] for name in runs[0]["figures"]}
    return {
        name: [statistics.fmean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]
        for name, values in columns.items()
    }


def more_figures(result: dict[str, Any]) -> str:
    """The other figures of one result as a table."""
    bar = "\\|"  # within a cell
    lines = [f"\n## {result['id']}\n", "| figure | ours | signature |", "|---|---|---|"]
    for name, value in result["figures"].items():
        ours = " ± ".join([f"{value[0]:.4g}", *(f"{spread:.2g}" for spread in value[1:])])
        lines.append(f"| {name} | {ours} | {result['signatures'][name].replace('|', bar)} |")
    return "\n".join(lines) + "\n"


def ablation(result: dict[str, Any]) -> str:
    """The variants of one result as a table, best first by the first figure."""
    variants, (first, *_) = result["variants"], result["variants"][next(iter(result["variants"]))]
    order = sorted(
        variants,
        key=lambda variant: variants[variant][first][0],
        reverse=result["better"] == "higher",
    )
    names = list(variants[order[0]])
    lines = [
        f"\n## {result['id']}\n",
        f"Order only, by {first}. {result['protocol']}; mean ± standard deviation of {result['n_seeds']} seeds.\n",
    ]
    lines += ["| variant | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for variant in order:
        cells = [
            " ± ".join([f"{value[0]:.4g}", *(f"{spread:.2g}" for spread in value[1:])])
            for value in variants[variant].values()
        ]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def changed_figures(entries: dict[str, dict[str, Any]], results: dict[str, dict[str, Any]]) -> str:
    """Table of values that were replaced or withdrawn, with the reasons."""
    lines = ["\n## Figures that changed\n", "| id | before | now | why |", "|---|---|---|---|"]
    for name, entry in entries.items():
        now = f"{results[name]['value']:.5g}" if name in results else "withdrawn"
        steps = entry.get("earlier", [])
        values = [f"{step['value']:.5g}" for step in steps] + [now]
        for before, after, step in zip(values, values[1:], steps):
            lines.append(f"| {name} | {before} | {after} | {step['reason']} |")
    return "\n".join(lines) + "\n"


def render() -> str:
    """RESULTS.md from the files in `results/` and the entries."""
    entries = registry()
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    rows, tables = [], []
    for name, result in results.items():
        r = {**entries[name], **result}
        if "variants" in result:
            tables.append(ablation(r))
        if "figures" in result:
            tables.append(more_figures(r))
        ours = f"{r['value']:.5g}" + (f" ± {r['std']:.2g}" if r["std"] is not None else "")
        cells = [
            name,
            ours,
            r.get("published"),
            r["better"],
            r["n_seeds"],
            r["epochs"],
            r["minutes"],
            r["protocol"],
            r["signature"],
            r.get("source"),
        ]
        rows.append(
            "| "
            + " | ".join("–" if cell is None else str(cell).replace("|", "\\|") for cell in cells)
            + " |\n"
        )
    return HEADER + "".join(rows) + changed_figures(entries, results) + "".join(tables)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = OptionParser(prog="reproduce.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is, with our value beside the published one")
    commands.add_parser("render", help="write RESULTS.md again, after an entry was edited")
    runner = commands.add_parser(
        "run", help="train, test and record one of them", allow_abbrev=False
    )
    runner.add_argument("id")
    runner.add_argument("--seeds", default="0", help="such as 0-2 (default: 0)")
    return parser.parse_args(argv)


def program(argv: list[str]) -> None:
    """Dispatch the command."""
    options = parse(argv)
    if options.command == "list":
        print(listing())
    elif options.command == "render":
        (ROOT / "RESULTS.md").write_text(render())
    else:
        reproduce(options.id, parse_seeds(options.seeds))


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: program(argv))


if __name__ == "__main__":
    sys.exit(main())
