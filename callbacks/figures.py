"""Render matplotlib figures as images, without a display."""

from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def panels(rows: int, columns: int, *, figsize: tuple[float, float], **options: Any) -> Any:
    """Create a figure and an array of axes with shape (rows, columns).

    The figure is no part of pyplot's state, so it does not influence the figures of a notebook.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        figsize: Width and height in inches.
        **options: Arguments of `Figure.subplots`, such as `sharey`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, dpi=100)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def figure_to_image(figure: Any, tight: bool = True) -> Tensor:
    """Render a figure as a uint8 image (3, H, W) with 100 pixels per inch.

    Args:
        figure: Figure of matplotlib.
        tight: Whether to cut off empty borders, which takes a second rendering.
    """
    if not tight:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1)
    buffer = BytesIO()
    # Fast compression: the image is decoded and compressed again.
    options = {"compress_level": 1}
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", pil_kwargs=options)
    return torch.from_numpy(np.array(Image.open(buffer).convert("RGB"))).permute(2, 0, 1)
