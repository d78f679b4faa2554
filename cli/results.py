"""Tables of results: RESULTS.md and the output of `reproduce.py list`."""

import json
import math
from pathlib import Path
from typing import Any

from cli.pages.systems import system_names, title
from cli.reproduction import RESULTS, registry

Entries = dict[str, dict[str, Any]]
FAST = "-fast"  # end of the id of a reproduction with a faster recipe
RECORDS = """# Results

Written by `python reproduce.py run ID`, which reproduces one row.

## Time to the paper's number

Each published number has the paper's recipe and, where there is one, a faster recipe for the same \
data, network, metric and protocol.
Minutes are the wall-clock time of training and validation, on 2 CPU cores or on the hardware \
that is named. For
some rows they also include the final test, and the cores were shared with other work.

| Number | paper | paper's recipe | minutes | faster recipe | minutes | `python reproduce.py run` |
|---|---|---|---|---|---|---|
"""
HOUR = """
## What a system reaches in an hour

The first recipe of each system, on data that come with the installation. Each command trains \
at most an hour on 2 free CPU cores,
from random weights; the minutes of CycleGAN are from a shared core and contain 42 of CPU time. \
classifier-FID compares as many samples
as training images with the training images. DALL-E needs the discrete VAE and the CLIP of the \
two rows above it: `make dalle`
trains all three.

| System | measured | value | minutes | `python reproduce.py run` | shown |
|---|---|---|---|---|---|
"""
HEADER = """
## All results

A value reproduces the published one only if data, split, protocol and metric are the same; the \
protocol column lists the
differences. Minutes are as above.

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
            with_hardware(str(r["minutes"]), r),
            r["protocol"],
            r["signature"],
            r.get("source"),
        ]
        rows.append(
            "| "
            + " | ".join("–" if cell is None else str(cell).replace("|", "\\|") for cell in cells)
            + " |\n"
        )
    parts = [
        record_table(entries, results),
        hour_table(entries, results),
        HEADER,
        *rows,
        changed_figures(entries, results),
        *tables,
    ]
    return "".join(parts)


def record_table(entries: Entries, results: Entries) -> str:
    """Return the table of published numbers and the times in which recipes reach them."""
    lines = []
    for name, entry in entries.items():
        if "title" not in entry:
            continue
        cells = [entry["title"], str(entry["published"])]
        for run in (name, name + FAST):
            if run in results:
                met = reaches(results[run]["value"], entry)
                value = f"{results[run]['value']:.4g}"
                minutes = with_hardware(f"{results[run]['minutes']:.0f}", entries[run])
                cells += [f"**{value}**" if met else value, minutes]
            else:
                cells += ["–", "–"]
        cells.append(f"`{name}`" + (f", `{name}{FAST}`" if name + FAST in entries else ""))
        lines.append("| " + " | ".join(cells) + " |\n")
    note = (
        "\nBold: reaches the published number. ↑↓ in the first column: higher or lower is better.\n"
    )
    figure = "\n![Validation values over the time of training](docs/records.png)\n"
    drawn = any("curve" in result for result in results.values())
    return RECORDS + "".join(lines) + note + (figure if drawn else "")


def hour_table(entries: Entries, results: Entries) -> str:
    """Return the table of what the first recipe of each system reaches, with links to images."""
    rows = {}
    for name, entry in entries.items():
        if "hour" in entry:
            system = Path(entry["config"]).parent.name
            value, minutes = "–", "–"
            if name in results:
                value, minutes = f"{results[name]['value']:.4g}", f"{results[name]['minutes']:.0f}"
            heading = title(system)[0]
            link = f"[gallery](docs/gallery.md#{heading.lower().replace(' ', '-')})"
            cells = [heading, entry["hour"], value, minutes, f"`{name}`", link]
            rows[system] = "| " + " | ".join(cells) + " |\n"
    return HOUR + "".join(rows[system] for system in system_names() if system in rows)


def with_hardware(minutes: str, entry: dict[str, Any]) -> str:
    """Return minutes, with the hardware of the run if it was no CPU, such as "2 (H100)"."""
    return f"{minutes} ({entry['hardware']})" if "hardware" in entry else minutes


def reaches(value: float, entry: dict[str, Any]) -> bool:
    """Return whether a value is as good as the published one."""
    published: float = entry["published"]
    return value <= published if entry["better"] == "lower" else value >= published


def draw(path: Path) -> None:
    """Draw the validation values of the recipes of "Time to the paper's number" over minutes."""
    from matplotlib.figure import Figure

    entries, panels = registry(), []
    for name, entry in entries.items():
        if "title" in entry:
            curves = {run: curve_of(run) for run in (name, name + FAST)}
            panels += [(entry, {run: one for run, one in curves.items() if one})]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure((4 * columns, 2.7 * rows), layout="constrained")
    for number, (entry, curves) in enumerate(panels, 1):
        axis = figure.add_subplot(rows, columns, number)
        for run, curve in curves.items():
            minutes, values = zip(*curve["points"])
            faster = run.endswith(FAST)
            color, label = ("C0", "faster") if faster else ("C1", "paper's recipe")
            axis.plot(minutes, values, ".-", color=color, label=label)
        axis.axhline(entry["published"], color="grey", linestyle="--", label="published (test)")
        axis.set_title(f"{entry['title']}, {curve['name']}", fontsize=9)
        axis.set_xlabel("minutes of training", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def curve_of(name: str) -> dict[str, Any]:
    """Return the curve that `results/<id>.json` contains, empty if there is none."""
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return dict(found.get("curve", {}))


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


def changed_figures(entries: Entries, results: Entries) -> str:
    """Return a table of replaced and withdrawn values, with the reasons."""
    lines = ["\n## Changed values\n", "| id | before | now | why |", "|---|---|---|---|"]
    for name, entry in entries.items():
        now = f"{results[name]['value']:.5g}" if name in results else "withdrawn"
        steps = entry.get("earlier", [])
        values = [f"{step['value']:.5g}" for step in steps] + [now]
        for before, after, step in zip(values, values[1:], steps):
            lines.append(f"| {name} | {before} | {after} | {step['reason']} |")
    return "\n".join(lines) + "\n"
