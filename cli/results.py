"""Tables of results: RESULTS.md and the output of `reproduce.py list`."""

import json
from typing import Any

from cli.reproduction import RESULTS, registry

HEADER = """# Results

Written by `python reproduce.py run ID`, which reproduces one row. A value reproduces the \
published one only if data, split,
protocol and metric are the same; the protocol column lists the differences. Minutes are \
wall-clock time on 2 CPU cores that were
shared with other work.

| id | ours | published | better | n | epochs | min | protocol | signature | source |
|---|---|---|---|---|---|---|---|---|---|
"""


def listing() -> str:
    """Return the list of all reproductions, one per line."""
    lines = []
    for name, entry in registry().items():
        done = (
            json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["value"]
            if (RESULTS / f"{name}.json").exists()
            else None
        )
        ours = f"{done:.4g}" if done is not None else "-"
        published = entry.get("published") if entry.get("published") is not None else "-"
        lines.append(
            f"{name:32} ours {ours:>8}  published {published!s:>8}  "
            f"about {entry['minutes']} min  {entry['what']}"
        )
    return "\n".join(lines)


def render() -> str:
    """Return the text of RESULTS.md, made from `results/` and `configs/_reproduce/`."""
    entries = registry()
    results = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(RESULTS.glob("*.json"))
    }
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


def ablation(result: dict[str, Any]) -> str:
    """Return a table of the variants of one result, sorted by the first metric, best first."""
    variants, (first, *_) = result["variants"], result["variants"][next(iter(result["variants"]))]
    order = sorted(
        variants,
        key=lambda variant: variants[variant][first][0],
        reverse=result["better"] == "higher",
    )
    names = list(variants[order[0]])
    lines = [
        f"\n## {result['id']}\n",
        f"Only the order by {first} is compared. {result['protocol']}; "
        f"mean ± standard deviation of {result['n_seeds']} seeds.\n",
    ]
    lines += ["| variant | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for variant in order:
        cells = [
            " ± ".join([f"{value[0]:.4g}", *(f"{spread:.2g}" for spread in value[1:])])
            for value in variants[variant].values()
        ]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def more_figures(result: dict[str, Any]) -> str:
    """Return a table of the additional metrics of one result, its `figures`."""
    bar = "\\|"  # an unescaped "|" would end the table cell
    lines = [f"\n## {result['id']}\n", "| metric | ours | signature |", "|---|---|---|"]
    for name, value in result["figures"].items():
        ours = " ± ".join([f"{value[0]:.4g}", *(f"{spread:.2g}" for spread in value[1:])])
        lines.append(f"| {name} | {ours} | {result['signatures'][name].replace('|', bar)} |")
    return "\n".join(lines) + "\n"


def changed_figures(entries: dict[str, dict[str, Any]], results: dict[str, dict[str, Any]]) -> str:
    """Return a table of replaced and withdrawn values, with the reasons."""
    lines = ["\n## Changed values\n", "| id | before | now | why |", "|---|---|---|---|"]
    for name, entry in entries.items():
        now = f"{results[name]['value']:.5g}" if name in results else "withdrawn"
        steps = entry.get("earlier", [])
        values = [f"{step['value']:.5g}" for step in steps] + [now]
        for before, after, step in zip(values, values[1:], steps):
            lines.append(f"| {name} | {before} | {after} | {step['reason']} |")
    return "\n".join(lines) + "\n"
