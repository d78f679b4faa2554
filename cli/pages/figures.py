"""Figures of docs/concepts/ and docs/systems/: `python pages.py figures` draws them.

Two figures need no trained model. The others show trained models, and are drawn only if their runs
are on disk. Their pages have the commands that train them.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from callbacks.figures import panels
from cli.data import data_module
from common.files import ROOT
from common.images import grid
from lightning_modules import load
from lightning_modules.nn.convolution import transposed_size
from lightning_modules.vae import importance_bound, normal_log_density, standard_normal_kl
from metrics.classifier import train_classifier
from metrics.modes import modes_covered

DOCS = ROOT / "docs"
RUNS = ROOT / "runs"
SAMPLERS = [("ddpm", 1000), ("ddpm", 100), ("ddim", 50), ("ddim", 20), ("heun", 20), ("heun", 5)]
CLASSIFIER_EPOCHS = 3  # as in configs/_reproduce/classifier-mnist-accuracy.yaml


def overlap() -> Any:
    """Draw how many input pixels reach each output pixel of a transposed convolution, stride 2."""
    figure, axes = panels(1, 3, figsize=(8.5, 3.1))
    for axis, (kernel, padding, extra) in zip(axes[0], ((3, 1, 1), (4, 1, 0), (5, 2, 1))):
        layer = nn.ConvTranspose2d(1, 1, kernel, 2, padding, extra, bias=False)
        nn.init.ones_(layer.weight)
        count = layer(torch.ones(1, 1, 6, 6))[0, 0].detach()
        assert len(count) == transposed_size(6, kernel, 2, padding, extra) == 12
        axis.imshow(count, "Blues", vmin=0, vmax=12)
        axis.set(xticks=[], yticks=[])
        added = f", output padding {extra}" if extra else ""
        axis.set_title(f"kernel {kernel}, padding {padding}{added}", fontsize=9)
        for (row, column), value in np.ndenumerate(count.numpy()):
            axis.text(column, row, int(value), fontsize=7, ha="center", va="center")
    figure.tight_layout()
    return figure


def kl() -> Any:
    """Draw both directions of KL for two Gaussians, and the best Gaussian for a mixture of two."""
    figure, ((left, right),) = panels(1, 2, figsize=(8.5, 3.1))
    sigma = torch.linspace(0.15, 3, 200)[:, None]  # (200, D = 1)
    zero, log_var = torch.zeros_like(sigma), 2 * sigma.log()
    left.plot(sigma, standard_normal_kl(zero, log_var), label="KL(q || p)")
    left.plot(sigma, standard_normal_kl(zero, -log_var), label="KL(p || q)")  # x divided by sigma
    left.set(xlabel="standard deviation of q", ylabel="nats", ylim=(0, 6))
    left.set_title("q = N(0, sigma²), p = N(0, 1)", fontsize=10)

    x = torch.linspace(-7, 7, 561)[:, None, None, None]
    parts = [math.log(w) + normal_log_density(x, m, -0.7) for w, m in ((0.6, -1.8), (0.4, 1.8))]
    log_p = torch.logaddexp(*parts)  # (561, 1, 1)
    mean = torch.linspace(-4, 4, 81)[:, None, None]
    log_q = normal_log_density(x, mean, 2 * torch.linspace(0.3, 4, 75)[:, None].log())
    right.fill_between(x.flatten(), log_p.exp().flatten(), color="0.85", label="p")
    for name, one, other in (("q || p", log_q, log_p), ("p || q", log_p, log_q)):
        divergence = (one.exp() * (one - other)).sum(0)  # (81, 75), for all means and deviations
        best = log_q.flatten(1)[:, divergence.argmin()]
        right.plot(x.flatten(), best.exp(), label=f"q of least KL({name})")
    right.set(xlim=(-6, 6), ylim=(0, 0.65), yticks=[])
    right.set_title("p = mixture of two Gaussians, q = one Gaussian", fontsize=10)
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def bayes(run: Path) -> Any:
    """Draw samples of p(x|y), and p(y|x) of four images by Bayes' rule and by a classifier."""
    from matplotlib.figure import Figure

    model, data = load(run / "checkpoints" / "last.ckpt"), data_module(run / "config.yaml")
    train = data.split("train")
    classifier = train_classifier(
        train.images, train.labels, model.classes, epochs=CLASSIFIER_EPOCHS
    )
    torch.manual_seed(0)
    image = data.batch("test", range(100))["image"]
    entropy = torch.special.entr(model.classify(image).exp()).sum(1)
    first, unsure = image[0], image[entropy.argmax()]
    shown = {
        "first test digit": first,
        "least certain of 100": unsure,
        "first, turned by 90°": first.rot90(1, (1, 2)),
        "first, inverted": -first,
    }
    images = torch.stack(list(shown.values()))
    log_joint = joint(model, images)  # (4, classes)

    figure = Figure(figsize=(8.5, 4.4), dpi=100, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 2.6))
    top, bottom = parts
    samples = torch.cat([model.sample(range(2), label=label) for label in range(model.classes)])
    rows = samples.unflatten(0, (model.classes, 2)).transpose(0, 1).flatten(0, 1)
    axis = top.subplots()
    axis.imshow(grid(rows, model.classes).permute(1, 2, 0))
    axis.set_title("p(x|y): two images of each class", fontsize=10)
    axis.set_axis_off()
    pairs = zip(shown, images, log_joint, classifier(images).softmax(1).detach())
    columns = bottom.subplots(2, 4).T
    for axes, (name, one, scores, learnt) in zip(columns, pairs):
        axes[0].imshow(one[0], "gray")
        axes[0].set(xticks=[], yticks=[])
        axes[0].set_title(f"{name}\nlog p(x) = {scores.logsumexp(0):.0f} nats", fontsize=9)
        digits = torch.arange(model.classes)
        axes[1].bar(digits - 0.2, scores.softmax(0), 0.4, label="Bayes' rule")
        axes[1].bar(digits + 0.2, learnt, 0.4, label="classifier")
        axes[1].set(ylim=(0, 1.05), xticks=range(model.classes), yticks=(0, 1))
        axes[1].tick_params(labelsize=7)
    columns[0][1].legend(frameon=False, fontsize=7, loc="upper left")
    return figure


