"""Panels of systems that translate texts or images."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import gradio as gr

from callbacks.attention_maps import heat_map
from cli.playground import html
from cli.playground.canvas import canvas, read_canvas
from cli.playground.form import (
    FIRST_SEED,
    MAX_SEED,
    MAX_TEXT,
    Form,
    integer,
    integer_field,
    options_of,
    text_value,
)
from cli.playground.library import Loaded
from cli.playground.panels.base import Backend, Panel, add_test_button
from cli.playground.worker import Show
from common.errors import UserError
from lightning_modules.core.translator import Translator
from lightning_modules.decoding.beam_search import BeamSearchConfig

DRAWING = "drawn image"


def text_form(loaded: Loaded, backend: Backend) -> Form:
    """Create fields for the text and the options of the beam search."""
    form = Form()
    source = gr.Textbox("", label="Source", lines=2, max_length=MAX_TEXT, info="Text to translate.")
    form.add("source", source, text_value("source"))
    form.add_options(loaded.model)
    return form


def translate(loaded: Loaded, values: Mapping[str, Any], show: Show, backend: Backend) -> None:
    """Show the translation, then the attention weights between it and the source."""
    model, source = loaded.model, values["source"].strip()
    if not source:
        raise UserError("the source is empty; type a text")
    options, (tokens, length) = options_of(model, values), model.read([source])
    batch = {"source": tokens, "source_length": length}
    shown = html.texts(model.sample([0], batch=batch, **options), ["translation"])
    show(shown)
    known = {field.name for field in fields(BeamSearchConfig)}
    search = BeamSearchConfig(**{name: options[name] for name in known & options.keys()})
    maps = model.attention_maps(batch, search)
    for name, attention in maps.items():
        text = f"attention weights, {name.replace('_', ' ')}"
        shown += html.picture(heat_map(attention), text, caption=text)
    show(shown)


def image_form(loaded: Loaded, backend: Backend) -> Form:
    """Create fields for the image, the direction and the other options of `sample`."""
    form = Form()
    drawing = form.add(DRAWING, canvas("Draw an image, or open a file"))
    seed = integer_field("Seed", "Seed of noise, such as dropout.", MAX_SEED)
    form.add(FIRST_SEED, seed, integer("seed", 0, MAX_SEED))
    form.add_options(loaded.model)
    directions = [one for name, one in form.components.items() if name == "direction"]
    add_test_button(drawing, loaded.key, backend, domain_of, *directions)
    return form


def domain_of(direction: str = "a2b") -> str:
    """Return the name of the inputs of a direction: "a" for "a2b"."""
    return direction[:1]


def translate_image(
    loaded: Loaded, values: Mapping[str, Any], show: Show, backend: Backend
) -> None:
    """Show the image of the canvas and its translation."""
    model = loaded.model
    image, _ = read_canvas(values[DRAWING], model.hparams.image_shape)
    if image is None:
        raise UserError("the canvas is empty; draw an image, open a file, or load a test image")
    batch = {domain_of(values.get("direction", "a2b")): image[None].to(model.device)}
    outputs = model.sample([values[FIRST_SEED]], batch=batch, **options_of(model, values))
    show(html.columns([("input", html.gallery(image[None])), ("output", html.gallery(outputs))]))


TEXT = Panel(
    "Translate", "Translate", lambda model: isinstance(model, Translator), text_form, translate
)
IMAGE = Panel(
    "Translate images",
    "Translate",
    lambda model: model.modality == "image-to-image",
    image_form,
    translate_image,
)
