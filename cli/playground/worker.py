"""One thread that computes all answers of the playground, and messages instead of exceptions."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import wraps
from typing import Any, TypeVar

import gradio as gr

from common.errors import UserError, fail

MAX_MESSAGE = 400  # characters of a message
MAX_WAITING = 32  # number of answers that wait or are computed; further requests are refused
PERIOD = 0.5  # seconds after which a generator checks whether its page is still open

T = TypeVar("T")
Show = Callable[[str], None]  # shows HTML in place of the previous HTML


class Abandoned(Exception):
    """Raised by `Show` if the page was closed or the user pressed Stop."""


class Worker:
    """Runs functions one after the other in a thread.

    Systems must not answer two requests at a time, because their weights may be replaced by
    averages meanwhile. With one thread, PyTorch also keeps its thread pool. The thread is a daemon,
    so the program can end while an answer is computed.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._free = threading.BoundedSemaphore(MAX_WAITING)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            answer, function = self._calls.get()
            try:
                if answer.set_running_or_notify_cancel():
                    answer.set_result(function())
            except Exception as error:
                answer.set_exception(error)
            finally:
                self._free.release()

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        """Append a function to the queue.

        Raises:
            UserError: If too many requests wait.
        """
        if not self._free.acquire(blocking=False):
            raise UserError(f"{MAX_WAITING} requests are waiting; try again later")
        answer: Future[T] = Future()
        self._calls.put((answer, function))
        return answer

    def call(self, function: Callable[..., T]) -> Callable[..., T]:
        """Wrap a function so that it runs in the thread and its errors become messages.

        Raises:
            gr.Error: Message for the user, if the function fails or too many requests wait.
        """

        @wraps(function)
        def wrapped(*values: Any) -> T:
            return self._submit(lambda: function(*values)).result()

        return guarded(wrapped)

    def stream(self, function: Callable[..., None]) -> Callable[..., Iterator[Any]]:
        """Wrap a function of (show, *values) that shows HTML while it runs.

        Returns:
            Generator function of `values`, for Gradio. It yields the newest HTML that was shown,
            and `gr.skip()` while there is none, so that Gradio can end it.

        Raises:
            gr.Error: Message for the user, if the function fails or too many requests wait.
        """

        @wraps(function)
        def wrapped(*values: Any) -> Iterator[Any]:
            shown: queue.SimpleQueue[str | None] = queue.SimpleQueue()
            abandoned = threading.Event()

            def show(html: str) -> None:
                if abandoned.is_set():
                    raise Abandoned
                shown.put(html)

            try:
                answer = self._submit(lambda: function(show, *values))
                answer.add_done_callback(lambda _: shown.put(None))
            except UserError as error:
                raise message(error) from error
            try:
                yield from updates(shown)
                answer.result()
            except GeneratorExit:
                raise
            except Exception as error:
                raise message(error) from error
            finally:
                abandoned.set()
                answer.cancel()

        return wrapped


def updates(shown: queue.SimpleQueue[str | None]) -> Iterator[Any]:
    """Yield the newest entry until None arrives, and `gr.skip()` every `PERIOD` without entry."""
    ended = False
    while not ended:
        html: Any = gr.skip()
        try:
            entries = [shown.get(timeout=PERIOD)]
            while not shown.empty():
                entries.append(shown.get())
        except queue.Empty:
            entries = []
        ended = None in entries
        texts = [entry for entry in entries if entry is not None]
        if texts:
            html = texts[-1]
        if texts or not ended:
            yield html


def guarded(function: Callable[..., T]) -> Callable[..., T]:
    """Wrap a function so that its errors become messages for the user."""

    @wraps(function)
    def wrapped(*values: Any) -> T:
        try:
            return function(*values)
        except Exception as error:
            raise message(error) from error

    return wrapped


def message(error: Exception) -> gr.Error:
    """Return an error whose text the page shows; unexpected errors are also printed."""
    if isinstance(error, gr.Error):
        return error
    text = str(error)
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {error}"
        fail(text, 1)
    return gr.Error(text[:MAX_MESSAGE], duration=None, print_exception=False)