@torch.no_grad()
def joint(model: Any, images: Tensor, k: int = 100) -> Tensor:
    """Return log p(x|y) + log p(y) (N, classes) in nats, from k samples of z per class."""
    labels = torch.arange(model.classes)[:, None].expand(-1, len(images))
    bounds = [importance_bound(model.log_weight(images, k, label)) for label in labels]
    return torch.stack(bounds, 1) - math.log(model.classes)


def electra(run: Path) -> Any:
    """Draw validation texts with replaced tokens, and the probability that each was replaced."""
    model, data = load(run / "checkpoints" / "last.ckpt"), data_module(run / "config.yaml")
    tokens, length = model.texts(data.batch("val", range(6)))
    with torch.no_grad():
        output = model(tokens, length, generator=torch.Generator().manual_seed(0))
    spell = model.tokenizer.token
    figure, ((axis,),) = panels(1, 1, figsize=(8.5, 0.55 * len(tokens)))
    for row, size in enumerate(length.tolist()):
        x = 0.0
        probability = output.replaced_logits[row].sigmoid().tolist()
        for position in range(1, size - 1):  # without <bos> and <eos>
            true, seen = (
                spell(int(one[row, position])).strip() for one in (tokens, output.corrupt)
            )
            width = max(len(seen), 1) + 1.0
            box = {"facecolor": (1, 0.3, 0.2, probability[position]), "pad": 1.5}
            box["edgecolor"] = "black" if seen != true else "none"
            style = {"family": "monospace", "ha": "center", "va": "center"}
            axis.text(x + width / 2, row, seen, bbox=box, fontsize=8, **style)
            if seen != true:
                axis.text(x + width / 2, row + 0.42, true, fontsize=6, color="0.35", **style)
            x += width
    axis.set(xlim=(0, 86), ylim=(len(tokens) - 0.3, -0.6))
    axis.set_axis_off()
    return figure


