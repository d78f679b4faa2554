"""HTTP API of the playground, for scripts: the names of checkpoints, and samples of one of them.

`gradio_client` calls it: `Client(address).predict(checkpoint, [0, 1], {}, api_name="/sample")`.
"""

from typing import Any

import gradio as gr
from torch import Tensor

from cli.options import is_tensor, sample_parameters
from cli.playground import html
from cli.playground.form import MAX_SAMPLES, MAX_SEED, integer, parser_of
from cli.playground.panels.base import Studio
from cli.playground.panels.samples import samples
from common.errors import UserError
from common.images import grid


def add_api(studio: Studio) -> None:
    """Add the functions of the API to the page."""

    def checkpoints() -> list[str]:
        """Return the names of all checkpoints."""
        return list(studio.library.checkpoints())

    def sample(checkpoint: str, seeds: list[int], options: dict[str, Any]) -> list[str]:
        """Return samples of a checkpoint, one per seed: texts, or PNG images as data URLs.

        The options are those of `sample.py`, such as `{"temperature": 0.8}`; images are left out.
        """
        loaded = studio.library.load(checkpoint)
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
        outputs = samples(loaded, values, wanted)
        if not isinstance(outputs, Tensor):
            return list(outputs)
        return [html.data_url(grid(one if one.dim() == 4 else one[None])) for one in outputs]

    gr.api(studio.worker.call(checkpoints), api_name="checkpoints")
    gr.api(studio.worker.call(sample), api_name="sample")
