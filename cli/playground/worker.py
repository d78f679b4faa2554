"""One thread that computes all answers of the playground, and messages instead of exceptions."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import wraps
from typing import Any, TypeVar

import gradio as gr

from common.errors import UserError, fail

MAX_MESSAGE = 400  # characters of a message

T = TypeVar("T")
Show = Callable[[str], None]  # shows HTML in place of what was shown before


class Abandoned(Exception):
    """Raised inside of an answer that nobody waits for, such as after the page was closed."""


class Worker:
    """Runs functions one after the other in a thread.

    Systems must not answer two requests at a time, because their weights may be replaced by
    averages meanwhile. One thread also keeps the thread pool of PyTorch.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "playground")

    def call(self, function: Callable[..., T]) -> Callable[..., T]:
        """Wrap a function so that it runs in the thread and its errors become messages.

        Raises:
            gr.Error: Message for the user, if the function fails.
        """

        @wraps(function)
        def wrapped(*values: Any) -> T:
            try:
                return self._thread.submit(function, *values).result()
            except Exception as error:
                raise message(error) from error

        return wrapped

    def stream(self, function: Callable[..., None]) -> Callable[..., Iterator[str]]:
        """Wrap a function of (show, *values) that shows HTML while it runs.

        Returns:
            Generator function of `values`, for Gradio. It yields the newest HTML that was shown.

        Raises:
            gr.Error: Message for the user, if the function fails.
        """

        @wraps(function)
        def wrapped(*values: Any) -> Iterator[str]:
            shown: queue.SimpleQueue[str | None] = queue.SimpleQueue()
            abandoned = threading.Event()

            def show(html: str) -> None:
                if abandoned.is_set():
                    raise Abandoned
                shown.put(html)

            answer: Future[None] = self._thread.submit(function, show, *values)
            answer.add_done_callback(lambda _: shown.put(None))
            try:
                while (html := newest(shown)) is not None:
                    yield html
                answer.result()
            except GeneratorExit:
                raise
            except Exception as error:
                raise message(error) from error
            finally:
                abandoned.set()
                answer.cancel()

        return wrapped


def newest(shown: queue.SimpleQueue[str | None]) -> str | None:
    """Wait for the next entry, and return the newest one; None if it was the end."""
    html = shown.get()
    while html is not None and not shown.empty():
        following = shown.get()
        if following is None:
            shown.put(None)
            break
        html = following
    return html


def message(error: Exception) -> gr.Error:
    """Return an error whose text the page shows; unexpected errors are also printed."""
    if isinstance(error, gr.Error):
        return error
    text = str(error)
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {error}"
        fail(text, 1)
    return gr.Error(text[:MAX_MESSAGE], duration=None, print_exception=False)
