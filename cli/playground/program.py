"""Build the page of the playground and start its server."""

import argparse
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import gradio as gr

from cli.playground.api import add_api
from cli.playground.library import Library
from cli.playground.options import LOOPBACK
from cli.playground.panels.base import Backend
from cli.playground.play import compare_tab, play_tab
from cli.playground.runs import runs_tab, table
from cli.playground.worker import MAX_WAITING, Worker, guarded
from common.errors import UserError

SESSIONS = 50  # number of open pages whose state is kept
MAX_UPLOAD = "1mb"  # the page itself uploads nothing
CACHE = (3600, 3600)  # seconds between two deletions of temporary files, and their minimum age
FONT, FONT_MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")


def build(backend: Backend) -> gr.Blocks:
    """Return the page with its tabs."""
    with gr.Blocks(title="Maquette", analytics_enabled=False, delete_cache=CACHE) as page:
        gr.Markdown("# Maquette playground")
        with gr.Tab("Play"):
            choices = [play_tab(backend)]
        with gr.Tab("Compare"):
            choices += compare_tab(backend)
        with gr.Tab("Runs"):
            overview, *runs = runs_tab(backend)
        add_api(backend)

        def refresh() -> list[Any]:
            checkpoints, keys = list(backend.library.checkpoints()), list(backend.library.runs())
            lists = [gr.Dropdown(choices=checkpoints)] * len(choices)
            return [*lists, table(backend), *[gr.Dropdown(choices=keys)] * len(runs)]

        page.load(
            guarded(refresh),
            None,
            [*choices, overview, *runs],
            show_progress="hidden",
            api_visibility="private",
        )
    page.queue(max_size=MAX_WAITING)
    return page


def start(options: argparse.Namespace) -> tuple[gr.Blocks, str]:
    """Start the server; return the page and its address.

    Raises:
        UserError: If there is nothing to play with, or if the address cannot be used.
    """
    backend = Backend(Library(options.sources, options.device, options.data), Worker())
    page = build(backend)
    try:
        _, address, _ = page.launch(
            server_name=options.host,
            server_port=options.port,
            inbrowser=options.open,
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD,
            state_session_capacity=SESSIONS,
            footer_links=["api"],
            theme=gr.themes.Soft(font=FONT, font_mono=FONT_MONO),
            css_paths=Path(__file__).parent / "page.css",
        )
    except OSError as error:
        raise UserError(
            f"--host {options.host} --port {options.port}: cannot be used ({error}); choose others"
        ) from error
    return page, address


def serve(options: argparse.Namespace) -> None:
    """Start the server and wait for Ctrl-C or SIGTERM; then delete the temporary files."""
    with tempfile.TemporaryDirectory(prefix="maquette-playground-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        page, address = start(options)
        if options.host not in LOOPBACK:
            print(
                f"warning: everybody who can reach {options.host} can use the playground",
                file=sys.stderr,
            )
        print(f"playground: {address} (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(file=sys.stderr)
        finally:
            page.close()