def ring(run: Path) -> Any:
    """Draw samples of two GANs and real points: the run `collapse` beside `run`, and `run`."""
    figure, (axes,) = panels(1, 2, figsize=(8.2, 4.4))
    for axis, folder in zip(axes, (run.with_name("collapse"), run)):
        model, data = (
            load(folder / "checkpoints" / "last.ckpt"),
            data_module(folder / "config.yaml"),
        )
        real, points = data.split("val").images, model.sample(range(1000))
        modes, near = modes_covered(points.flatten(1), data.centres, data.deviation)
        for group, colour, label in ((real, "0.75", "real"), (points, "C3", "generated")):
            axis.scatter(*group.flatten(1).T, s=4, color=colour, label=label)
        axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[], yticks=[])
        axis.set_title(
            f"{modes} of {data.modes} modes, {near:.0%} of the samples near one", fontsize=11
        )
    axes[0].legend(loc="center", frameon=False, markerscale=3)
    figure.tight_layout()
    return figure


def samplers(run: Path) -> Any:
    """Draw images of a diffusion model from the same seeds, one row per sampler and step count."""
    model = load(run / "checkpoints" / "last.ckpt")
    figure, axes = panels(len(SAMPLERS), 1, figsize=(8.5, 0.75 * len(SAMPLERS)))
    for axis, (sampler, steps) in zip(axes[:, 0], SAMPLERS):
        images = model.sample(range(12), sampler=sampler, steps=steps)
        axis.imshow(grid(images, 12).permute(1, 2, 0))
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(f"{sampler}\n{steps} steps", rotation=0, ha="right", va="center")
    figure.tight_layout(pad=0.3)
    return figure


def inpainting(run: Path) -> Any:
    """Draw held-out images, the same without their lower half, and three new lower halves."""
    model, data = load(run / "checkpoints" / "last.ckpt"), data_module(run / "config.yaml")
    image = data.batch("val", range(0, 480, 40))["image"]
    mask = torch.zeros_like(image[:, :1])
    mask[:, :, mask.shape[2] // 2 :] = 1
    rows = [image, torch.where(mask > 0, 0.0, image)]
    for first in (0, 12, 24):
        seeds = range(first, first + len(image))
        rows.append(model.sample(seeds, sampler="ddpm", steps=200, image=image, mask=mask))
    figure, ((axis,),) = panels(1, 1, figsize=(8.5, 3.7))
    axis.imshow(grid(torch.cat(rows), len(image)).permute(1, 2, 0))
    axis.set_axis_off()
    figure.tight_layout(pad=0.3)
    return figure


def draw_all() -> list[str]:
    """Draw the figures, those of runs only if the checkpoint exists; return their file names."""
    of_runs: dict[str, tuple[Callable[[Path], Any], Path]] = {
        "bayes-mnist.png": (bayes, RUNS / "bayes"),
        "electra-multi30k.png": (electra, RUNS / "electra_multi30k"),
        "gan-ring.png": (ring, RUNS / "ring"),
        "diffusion-samplers.png": (samplers, RUNS / "gallery/diffusion"),
        "diffusion-inpainting.png": (inpainting, RUNS / "gallery/diffusion"),
    }
    drawn = {"transposed-overlap.png": overlap(), "kl-directions.png": kl()}
    for name, (draw, run) in of_runs.items():
        if (run / "checkpoints" / "last.ckpt").is_file():
            drawn[name] = draw(run)
    for name, figure in drawn.items():
        figure.savefig(DOCS / name, dpi=100, bbox_inches="tight", metadata={"Software": None})
    return list(drawn)
