"""Panels of language models: continue a text, and mark the tokens of a text by their scores."""

import time
from collections.abc import Mapping
from typing import Any

import gradio as gr
from torch import Tensor

from cli.playground import html
from cli.playground.form import MAX_TEXT, Form, options_of, seeds_of, text_value
from cli.playground.library import Loaded
from cli.playground.panels.base import Backend, Panel
from cli.playground.worker import Show
from common.errors import UserError
from lightning_modules.core.language_model import LanguageModel

ALTERNATIVES = 8  # number of most probable tokens to show
PERIOD = 0.05  # minimum number of seconds between two updates of a page with a short text
LONG = 200  # number of tokens for which the period is twice as long, since all HTML is sent again
MAX_TEXTS = 8


class Writing:
    """Text that is generated, with the most probable tokens of each step.

    An instance is a listener of `LanguageModel`.

    Args:
        model: Language model.
        prompt: Start of the text.
        before: HTML of earlier texts.
        show: Function that shows HTML.
    """

    def __init__(self, model: LanguageModel, prompt: str, before: str, show: Show) -> None:
        self.tokenizer, self._show = model.known_tokenizer(), show
        self._ids = model.prompt_ids(prompt)
        self._length = len(self.tokenizer.decode(self._ids))
        self._parts = [before, '<div class="written">', html.visible(prompt)]
        self._shown = 0.0

    @property
    def html(self) -> str:
        """HTML of all texts so far."""
        return "".join([*self._parts, "</div>"])

    def __call__(self, tokens: list[int], probabilities: Tensor) -> None:
        """Add the token of one step."""
        self._ids.append(tokens[0])
        text = self.tokenizer.decode(self._ids)
        new = ""
        if not text.endswith("\ufffd"):  # "\ufffd" marks an incomplete character
            new, self._length = text[self._length :], len(text)
        top = probabilities[0].topk(min(ALTERNATIVES, probabilities.shape[1]))
        others = [
            (self.tokenizer.token(number), share)
            for share, number in zip(top.values.tolist(), top.indices.tolist())
            if share > 0
        ]
        self._parts.append(html.generated_token(new, others))
        if time.monotonic() - self._shown >= PERIOD * (1 + len(self._parts) / LONG):
            self._shown = time.monotonic()
            self._show(self.html)


def form(loaded: Loaded, backend: Backend) -> Form:
    """Create fields for the prompt, the seeds and the options of `sample`."""
    fields = Form()
    prompt = gr.Textbox("", label="Prompt", lines=2, max_length=MAX_TEXT, info="Text to continue.")
    fields.add("prompt", prompt, text_value("prompt"))
    fields.add_seeds(1, MAX_TEXTS)
    fields.add_options(loaded.model, without=["prompt"])
    return fields


def answer(loaded: Loaded, values: Mapping[str, Any], show: Show, backend: Backend) -> None:
    """Continue the prompt once per seed, and show each token when it is generated."""
    model, shown = loaded.model, ""
    length = len(model.prompt_ids(values["prompt"]))
    if length > model.context:
        shown = html.paragraph(
            f"The prompt has {length} tokens; the model sees only the last {model.context}."
        )
    for seed in seeds_of(values):
        writing = Writing(model, values["prompt"], shown, show)
        model.listener = writing
        try:
            model.sample([seed], **options_of(model, values))
        finally:
            model.listener = None
        shown = f'{writing.html}<p class="caption">seed {seed}</p>'
        show(shown)


def score_form(loaded: Loaded, backend: Backend) -> Form:
    """Create a field for the text."""
    fields = Form()
    info = f"Each token is marked by its score: {loaded.model.token_score}."
    text = gr.Textbox("", label="Text", lines=3, max_length=MAX_TEXT, info=info)
    fields.add("text", text, text_value("text"))
    return fields


def score(loaded: Loaded, values: Mapping[str, Any], show: Show, backend: Backend) -> None:
    """Show the tokens of the text, marked by their scores."""
    if not values["text"].strip():
        raise UserError("the text is empty; type a sentence")
    scores = loaded.model.score_tokens(values["text"])
    highest = max(1.0, *(score for _, score in scores))
    show(html.scored_tokens(scores, loaded.model.token_score, highest))


WRITE = Panel(
    "Continue a text", "Continue", lambda model: isinstance(model, LanguageModel), form, answer
)
SCORE = Panel("Score the tokens", "Score", lambda model: bool(model.token_score), score_form, score)
