"""Panels of systems that translate texts or images."""

from collections.abc import Mapping
from typing import Any

import gradio as gr
import torch

from callbacks.attention_maps import heat_map
from cli.playground import html
from cli.playground.canvas import canvas, read_canvas
from cli.playground.form import MAX_SEED, MAX_TEXT, Form, integer, options_of, text_value
from cli.playground.library import Loaded
from cli.playground.panels.base import Panel, Studio, add_unseen_button
from cli.playground.worker import Show
from common.errors import UserError
from lightning_modules.core.translator import Translator
from lightning_modules.decoding.beam_search import BeamSearchConfig


def text_form(loaded: Loaded, studio: Studio) -> Form:
    """Create fields for the text and the options of the beam search."""
    fields = Form()
    source = gr.Textbox("", label="Source", lines=2, max_length=MAX_TEXT, info="Text to translate.")
    fields.add("source", source, text_value("source"))
    fields.add_options(loaded.model)
    return fields


def translate(loaded: Loaded, values: Mapping[str, Any], show: Show, studio: Studio) -> None:
    """Show the translation, then the attention weights between it and the source."""
    model, source = loaded.model, values["source"].strip()
    if not source:
        raise UserError("the source is empty; type a text")
    search = BeamSearchConfig(**options_of(model, values))
    shown = html.texts(model.translate([source], search), ["translation"])
    show(shown)
    tokens, length = model.read([source])
    maps = model.attention_maps({"source": tokens, "source_length": length}, search)
    for name, attention in maps.items():
        text = f"attention weights, {name.replace('_', ' ')}"
        shown += html.picture(heat_map(attention), text, caption=text)
    show(shown)


def image_form(loaded: Loaded, studio: Studio) -> Form:
    """Create fields for the image, the direction and the other options of `sample`."""
    fields = Form()
    drawing = fields.add("canvas", canvas("Draw an image, or open a file"))
    fields.add_weights(loaded.model)
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
    fields.add("seed", seed, integer("seed", 0, MAX_SEED))
    fields.add_options(loaded.model)
    direction = fields.components["direction"]
    add_unseen_button(drawing, loaded.key, studio, domain_of, direction)
    return fields


def domain_of(direction: str) -> str:
    """Return the name of the inputs of a direction: "a" of "a2b"."""
    return direction[:1]


def translate_image(loaded: Loaded, values: Mapping[str, Any], show: Show, studio: Studio) -> None:
    """Show the image of the canvas and its translation."""
    model = loaded.model
    image, _ = read_canvas(values["canvas"], model.hparams.image_shape)
    if image is None:
        raise UserError("the canvas is empty; draw an image, open a file, or load a test image")
    batch = {domain_of(values["direction"]): image[None].to(model.device)}
    outputs = model.sample([values["seed"]], batch=batch, **options_of(model, values))
    show(html.gallery(torch.stack([image, outputs[0].cpu()]), ["input", "output"]))


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
