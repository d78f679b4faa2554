"""Panel of systems that generate images or texts from seeds."""

import inspect
from collections.abc import Mapping
from itertools import chain
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from cli.data import unseen_batch
from cli.options import is_tensor, sample_parameters
from cli.playground import html
from cli.playground.canvas import canvas, read_canvas
from cli.playground.form import Form, options_of, seeds_of
from cli.playground.library import Loaded
from cli.playground.panels.base import Panel, Studio, add_unseen_button
from cli.playground.worker import Show
from lightning_modules.core.language_model import LanguageModel
from lightning_modules.core.translator import Translator

CHUNK = 16  # number of seeds per call of `sample`; the answer grows by as many samples
IMAGES, TEXTS = 16, 4  # default numbers of samples


def applies(model: Any) -> bool:
    """Return whether a system samples from seeds and has no panel of its own."""
    if model.modality == "text":
        return not isinstance(model, LanguageModel)
    if model.modality == "text-to-text":
        return not isinstance(model, Translator)
    return bool(model.modality == "images")


def form(loaded: Loaded, studio: Studio) -> Form:
    """Create fields for the seeds, the options of `sample`, and images that it takes."""
    model, fields = loaded.model, Form()
    fields.add_seeds(IMAGES if model.modality == "images" else TEXTS)
    fields.add_weights(model)
    fields.add_options(model)
    images = {name for name, one in sample_parameters(model.sample).items() if is_tensor(one)}
    if images:
        with gr.Accordion("Start from an image", open=False):
            drawing = fields.add("canvas", canvas("Image", with_mask="mask" in images))
            add_unseen_button(drawing, loaded.key, studio, lambda: "image")
    return fields


def inputs(model: Any, values: Mapping[str, Any], count: int) -> dict[str, Tensor]:
    """Return the arguments `image` and `mask` of `sample` for `count` seeds."""
    parameters = sample_parameters(model.sample)
    if "canvas" not in values or "image" not in parameters:
        return {}
    image, mask = read_canvas(values["canvas"], model.hparams.image_shape)
    found = {"image": image, "mask": mask if "mask" in parameters else None}
    return {
        name: value.expand(count, -1, -1, -1) for name, value in found.items() if value is not None
    }


def samples(loaded: Loaded, values: Mapping[str, Any], seeds: list[int]) -> Any:
    """Return images or texts, one per seed."""
    model = loaded.model
    options = {**options_of(model, values), **inputs(model, values, len(seeds))}
    if "batch" in inspect.signature(model.sample).parameters:
        attribute = options.get("attribute")
        options["batch"] = unseen_batch(model, loaded.config, seeds, attribute)
    return model.sample(seeds, **options)


def answer(loaded: Loaded, values: Mapping[str, Any], show: Show, studio: Studio) -> None:
    """Show the samples, `CHUNK` at a time."""
    seeds, outputs = seeds_of(values), []
    for start in range(0, len(seeds), CHUNK):
        outputs.append(samples(loaded, values, seeds[start : start + CHUNK]))
        captions = [f"seed {seed}" for seed in seeds]
        if isinstance(outputs[0], Tensor):
            show(html.gallery(torch.cat(outputs), captions))
        else:
            show(html.texts(list(chain(*outputs)), captions))


PANEL = Panel("Samples", "Generate", applies, form, answer)
