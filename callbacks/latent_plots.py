"""Plots of the latent space, generated when training ends."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.figures import figure_to_image, panels
from callbacks.preview_batch import preview_batch
from callbacks.previews import title_of
from callbacks.publish import publish
from common.images import captioned
from lightning_modules.core import latent_space as latent
from lightning_modules.core.modes import evaluating
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.seeding import seeded_normal

TITLES = {
    "interpolation": "from one validation image to another, in equal steps of z",
    "traversal": "one coordinate of z from -3 to 3, the others of one image",
    "neighbours": "validation images (left) and their nearest by z",
    "out-of-distribution": "inputs unlike the training images",
    "manifold": "images decoded from a grid over the 2-D prior",
    "histograms": "distribution of each coordinate of z",
    "scatter": "z of validation images, coloured by class",
}


def histograms(codes: Tensor, max_dims: int = 48) -> Tensor:
    """Plot a histogram of each coordinate of latent vectors (N, D), and the density of N(0, 1).

    Where a histogram differs from this density, latent vectors sampled from N(0, 1) differ from the
    latent vectors that the decoder was trained on.
    """
    dims = min(max_dims, codes.shape[1])
    rows = -(-dims // 8)
    height = 1.1 * rows  # inches
    figure, axes = panels(rows, min(8, dims), figsize=(1.4 * min(8, dims), height))
    grid_points = np.linspace(-4, 4, 101)
    for dim, axis in enumerate(axes.flat):
        axis.set(xticks=[], yticks=[], xlim=(-4, 4))
        if dim < dims:
            values = codes[:, dim].clamp(-4, 4).numpy()
            axis.hist(values, bins=40, range=(-4, 4), density=True, color="tab:blue")
            axis.plot(
                grid_points,
                np.exp(-(grid_points**2) / 2) / np.sqrt(2 * np.pi),
                color="black",
                linewidth=0.8,
            )
            axis.set_title(f"z[{dim}]", fontsize=8, pad=1)
        else:
            axis.set_axis_off()
    figure.suptitle(
        "Coordinates of z of validation images (blue) and N(0, 1) (black), from -4 to 4;\n"
        "values beyond are in the first and the last bin",
        fontsize=9,
        y=figure.subplotpars.top + 0.25 / height,  # above the titles of the first row
        va="bottom",
    )
    return figure_to_image(figure)


def scatter(codes: Tensor, labels: Tensor) -> Tensor:
    """Plot 2-d latent vectors (N, 2), coloured by label, and N samples of the prior in grey.

    The left panel shows the coordinates. The right panel shows their values after the cumulative
    distribution function of N(0, 1).
    """
    prior = seeded_normal(list(range(len(codes))), (2,))
    figure, axes = panels(1, 2, figsize=(11, 5))
    changes = {"z": lambda values: values, "Φ(z), uniform for N(0, I)": torch.special.ndtr}
    for axis, (name, change) in zip(axes[0], changes.items()):
        axis.scatter(*change(prior).T.numpy(), s=3, color="lightgrey", label="prior N(0, I)")
        points = axis.scatter(*change(codes).T.numpy(), s=6, c=labels.numpy(), cmap="tab10")
        axis.set_title(f"Validation images: {name}", fontsize=10)
        axis.set(xlabel="z[0]", ylabel="z[1]")
        axis.legend(fontsize=8)
    figure.colorbar(points, ax=list(axes[0]), label="class")
    return figure_to_image(figure)


def neighbours(queries: Tensor, codes: Tensor, image: Tensor, count: int = 8) -> Tensor:
    """Find the images whose codes are nearest to each query.

    Args:
        queries: Codes (Q, D).
        codes: Codes (N, D) of `image`.
        image: Images (N, C, H, W).
        count: Number of images per query; at most N are returned.

    Returns:
        Images (Q, count, C, H, W), nearest first. An image of which the code is a query is its own
        nearest neighbour.
    """
    distance = torch.cdist(queries, codes)  # (Q, N)
    return image[distance.topk(min(count, len(image)), largest=False).indices]


class LatentPlots(Callback):
    """Plots interpolations, traversals, histograms and nearest neighbours when training ends.

    Also plots reconstructions of noise and of a checkerboard; both are unlike the training images.
    For a 2-d latent space, it also plots a grid of decoded latent vectors and a scatter plot.
    Averaged weights are used if the system has them. A conditional system encodes and decodes with
    the labels of the images.

    Args:
        count: Maximum number of validation images encoded for the plots.
    """

    def __init__(self, count: int = 500) -> None:
        self.count = count

    @staticmethod
    def watches(model: LightningModule) -> bool:
        """Return whether a system has a latent space."""
        return isinstance(model, GenerativeModule) and model.has_latent_space

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model: Any = pl_module
        if not trainer.is_global_zero:
            return
        with model.averaged_weights(), evaluating(model):
            batch = preview_batch(trainer, self.count)
            image = batch["image"]
            if len(image) < 2:  # interpolation needs two images
                return
            given = [batch["label"]] if getattr(model, "classes", 0) else []
            codes = model.encode(image, *given)
            chunks = torch.arange(len(image), device=image.device).chunk(16)
            first = torch.stack([chunk[0] for chunk in chunks])  # 16 images, evenly spread
            start, end = first[: len(first) // 2], first[len(first) // 2 : len(first) // 2 * 2]
            active = codes.var(0).topk(min(8, model.latent_dim)).indices.tolist()
            strips = {
                "interpolation": latent.interpolate(
                    model, codes[start], codes[end], 9, *(label[start] for label in given)
                ),
                "traversal": latent.traverse(
                    model, codes[0], active, 9, *(label[:1].expand(len(active)) for label in given)
                ),
                "neighbours": neighbours(codes[start], codes, image),
                "out-of-distribution": self._out_of_distribution(
                    model, image[:1], *(label[:2] for label in given)
                ),
            }
            if model.latent_dim == 2:
                strips["manifold"] = latent.manifold(model, 16)
        rows = {
            "traversal": [f"z[{dim}]" for dim in active],
            "out-of-distribution": ["input", "reconstructed"],
        }
        titles = {
            name: title_of(model, about, trainer.global_step) for name, about in TITLES.items()
        }
        plots = {
            name: captioned(images, titles[name], rows.get(name, ()), columns=16)
            for name, images in strips.items()
        }
        plots["histograms"] = histograms(codes.float().cpu())
        if model.latent_dim == 2:
            plots["scatter"] = scatter(codes.float().cpu(), batch["label"].cpu())
        for name, plot in plots.items():
            publish(trainer, f"latent-{name}", plot, trainer.global_step, titles[name])

    @staticmethod
    def _out_of_distribution(model: Any, like: Tensor, *given: Tensor) -> Tensor:
        """Return noise, a checkerboard and the reconstructions of both, (2, 2, C, H, W).

        A conditional model takes labels (2,) as `given`.
        """
        noise = seeded_normal([0], tuple(like.shape[1:]), like.device).clamp(-1, 1)
        rows, columns = (torch.arange(side, device=like.device) // 4 for side in like.shape[-2:])
        board = ((rows[:, None] + columns) % 2 * 2.0 - 1).expand_as(noise)
        inputs = torch.cat([noise, board])
        return torch.stack([inputs, model.decode(model.encode(inputs, *given), *given)])
