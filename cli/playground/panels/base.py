"""Definition of a panel, and functions for weights and test data that several panels use."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import gradio as gr

from cli.data import unseen_batch
from cli.playground.canvas import canvas_value
from cli.playground.form import MAX_INTEGER, USED_WEIGHTS, Form, integer, integer_field
from cli.playground.library import Library, Loaded
from cli.playground.worker import Show, Worker


class Backend(NamedTuple):
    """Library of checkpoints, and the thread that runs their systems."""

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
    form: Callable[[Loaded, Backend], Form]
    answer: Callable[[Loaded, Mapping[str, Any], Show, Backend], None]


def chosen_weights(model: Any, values: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Return a context with the weights that the form asks for; averaged ones by default."""
    context: AbstractContextManager[None] = model.averaged_weights(
        values.get(USED_WEIGHTS) != "trained"
    )
    return context


def add_test_button(
    target: gr.HTML, key: str, backend: Backend, name: Callable[..., str], *inputs: Any
) -> None:
    """Add a field and a button that load an image of the test split to a canvas.

    Args:
        target: Canvas that shows the image.
        key: Name of the checkpoint whose data are used.
        backend: Library that loads the checkpoint, and the thread that reads the data.
        name: Function of the values of `inputs` that returns the name of the images in a batch.
        *inputs: Components whose values `name` needs.
    """
    with gr.Row():
        index = integer_field("Test image", "Index in the test split.", MAX_INTEGER)
        button = gr.Button("Load the test image", size="sm")

    def draw(number: Any, *values: Any) -> str:
        parsed = integer("test image", 0, MAX_INTEGER)(number)
        loaded = backend.library.load(key)
        batch = unseen_batch(loaded.model, loaded.config, [parsed], None)
        return canvas_value(batch[name(*values)][0])

    button.click(backend.worker.call(draw), [index, *inputs], target, show_progress="hidden")
