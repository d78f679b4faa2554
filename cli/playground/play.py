"""Tabs that run systems: one checkpoint, or two of them with the same request."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr

from cli.playground import html
from cli.playground.form import Form
from cli.playground.library import Loaded
from cli.playground.panels import captions, latent, samples, text, translation
from cli.playground.panels.base import Backend, Panel, chosen_weights
from cli.playground.worker import Show, message
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
Part = tuple[str, Callable[[Loaded, Backend], None]]  # title of a tab, and function that fills it
EMPTY = html.paragraph("The answer appears here.")
NOTHING = "This system generates no samples. The tab *Runs* shows its curves and previews."


def checkpoint_choice(backend: Backend, label: str, number: int = 0) -> gr.Dropdown:
    """Create a list of the checkpoints, with the entry `number` chosen."""
    keys = list(backend.library.checkpoints())
    value = keys[min(number, len(keys) - 1)] if keys else None
    return gr.Dropdown(keys, value=value, label=label, elem_classes="checkpoint")


def play_tab(backend: Backend) -> gr.Dropdown:
    """Create the tab for one checkpoint; return its list of checkpoints."""
    checkpoint = checkpoint_choice(backend, "Checkpoint")

    @gr.render(inputs=checkpoint)
    def show(key: str | None) -> None:
        try:
            loaded = backend.worker.call(backend.library.load)(key)
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
                        attempt(make, loaded, backend)
        except gr.Error as error:
            gr.Markdown(f"**{error.message}**", elem_classes="failed")

    return checkpoint


def attempt(make: Callable[[Loaded, Backend], None], loaded: Loaded, backend: Backend) -> None:
    """Fill a tab; show a message in place of one that fails, so the others still work."""
    try:
        make(loaded, backend)
    except Exception as error:
        gr.Markdown(f"**{message(error).message}**", elem_classes="failed")


def build(panel: Panel, loaded: Loaded, backend: Backend) -> None:
    """Create the form, the button and the answer of a panel."""
    key = loaded.key  # the events below must not keep the system in memory
    with gr.Row():
        with gr.Column(scale=2):
            form = panel.form(loaded, backend)
            form.add_weights(loaded.model)
        with gr.Column(scale=3):
            with gr.Row():
                button = gr.Button(panel.action, variant="primary", scale=3)
                stop = gr.Button("Stop", scale=1)
            result = gr.HTML(EMPTY, elem_classes="result", min_height=320)

    def answer(show: Show, *values: Any) -> None:
        respond(panel, backend, key, form.parse(values), show)

    submit(button, stop, form, backend.worker.stream(answer), result)


def submit(button: gr.Button, stop: gr.Button, form: Form, answer: Any, result: Any) -> None:
    """Call `answer` with the values of a form when the button or the Enter key is pressed.

    Args:
        button: Button that starts the answer.
        stop: Button that ends the answer, which keeps what it has shown.
        form: Fields of the request.
        answer: Generator function of the values, which yields HTML.
        result: Component that shows the HTML.
    """
    fields = list(form.components.values())
    texts = [one for one in fields if isinstance(one, gr.Textbox)]
    triggers = [button.click, *(one.submit for one in texts)]
    started = gr.on(triggers, answer, fields, result, show_progress="minimal")
    stop.click(None, None, None, cancels=[started])


def respond(
    panel: Panel, backend: Backend, key: str, values: Mapping[str, Any], show: Show
) -> None:
    """Compute the answer of a checkpoint with the weights that the values ask for."""
    loaded = backend.library.load(key)
    with chosen_weights(loaded.model, values):
        panel.answer(loaded, values, show, backend)


def compare_tab(backend: Backend) -> list[gr.Dropdown]:
    """Create the tab for two checkpoints; return its lists of checkpoints."""
    with gr.Row():
        first = checkpoint_choice(backend, "First checkpoint")
        second = checkpoint_choice(backend, "Second checkpoint", 1)

    @gr.render(inputs=[first, second])
    def show(one: str | None, other: str | None) -> None:
        try:
            pair = [backend.worker.call(backend.library.load)(key) for key in (one, other)]
            panel = common_panel(pair)
        except (gr.Error, UserError) as error:
            text_ = error.message if isinstance(error, gr.Error) else str(error)
            gr.Markdown(f"**{text_}**", elem_classes="failed")
            return
        keys = [loaded.key for loaded in pair]
        form = panel.form(pair[0], backend)
        form.add_weights(max((loaded.model for loaded in pair), key=has_averages))
        with gr.Row():
            button = gr.Button(panel.action, variant="primary", scale=3)
            stop = gr.Button("Stop", scale=1)
        result = gr.HTML(EMPTY, elem_classes="result", min_height=320)

        def answer(show: Show, *values: Any) -> None:
            parsed, shown = form.parse(values), ["", ""]

            def place(number: int, text: str) -> None:
                shown[number] = text
                show(html.columns(zip(keys, shown)))

            for number, key in enumerate(keys):
                respond(panel, backend, key, parsed, partial(place, number))

        submit(button, stop, form, backend.worker.stream(answer), result)

    return [first, second]


def has_averages(model: Any) -> bool:
    """Return whether a system has averaged weights."""
    return bool(model.has_averaged_weights)


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
