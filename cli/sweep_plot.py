"""Parallel-coordinates plot of a sweep: one line per run, one axis per parameter."""

from pathlib import Path
from typing import Any

from callbacks.figures import panels
from cli.sweeps import Sweep, read_rows


def position(text: str, choices: list[str]) -> float:
    """Return the position of a value on its axis in [0, 1]: the choices are evenly spaced."""
    return choices.index(text) / (len(choices) - 1) if len(choices) > 1 else 0.5


def sort_key(text: str) -> tuple[bool, float, str]:
    """Return the key by which values of an axis are sorted: numbers first, by size."""
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, text


def plot(sweep: Sweep, table: Path) -> Path:
    """Draw the runs of a table as lines over the parameters and the metric.

    Parameters with one value are left out. The colour shows the metric, and the thick line is the
    best run. A run that became non-finite is a dashed grey line that ends before the metric.

    Args:
        sweep: Sweep that the table belongs to.
        table: Path of `sweep.csv`.

    Returns:
        Path of the image, `sweep.png` in the same folder.
    """
    rows = read_rows(table)
    choices = {name: sorted({row[name] for row in rows}, key=sort_key) for name in sweep.values}
    axes = [name for name, found in choices.items() if len(found) > 1] or list(sweep.values)[:1]
    scores = [float(row[sweep.metric]) for row in rows if row[sweep.metric] != "non-finite"]
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    best = max(scores, default=None) if sweep.maximize else min(scores, default=None)
    figure, ((panel,),) = panels(1, 1, figsize=(2.2 * (len(axes) + 1) + 1, 4))
    from matplotlib import colormaps
    from matplotlib import pyplot as plt

    colours = colormaps["viridis" if sweep.maximize else "viridis_r"]
    for row in rows:
        heights = [position(row[name], choices[name]) for name in axes]
        style: dict[str, Any] = {"color": "grey", "linestyle": "--", "linewidth": 1}
        if row[sweep.metric] != "non-finite":
            value = float(row[sweep.metric])
            height = (value - low) / (high - low) if high > low else 0.5
            heights.append(height)
            style = {"color": colours(height), "linewidth": 3 if value == best else 1.2}
        panel.plot(range(len(heights)), heights, marker="o", markersize=3, **style)
    for place, name in enumerate(axes):
        draw_axis(panel, place, [(position(one, choices[name]), one) for one in choices[name]])
    ticks = [(share, f"{low + share * (high - low):.4g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    draw_axis(panel, len(axes), ticks if high > low else [(0.5, f"{low:.4g}")])
    names = [*(name.removeprefix("model.") for name in axes), sweep.metric]
    panel.set_xticks(range(len(names)), [name.replace("_optimizer.", "\n") for name in names])
    panel.set(yticks=[], xlim=(-0.3, len(axes) + 0.45), ylim=(-0.08, 1.08))
    better = "higher" if sweep.maximize else "lower"
    outcome = f"best {sweep.metric} {show(best)} ({better} is better)"
    panel.set_title(f"Sweep {sweep.name}: {len(rows)} runs, {outcome}", fontsize=10)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    path = table.with_suffix(".png")
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)
    return path


def draw_axis(panel: Any, place: int, ticks: list[tuple[float, str]]) -> None:
    """Draw a vertical axis with its ticks, given as pairs of height and label."""
    panel.axvline(place, color="black", linewidth=0.8, zorder=0)
    for height, label in ticks:
        panel.annotate(
            label,
            (place, height),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5},
        )


def show(value: float | None) -> str:
    """Return a value for the title; "non-finite" if no run has one."""
    return "non-finite" if value is None else f"{value:.4g}"
