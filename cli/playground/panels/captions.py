"""Panels of systems with captions: generate images for prompts, and rank images for a caption."""

from collections.abc import Mapping
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from cli.data import unseen_batch
from cli.options import sample_parameters
from cli.playground import html
from cli.playground.canvas import canvas, read_canvas
from cli.playground.form import MAX_TEXT, Form, integer, options_of, seeds_of, text_value
from cli.playground.library import Loaded
from cli.playground.panels.base import Backend, Panel
from cli.playground.worker import Show
from common.errors import UserError

CHUNK = 4  # number of images per call of `sample`; the answer grows by as many images
MAX_PROMPTS = 8
IMAGES = 8  # default number of images per prompt
MAX_RANKED, BEST = 512, 16  # number of test images to rank, and to show
NO_RANKER = "none"
LINES, RANKER, PRIME = "prompt lines", "ranker name", "given image"


def prompt_form(loaded: Loaded, backend: Backend) -> Form:
    """Create fields for prompts, seeds, options of `sample`, a ranker and the upper half."""
    fields = Form()
    prompts = gr.Textbox(
        "", label="Prompts", lines=2, max_length=MAX_TEXT, info="One prompt per line."
    )
    fields.add(LINES, prompts, text_value("prompts"))
    fields.add_seeds(IMAGES)
    choices = [NO_RANKER, *backend.library.rankers(loaded.model.hparams.image_shape)]
    ranker = gr.Dropdown(
        choices,
        value=choices[1] if len(choices) > 1 else NO_RANKER,
        label="Ranker",
        info="System that sorts the images of each prompt, the best first.",
    )
    fields.add(RANKER, ranker)
    with gr.Accordion("Options", open=False):
        fields.add_options(loaded.model, without=["prompt"])
        if "prime" in sample_parameters(loaded.model.sample):
            fields.add(PRIME, canvas("Image whose upper part is given"))
    return fields


def generate(loaded: Loaded, values: Mapping[str, Any], show: Show, backend: Backend) -> None:
    """Show the images of each prompt while they are generated, sorted by the ranker."""
    prompts = list(filter(None, map(str.strip, values[LINES].split("\n"))))
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise UserError(f"give from 1 to {MAX_PROMPTS} prompts, one per line (got {len(prompts)})")
    model, seeds, options = loaded.model, seeds_of(values), options_of(loaded.model, values)
    ranker = None
    if values[RANKER] != NO_RANKER:
        ranker = backend.library.load(values[RANKER]).model
    if PRIME in values and "prime" in sample_parameters(model.sample):
        options["prime"] = read_canvas(values[PRIME], model.hparams.image_shape)[0]
    shown = ""
    for prompt in prompts:
        for system in (model, ranker):
            if system is not None:
                system.tokenize([prompt])  # refuse unknown characters before sampling
        images, scores = torch.empty(0), torch.empty(0)
        for start in range(0, len(seeds), CHUNK):
            chunk = seeds[start : start + CHUNK]
            new = model.sample(chunk, **options, prompt=[prompt])
            rated = ranker.score(new, [prompt])[:, 0] if ranker else torch.zeros(len(chunk))
            images, scores = torch.cat([images, new.cpu()]), torch.cat([scores, rated.cpu()])
            show(shown + ranked(prompt, images, scores, seeds, ranker is not None))
        shown += ranked(prompt, images, scores, seeds, ranker is not None)


def ranked(prompt: str, images: Tensor, scores: Tensor, seeds: list[int], rated: bool) -> str:
    """Return images as HTML, in the order of their scores.

    Args:
        prompt: Caption of the images.
        images: Images (N, C, H, W).
        scores: Scores (N,).
        seeds: Seeds of the images.
        rated: Whether to show the scores.
    """
    order = scores.argsort(descending=True, stable=True).tolist()
    captions = [f"seed {seeds[i]}" + (f", {scores[i]:.2f}" if rated else "") for i in order]
    return html.paragraph(prompt) + html.gallery(images[order], captions)


def rank_form(loaded: Loaded, backend: Backend) -> Form:
    """Create fields for the caption and the number of images."""
    fields = Form()
    caption = gr.Textbox("", label="Caption", max_length=MAX_TEXT, info="Words to rank images for.")
    fields.add("caption", caption, text_value("caption"))
    count = gr.Slider(
        BEST, MAX_RANKED, 128, step=1, label="Number of images", info="Images of the test split."
    )
    fields.add("count", count, integer("number of images", BEST, MAX_RANKED))
    return fields


def rank(loaded: Loaded, values: Mapping[str, Any], show: Show, backend: Backend) -> None:
    """Show the test images with the highest scores for the caption."""
    if not values["caption"].strip():
        raise UserError("the caption is empty; type a few words")
    index = list(range(values["count"]))
    batch = unseen_batch(loaded.model, loaded.config, index, None)
    images = batch["image"][: len(batch["index"].unique())]  # indices start again after the last
    scores = loaded.model.score(images.to(loaded.model.device), [values["caption"]])[:, 0].cpu()
    best = scores.topk(min(BEST, len(scores)))
    captions = [f"image {i}, {score:.2f}" for i, score in zip(best.indices, best.values)]
    show(html.gallery(images[best.indices], captions))


PROMPTS = Panel(
    "Generate for a prompt",
    "Generate",
    lambda model: model.modality == "text-to-image" and "prompt" in sample_parameters(model.sample),
    prompt_form,
    generate,
)
RANK = Panel("Rank images for words", "Rank", lambda model: model.scores_captions, rank_form, rank)
