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
from cli.playground.panels.base import Backend, Panel, add_test_button
from cli.playground.worker import Show
from common.errors import UserError
from lightning_modules.core.language_model import LanguageModel
from lightning_modules.core.translator import Translator

CHUNK = 16  # number of seeds per call of `sample`; the answer grows by as many samples
IMAGES, TEXTS = 16, 4  # default numbers of samples
DRAWING = "drawn image"


def applies(model: Any) -> bool:
    """Return whether a system samples from seeds and has no panel of its own."""
    if model.modality == "text":
        return not isinstance(model, LanguageModel)
    if model.modality == "text-to-text":
        return not isinstance(model, Translator)
    if model.modality == "text-to-image":
        return "prompt" not in sample_parameters(model.sample)
    return bool(model.modality == "images")


def form(loaded: Loaded, backend: Backend) -> Form:
    """Create fields for the seeds, the options of `sample`, and images that it takes."""
    model, fields = loaded.model, Form()
    fields.add_seeds(IMAGES if model.modality == "images" else TEXTS)
    fields.add_options(model)
    parameters = sample_parameters(model.sample)
    if "image" in parameters and is_tensor(parameters["image"]):
        with gr.Accordion("Start from an image", open=False):
            drawing = fields.add(DRAWING, canvas("Image", with_mask="mask" in parameters))
            add_test_button(drawing, loaded.key, backend, lambda: "image")
    return fields


def inputs(model: Any, values: Mapping[str, Any], count: int) -> dict[str, Tensor]:
    """Return the arguments `image` and `mask` of `sample` for `count` seeds.

    Raises:
        UserError: If an image is given without the mask that the system needs.
    """
    parameters = sample_parameters(model.sample)
    if DRAWING not in values or "image" not in parameters:
        return {}
    image, mask = read_canvas(values[DRAWING], model.hparams.image_shape)
    if image is not None and mask is None and "mask" in parameters:
        raise UserError("mark the region of the image that is generated anew")
    found = {"image": image, "mask": mask if "mask" in parameters else None}
    return {
        name: value.expand(count, -1, -1, -1) for name, value in found.items() if value is not None
    }


def samples(loaded: Loaded, values: Mapping[str, Any], seeds: list[int]) -> Any:
    """Return images or texts on the CPU, one per seed."""
    model = loaded.model
    options = {**options_of(model, values), **inputs(model, values, len(seeds))}
    if "batch" in inspect.signature(model.sample).parameters:
        attribute = options.get("attribute")
        options["batch"] = unseen_batch(model, loaded.config, seeds, attribute)
    outputs = model.sample(seeds, **options)
    return outputs.cpu() if isinstance(outputs, Tensor) else outputs


def answer(loaded: Loaded, values: Mapping[str, Any], show: Show, backend: Backend) -> None:
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
