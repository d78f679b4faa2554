"""What all panels share: their definition, the weights they use, and images of the data."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import gradio as gr
from torch import Tensor

from cli.data import unseen_batch
from cli.playground.canvas import canvas_value
from cli.playground.form import MAX_INTEGER, Form, integer
from cli.playground.library import Library, Loaded
from cli.playground.worker import Show, Worker


class Studio(NamedTuple):
    """Checkpoints, and the thread that runs their systems."""

    library: Library
    worker: Worker


class Panel(NamedTuple):
    """One use of a system: a form, a button, and an answer in HTML.

    Attributes:
        title: Title of the panel.
        action: Text of the button.
        applies: Whether a system has this use.
        form: Function that creates the fields for a loaded system.
        answer: Function that computes and shows the answer to a form.
    """

    title: str
    action: str
    applies: Callable[[Any], bool]
    form: Callable[[Loaded, Studio], Form]
    answer: Callable[[Loaded, Mapping[str, Any], Show, Studio], None]


def chosen_weights(model: Any, values: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Return a context with the weights that the form asks for; averaged ones by default."""
    context: AbstractContextManager[None] = model.averaged_weights(
        values.get("weights") != "trained"
    )
    return context


def unseen_image(loaded: Loaded, index: int, name: str = "image") -> Tensor:
    """Return image `index` (C, H, W) of the test split.

    Args:
        loaded: Checkpoint whose data are used.
        index: Index, modulo the number of images.
        name: Name of the images in a batch.
    """
    image: Tensor = unseen_batch(loaded.model, loaded.config, [index], None)[name][0]
    return image


def add_unseen_button(
    target: gr.HTML, key: str, studio: Studio, name: Callable[..., str], *inputs: Any
) -> None:
    """Add a field and a button that load an image of the test split to a canvas.

    Args:
        target: The canvas.
        key: Name of the checkpoint whose data are used.
        studio: Loads the checkpoint.
        name: Function of the values of `inputs` that returns the name of the images in a batch.
        *inputs: Components whose values `name` needs.
    """
    with gr.Row():
        index = gr.Number(0, label="Test image", precision=0, minimum=0, maximum=MAX_INTEGER)
        button = gr.Button("Load the test image", size="sm")

    def draw(number: Any, *values: Any) -> str:
        parsed = integer("test image", 0, MAX_INTEGER)(number)
        return canvas_value(unseen_image(studio.library.load(key), parsed, name(*values)))

    button.click(studio.worker.call(draw), [index, *inputs], target, show_progress="hidden")
