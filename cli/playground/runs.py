"""Tab that shows runs: a table, curves of several runs, and the files of one run."""

import re
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from callbacks.gan_health import LIMITS, UPPER_LIMITS
from callbacks.series import Series, read_series, smooth, thin
from cli.evaluation.record import Figure, read_rows
from cli.playground import html
from cli.playground.panels.base import Backend
from cli.playground.worker import guarded
from cli.runs import row
from common.run import Run

HEADINGS = ["run", "state", "updates", "best", "age", "size"]
FIGURES = ["name", "value", "step", "signature"]
SHOWN = 3  # number of curves that are chosen at first
STEPPED = re.compile(r"(.+)-(\d{7})\.(png|txt)")  # files of `callbacks.publish`
PLOT_HEIGHT = 240
MAX_WIDTH = 1200  # of an image of `samples/`, in CSS pixels


def table(backend: Backend) -> list[list[str]]:
    """Return the rows of the table of runs."""
    return [[key, *row(run, run.path)[1:]] for key, run in backend.library.runs().items()]


def curves(run: Run) -> Series:
    """Return the logged values of a run; those of `health.csv` start with `health/`."""
    metrics = read_series(run.path / "metrics.csv")
    return metrics | read_series(run.path / "health.csv", "health/")


def curves_of(backend: Backend, key: str) -> Series:
    """Return the logged values of the run with a key."""
    return curves(backend.library.run(key))


def first_choice(names: list[str]) -> list[str]:
    """Return the curves to show at first: validation values before losses."""
    preferred = [name for name in names if name.startswith("val/")]
    preferred += [name for name in names if "loss" in name]
    return list(dict.fromkeys([*preferred, *names]))[:SHOWN]


def frame(series: dict[str, Series], name: str) -> pd.DataFrame:
    """Return the curve of one value for several runs as a table, smoothed if it is long."""
    parts = []
    for key, one in series.items():
        if name in one:
            steps, values = thin(*one[name])
            values = smooth(values) if len(values) > 60 else values
            parts.append(pd.DataFrame({"update": steps, name: values, "run": key}))
    return pd.concat(parts) if parts else pd.DataFrame({"update": [], name: [], "run": []})


def samples_of(run: Run) -> dict[str, list[Path]]:
    """Return the previews of a run in the order of updates, keyed by their names."""
    found: dict[str, list[Path]] = {}
    for path in sorted((run.path / "samples").glob("*")):
        if match := STEPPED.fullmatch(path.name):
            found.setdefault(match[1], []).append(path)
    return found


def preview(path: Path) -> str:
    """Return a file of `samples/` as HTML."""
    if path.suffix == ".txt":
        return html.texts([path.read_text(encoding="utf-8", errors="replace")], [path.name])
    with Image.open(path) as image:
        pixels = pil_to_tensor(image.convert("RGB"))
    return html.picture(pixels, path.stem, min(MAX_WIDTH, pixels.shape[2]), path.name)


def runs_tab(backend: Backend) -> list[Any]:
    """Create the tab; return the table and the lists of runs."""
    keys = list(backend.library.runs())
    overview = gr.Dataframe(
        table(backend), headers=HEADINGS, interactive=False, elem_classes="runs", wrap=True
    )
    with gr.Tabs():
        with gr.Tab("Curves"):
            several = gr.Dropdown(keys, value=keys[:1], multiselect=True, label="Runs")
            curves_of_runs(several, backend)
        with gr.Tab("One run"):
            one = gr.Dropdown(keys, value=keys[0] if keys else None, label="Run")
            files_of_run(one, backend)

    def chosen(event: gr.SelectData) -> tuple[str, list[str]]:
        key = str(event.row_value[0])
        return key, [key]

    overview.select(chosen, None, [one, several], show_progress="hidden", api_visibility="private")
    return [overview, several, one]


def curves_of_runs(several: gr.Dropdown, backend: Backend) -> None:
    """Create plots of the values that the chosen runs have logged."""

    @gr.render(inputs=several)
    def show(keys: list[str]) -> None:
        series = {key: guarded(curves_of)(backend, key) for key in keys or []}
        names = sorted({name for one in series.values() for name in one})
        if not names:
            gr.Markdown("The chosen runs have logged no values yet.")
            return
        values = gr.Dropdown(
            names, value=first_choice(names), multiselect=True, label="Values", interactive=True
        )

        @gr.render(inputs=values)
        def draw(chosen: list[str]) -> None:
            for name in chosen or []:
                plot(frame(series, name), name)


def plot(data: pd.DataFrame, name: str, title: str | None = None) -> None:
    """Plot one value of the runs in a table."""
    gr.LinePlot(
        data,
        x="update",
        y=name,
        color="run",
        title=title or name,
        height=PLOT_HEIGHT,
        tooltip="all",
    )


def files_of_run(one: gr.Dropdown, backend: Backend) -> None:
    """Create the previews, the evaluation, the health values and the configuration of a run."""

    @gr.render(inputs=one)
    def show(key: str | None) -> None:
        if key is None:
            return
        run = guarded(backend.library.run)(key)
        if previews := samples_of(run):
            evolution(previews)
        if rows := read_rows(run):
            gr.Markdown("### Evaluation")
            figures = [Figure(*cells)._asdict() for cells in rows]  # type: ignore[arg-type]
            gr.Dataframe(
                [[figure[name] for name in FIGURES] for figure in figures],
                headers=FIGURES,
                interactive=False,
                wrap=True,
            )
        if health := read_series(run.path / "health.csv"):
            gr.Markdown("### Health of the GAN")
            for name in health:
                plot(frame({key: health}, name), name, health_title(name))
        if run.config.is_file():
            gr.Markdown("### Configuration")
            gr.Code(run.config.read_text(encoding="utf-8"), language="yaml", interactive=False)


def health_title(name: str) -> str:
    """Return the name of a value of `health.csv`, with the limit of its warning."""
    kind = name.partition("/")[0]
    if kind in LIMITS:
        return f"{name} (warning below {LIMITS[kind]})"
    if kind in UPPER_LIMITS:
        return f"{name} (warning above {UPPER_LIMITS[kind]})"
    return name


def evolution(previews: dict[str, list[Path]]) -> None:
    """Create a slider over the previews of a run in the course of training."""
    names = list(previews)
    first = "samples" if "samples" in names else names[0]
    with gr.Row():
        kind = gr.Dropdown(names, value=first, label="Preview")
        last = max(map(len, previews.values()))
        position = gr.Slider(
            1, max(2, last), last, step=1, label="Point in training", info="", scale=3
        )
    shown = gr.HTML(preview(previews[first][-1]), elem_classes="result")

    def choose(name: str, number: float) -> str:
        files = previews.get(name) or previews[first]
        return preview(files[min(max(0, int(number) - 1), len(files) - 1)])

    gr.on(
        [kind.input, position.input],
        guarded(choose),
        [kind, position],
        shown,
        trigger_mode="always_last",
        show_progress="hidden",
        queue=False,
    )
