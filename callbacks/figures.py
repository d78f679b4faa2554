"""Render matplotlib figures as images, without a display."""

from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def panels(rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
    """Create a figure and an array of axes with shape (rows, columns)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, squeeze=False, **options)


def figure_to_image(figure: Any) -> Tensor:
    """Render a figure as a uint8 image (3, H, W), then close the figure."""
    import matplotlib.pyplot as plt

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    return torch.from_numpy(np.array(Image.open(buffer).convert("RGB"))).permute(2, 0, 1)
