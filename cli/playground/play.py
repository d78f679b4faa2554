"""Tabs that run systems: one checkpoint, or two of them with the same request."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr

from cli.playground import html
from cli.playground.form import Form
from cli.playground.library import Loaded
from cli.playground.panels import captions, latent, samples, text, translation
from cli.playground.panels.base import Panel, Studio, chosen_weights
from cli.playground.worker import Show
from common.errors import UserError

PANELS = (
    samples.PANEL,
    text.WRITE,
    translation.TEXT,
    translation.IMAGE,
    captions.PROMPTS,
    text.SCORE,
    captions.RANK,
    latent.INTERPOLATE,
)
Part = tuple[str, Callable[[Loaded, Studio], None]]  # title of a tab, and what creates its content
EMPTY = html.paragraph("The answer appears here.")
NOTHING = "This system generates no samples. The tab *Runs* shows its curves and previews."


def checkpoint_choice(studio: Studio, label: str, number: int = 0) -> gr.Dropdown:
    """Create a list of the checkpoints, with the entry `number` chosen."""
    keys = list(studio.library.checkpoints())
    value = keys[min(number, len(keys) - 1)] if keys else None
    return gr.Dropdown(keys, value=value, label=label, elem_classes="checkpoint")


def play_tab(studio: Studio) -> gr.Dropdown:
    """Create the tab for one checkpoint; return its list of checkpoints."""
    checkpoint = checkpoint_choice(studio, "Checkpoint")

    @gr.render(inputs=checkpoint)
    def show(key: str | None) -> None:
        try:
            loaded = studio.worker.call(studio.library.load)(key)
            panels = [panel for panel in PANELS if panel.applies(loaded.model)]
            parts: list[Part] = [(panel.title, partial(build, panel)) for panel in panels]
            if latent.applies(loaded.model):
                parts.insert(0, ("Latent space", latent.build))
            if not parts:
                gr.Markdown(NOTHING)
                return
            with gr.Tabs(selected=f"{key} {parts[0][0]}"):
                for title, make in parts:
                    with gr.Tab(title, id=f"{key} {title}"):
                        make(loaded, studio)
        except gr.Error as error:
            gr.Markdown(f"**{error.message}**", elem_classes="failed")

    return checkpoint


def build(panel: Panel, loaded: Loaded, studio: Studio) -> None:
    """Create the form, the button and the answer of a panel."""
    with gr.Row():
        with gr.Column(scale=2):
            form = panel.form(loaded, studio)
            button = gr.Button(panel.action, variant="primary")
        with gr.Column(scale=3):
            result = gr.HTML(EMPTY, elem_classes="result", min_height=320)

    def answer(show: Show, *values: Any) -> None:
        respond(panel, studio, loaded.key, form.parse(values), show)

    submit(button, form, studio.worker.stream(answer), result)


def submit(button: gr.Button, form: Form, answer: Any, result: Any) -> None:
    """Call `answer` with the values of a form when the button or the Enter key is pressed."""
    fields = list(form.components.values())
    texts = [one for one in fields if isinstance(one, gr.Textbox)]
    triggers = [button.click, *(one.submit for one in texts)]
    gr.on(triggers, answer, fields, result, show_progress="minimal")


def respond(panel: Panel, studio: Studio, key: str, values: Mapping[str, Any], show: Show) -> None:
    """Compute the answer of a checkpoint with the weights that the values ask for."""
    loaded = studio.library.load(key)
    with chosen_weights(loaded.model, values):
        panel.answer(loaded, values, show, studio)


def compare_tab(studio: Studio) -> list[gr.Dropdown]:
    """Create the tab for two checkpoints; return its lists of checkpoints."""
    with gr.Row():
        first = checkpoint_choice(studio, "First checkpoint")
        second = checkpoint_choice(studio, "Second checkpoint", 1)

    @gr.render(inputs=[first, second])
    def show(one: str | None, other: str | None) -> None:
        try:
            pair = [studio.worker.call(studio.library.load)(key) for key in (one, other)]
            panel = common_panel(pair)
        except (gr.Error, UserError) as error:
            text_ = error.message if isinstance(error, gr.Error) else str(error)
            gr.Markdown(f"**{text_}**", elem_classes="failed")
            return
        form = panel.form(pair[0], studio)
        button = gr.Button(panel.action, variant="primary")
        result = gr.HTML(EMPTY, elem_classes="result", min_height=320)

        def answer(show: Show, *values: Any) -> None:
            parsed, shown = form.parse(values), {loaded.key: "" for loaded in pair}

            def place(key: str, text: str) -> None:
                shown[key] = text
                show(html.columns(shown))

            for loaded in pair:
                respond(panel, studio, loaded.key, parsed, partial(place, loaded.key))

        submit(button, form, studio.worker.stream(answer), result)

    return [first, second]


def common_panel(pair: Sequence[Loaded]) -> Panel:
    """Return the first panel that applies to two checkpoints.

    Raises:
        UserError: If no panel applies to both.
    """
    for panel in PANELS:
        if all(panel.applies(loaded.model) for loaded in pair):
            return panel
    one, other = (type(loaded.model).__name__ for loaded in pair)
    raise UserError(f"{one} and {other} have no request in common; choose two similar systems")
