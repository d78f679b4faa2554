"""HTTP API of the playground, for scripts: the names of checkpoints, and samples of one of them.

`gradio_client` calls it: `Client(address).predict(checkpoint, [0, 1], {}, api_name="/sample")`.
"""

from typing import Any

import gradio as gr
from torch import Tensor

from cli.options import is_tensor, sample_parameters
from cli.playground import html
from cli.playground.form import MAX_SAMPLES, MAX_SEED, integer, parser_of
from cli.playground.panels.base import Backend
from cli.playground.panels.samples import CHUNK, samples
from common.errors import UserError
from common.images import grid


def strip(image: Tensor) -> Tensor:
    """Return an image (C, H, W), or a strip of images (S, C, H, W), as one uint8 image."""
    return grid(image if image.dim() == 4 else image[None])


def add_api(backend: Backend) -> None:
    """Add the functions of the API to the page."""

    def checkpoints() -> list[str]:
        """Return the names of all checkpoints."""
        return list(backend.library.checkpoints())

    def sample(checkpoint: str, seeds: list[int], options: dict[str, Any]) -> list[str]:
        """Return samples of a checkpoint, one per seed: texts, or PNG images as data URLs.

        The options are those of `sample.py`, such as `{"temperature": 0.8}`; images are left out.
        """
        loaded = backend.library.load(checkpoint)
        if not isinstance(seeds, list) or not 1 <= len(seeds) <= MAX_SAMPLES:
            raise UserError(f"seeds must be a list of 1 to {MAX_SAMPLES} integers")
        wanted = list(map(integer("seed", 0, MAX_SEED), seeds))
        parameters = sample_parameters(loaded.model.sample)
        known = {name: one for name, one in parameters.items() if not is_tensor(one)}
        for name in options:
            if name not in known:
                raise UserError(
                    f"{name!r:.40}: there is no such option; use {', '.join(known) or 'none'}"
                )
        values = {name: parser_of(known[name])(value) for name, value in options.items()}
        found: list[str] = []
        for start in range(0, len(wanted), CHUNK):
            part = slice(start, start + CHUNK)
            given = {  # a list may have one value per seed
                name: one[part] if isinstance(one, list) and len(one) == len(wanted) else one
                for name, one in values.items()
            }
            for one in samples(loaded, given, wanted[part]):
                image = isinstance(one, Tensor)
                found.append(html.data_url(strip(one)) if image else one)
        return found

    gr.api(backend.worker.call(checkpoints), api_name="checkpoints")
    gr.api(backend.worker.call(sample), api_name="sample")
