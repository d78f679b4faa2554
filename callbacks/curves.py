"""Draw `samples/curves.png`: losses, validation values, learning rate, gradient norm, GAN health.

The values come from `metrics.csv` and `health.csv` of the run, so drawing reads nothing from the
training itself.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from callbacks.checkpoint import monitored
from callbacks.figures import figure_to_image, panels
from callbacks.gan_health import LIMITS, UPPER_LIMITS
from callbacks.series import Series, read_series, smooth, thin
from common.images import save_png
from lightning_modules.core.module import GenerativeModule

MAX_SHARE = 0.05  # maximum fraction of the training time that drawing takes
FIRST = 0.5  # seconds that the first drawing is expected to take
MIN_POINTS = 4  # of the longest curve; fewer are no curve, and nothing is drawn
TERMS = 4  # maximum number of terms in a panel
PANELS = 18  # maximum number of panels
WIDE = 20.0  # ratio of values above which an axis is logarithmic, or a panel is divided
CLOSE = 3.0  # the same ratio for panels of validation values, which have different units

LOSSES = ("loss", "loss_g", "loss_d")
RATES = ("lr", "lr_d")
NORMS = ("grad_norm", "grad_norm_d")
COUNTERS = ("samples_seen", "tokens_seen")
LOW = ("diversity", "novelty", "class_entropy")  # values of health.csv with the limit 0.5


class Panel(NamedTuple):
    """One panel of the figure.

    Attributes:
        title: Text above the panel.
        names: Names of the curves. Of a training and a validation value with the same name, the
            validation value is dashed.
        mode: Direction of the first curve whose best value is marked, "min" or "max"; "" marks
            none.
        limit: Value at which a dotted line is drawn.
        bounds: Range of the y axis. Values outside of it, as in the first updates, are cut off.
    """

    title: str
    names: list[str]
    mode: str = ""
    limit: float | None = None
    bounds: tuple[float, float] | None = None


def arrange(series: Series, monitor: tuple[str, str] | None) -> list[Panel]:
    """Arrange curves in panels.

    Args:
        series: Curves of `metrics.csv`, and of `health.csv` with the prefix "health/".
        monitor: Name of the value that selects the best checkpoint, and "min" or "max".
    """

    def of(prefixes: tuple[str, ...], terms: Sequence[str]) -> list[str]:
        names = [f"{prefix}/{term}" for term in terms for prefix in prefixes]
        return [name for name in names if name in series]

    def health(*kinds: str) -> list[str]:
        return [
            name for name in series if name.startswith("health/") and name.split("/")[1] in kinds
        ]

    def present(terms: Sequence[str]) -> list[list[str]]:
        return groups([term for term in terms if f"train/{term}" in series], "train", series)

    taken = (*LOSSES, *RATES, *NORMS, *COUNTERS)
    trained = [name.partition("/")[2] for name in series if name.startswith("train/")]
    terms = groups([term for term in trained if term not in taken], "train", series)
    chosen = [monitor[0]] if monitor and monitor[0] in series else []
    shown = {f"val/{term}" for term in (*trained, *LOSSES)} | set(chosen)
    rest = [name.partition("/")[2] for name in series if name.startswith("val/")]
    rest = [term for term in rest if f"val/{term}" not in shown]
    losses = [of(("train", "val"), group) for group in present(LOSSES)]
    if "train/loss" in series and "val/loss" not in series:
        losses[0] += of(("val",), ("nll",))  # of language models, the same quantity
    mode = monitor[1] if monitor else ""
    better = {"min": "lower is better", "max": "higher is better", "": ""}[mode]
    found = [
        *(Panel("loss", names) for names in losses),
        Panel(f"selects best.ckpt ({better})", chosen, mode),
        *(Panel("other training values", of(("train", "val"), group)) for group in terms),
        *(Panel("validation", of(("val",), group)) for group in groups(rest, "val", series, CLOSE)),
        Panel("GAN health: warning below 0.5", health(*LOW), limit=0.5, bounds=(0.0, 2.0)),
        *(
            limited(name, bounds, health(name))
            for name, bounds in (
                ("accuracy", (0.0, 1.05)),
                ("overfitting", (-1.0, 1.05)),
                ("oscillation", (-1.05, 1.05)),
            )
        ),
        Panel("GAN health: modes covered by samples", health("modes")),
        Panel("GAN health: classes covered by samples", health("classes")),
        Panel("GAN health: share of samples near a mode", health("near"), bounds=(0.0, 1.05)),
        Panel("learning rate", of(("train",), RATES)),
        *(
            Panel("gradient norm, before clipping", of(("train",), group))
            for group in present(NORMS)
        ),
    ]
    return [panel for panel in found if panel.names][:PANELS]


def limited(name: str, bounds: tuple[float, float], names: list[str]) -> Panel:
    """Return the panel of a value of GAN health that has a limit of its own."""
    side, limit = ("below", LIMITS[name]) if name in LIMITS else ("above", UPPER_LIMITS[name])
    return Panel(f"GAN health: {name}, warning {side} {limit}", names, limit=limit, bounds=bounds)


def order(term: str) -> tuple[int, str]:
    """Return a sort key: the loss of the generator before that of the discriminator, then names."""
    return (LOSSES.index(term) if term in LOSSES else len(LOSSES), term)


def palette(series: Series) -> dict[str, int]:
    """Return the number of each term's colour; runs that log the same names have the same colours.

    Losses, rates, norms, other training values, validation values and health values are numbered
    separately, so a panel with one curve has mostly the first colour.
    """
    kinds: dict[str, set[str]] = {}
    for name in series:
        prefix, _, term = name.partition("/")
        same = [one[0] for one in (LOSSES, RATES, NORMS) if term in one]
        kind = term.partition("/")[0] if prefix == "health" else prefix
        kinds.setdefault(same[0] if same else kind, set()).add(term)
    trained = kinds.get("train", set())
    kinds["val"] = kinds.get("val", set()) - trained
    kinds["health"] = {term for one in LOW for term in kinds.pop(one, set())}
    return {
        term: number
        for terms in kinds.values()
        for number, term in enumerate(sorted(terms, key=order))
    }


def groups(terms: list[str], prefix: str, series: Series, ratio: float = WIDE) -> list[list[str]]:
    """Divide terms into groups of at most `TERMS`, whose values differ at most by `ratio`.

    Groups and their terms are in a fixed order.
    """
    size = {term: float(np.median(np.abs(series[f"{prefix}/{term}"][1]))) for term in terms}
    found: list[list[str]] = []
    for term in sorted(terms, key=lambda term: size[term]):
        if not found or len(found[-1]) == TERMS or size[term] > ratio * size[found[-1][0]]:
            found.append([])
        found[-1].append(term)
    ordered = [sorted(group, key=order) for group in found]
    return sorted(ordered, key=lambda group: order(group[0]))


def draw(axis: Any, panel: Panel, series: Series, last: float, numbers: Mapping[str, int]) -> None:
    """Draw one panel.

    Args:
        axis: Axes of matplotlib.
        panel: Panel to draw.
        series: All curves.
        last: Right end of the x axis.
        numbers: Number of each term's colour. A colour that the panel has already is replaced.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    colours: dict[str, str] = {}
    dashed = False
    for name in panel.names:
        steps, values = thin(*series[name])
        prefix, _, term = name.partition("/")
        second = prefix == "val" and term in colours
        dashed = dashed or second
        free = (numbers.get(term, 0) + step for step in range(10))
        colour = colours.get(term) or next(
            one for one in (f"C{number % 10}" for number in free) if one not in colours.values()
        )
        colours[term] = colour
        if len(values) > 60 and term not in RATES:
            axis.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
            values = smooth(values)
        axis.plot(
            steps,
            values,
            "--" if second else "-",
            color=colour,
            linewidth=1.3,
            marker="o" if len(values) < 20 else "",
            markersize=3,
            label=None if second else (term if prefix == "health" else name),
        )
    every = np.concatenate([series[name][1] for name in panel.names])
    ratio = every.max() / every.min() if every.min() > 0 else 0.0
    rates = all(name.partition("/")[2] in RATES for name in panel.names)
    if rates:
        axis.set_ylim(0, every.max() * 1.1 or 1.0)
    elif panel.bounds:
        axis.set_ylim(*panel.bounds)
    if ratio > WIDE and not rates and not panel.bounds:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if ratio > 1000 else (1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())  # each tick takes time
    else:
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_formatter("{x:g}")
    if panel.mode:
        mark_best(axis, *series[panel.names[0]], panel.mode)
    if panel.limit is not None:
        axis.axhline(panel.limit, color="grey", linewidth=1, linestyle=":")
    title = panel.title + (", dashed: validation" if dashed else "")
    axis.set_xlabel("update", fontsize=9)
    axis.set_xlim(0, last * 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.set_ylabel(panel.names[0] if len(panel.names) == 1 else "value", fontsize=9)
    # Above the curves, at a fixed place: searching one doubles the time.
    entries = len(axis.get_legend_handles_labels()[0])
    columns = 3 if entries > TERMS else 2
    axis.legend(
        fontsize=8,
        frameon=False,
        ncols=columns,
        columnspacing=1.5,
        handlelength=1.3,
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.98),
        borderpad=0.2,
        labelspacing=0.2,
    )
    axis.set_title(title, fontsize=10, y=1.0, pad=7 + 12 * -(-entries // columns))


def mark_best(axis: Any, steps: np.ndarray, values: np.ndarray, mode: str) -> None:
    """Mark the best value of a curve."""
    best = int(values.argmin() if mode == "min" else values.argmax())
    label = f"best: {values[best]:.4g} at update {steps[best]:,.0f}"
    axis.plot(steps[best], values[best], "*", color="black", markersize=9, label=label)


def curves(folder: Path, monitor: tuple[str, str] | None, title: str) -> Tensor | None:
    """Draw the curves of a run.

    Args:
        folder: Directory of the run.
        monitor: Name of the value that selects the best checkpoint, and "min" or "max"; or None.
        title: Title of the figure.

    Returns:
        uint8 image (3, H, W), or None if no value has been logged `MIN_POINTS` times.
    """
    series = read_series(folder / "metrics.csv") | read_series(folder / "health.csv", "health/")
    arranged = arrange(series, monitor)
    if max((len(steps) for steps, _ in series.values()), default=0) < MIN_POINTS:
        return None
    last = max(float(series[name][0].max()) for panel in arranged for name in panel.names) or 1.0
    columns, numbers = min(3, len(arranged)), palette(series)
    rows = -(-len(arranged) // columns)
    width, height = 4.6 * columns, 3.4 * rows + 0.4
    figure, axes = panels(rows, columns, figsize=(width, height))
    for axis, panel in zip(axes.flat, arranged):
        draw(axis, panel, series, last, numbers)
    for axis in axes.flat[len(arranged) :]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=11, x=0.01, y=1 - 0.1 / height, ha="left", va="top")
    figure.subplots_adjust(
        left=0.75 / width,
        right=1 - 0.15 / width,
        bottom=0.5 / height,
        top=1 - 0.95 / height,
        wspace=0.25,
        hspace=0.5,
    )
    return figure_to_image(figure, tight=False)


class Curves(Callback):
    """Draws `samples/curves.png` at each validation and when training ends or is interrupted.

    Nothing is drawn before a value has been logged 4 times (`MIN_POINTS`).

    Drawings after validations are left out where they would take more than 5 % of the training time
    (`MAX_SHARE`), as in the first seconds of a run.
    """

    def __init__(self) -> None:
        self._seconds = FIRST  # duration of the last drawing

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if trainer.state.fn == "fit" and self._seconds <= MAX_SHARE * (
            time.perf_counter() - self._since
        ):
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._draw(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: GenerativeModule, exception: BaseException
    ) -> None:
        # Stopped by Ctrl-C or a signal, after training has started.
        if isinstance(exception, SystemExit) and hasattr(self, "_since"):
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if not trainer.is_global_zero:
            return
        begin, folder = time.perf_counter(), Path(trainer.default_root_dir)
        title = f"{type(pl_module).__name__}, {folder}: update {trainer.global_step:,}"
        image = curves(folder, monitored(trainer, pl_module), title)
        if image is not None:
            save_png(image, folder / "samples" / "curves.png")
        self._since = time.perf_counter()
        self._seconds = self._since - begin
