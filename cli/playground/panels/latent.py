"""Panels of systems with a latent space: sliders and a map, and interpolation between images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import torch
from torch import Tensor

from cli.data import unseen_batch
from cli.playground import html
from cli.playground.canvas import canvas, read_canvas
from cli.playground.form import Form, integer
from cli.playground.library import Loaded
from cli.playground.panels.base import Backend, Panel, add_test_button
from cli.playground.worker import Show
from common.errors import UserError
from common.images import grid
from lightning_modules.core.latent_space import decode_strips, interpolate

IMAGES = 512  # number of test images whose latent vectors determine the axes
SLIDERS = 8  # maximum number of sliders
SPAN = 3.0  # range of a slider in standard deviations
SIDE = 13  # number of images in a row of the map
MAX_STEPS = 16
MIN_COLUMN = 220  # minimum width of a column in CSS pixels
MAP = '<div class="map"><img src="{source}" alt="Decoded images of a plane of the latent space">'
MAP += '<span class="marker"></span></div>'
SCRIPT = Path(__file__).parent.parent / "map.js"


class Axes(NamedTuple):
    """Coordinates of a latent space.

    Attributes:
        origin: Latent vector (D,) where all sliders are 0.
        directions: Latent vectors (K, D), by which a slider moves per unit.
        names: Description of each direction.
    """

    origin: Tensor
    directions: Tensor
    names: list[str]

    def point(self, values: Tensor) -> Tensor:
        """Return latent vectors (..., D) of slider values (..., J), J <= K."""
        return self.origin + values.to(self.origin) @ self.directions[: values.shape[-1]]


def classes_of(model: Any) -> int:
    """Return the number of classes of a conditional system, 0 for others."""
    return int(getattr(model, "classes", 0))


def labels(model: Any, value: Any, count: int) -> list[Tensor]:
    """Return the labels (count,) that `encode` and `decode` of a conditional system need."""
    classes = classes_of(model)
    if not classes:
        return []
    return [torch.full((count,), integer("label", 0, classes - 1)(value), device=model.device)]


def axes_of(loaded: Loaded) -> Axes:
    """Return the principal components of the latent vectors of test images.

    A unit of a slider is a standard deviation. Without data, the axes are the first coordinates.
    """
    model = loaded.model
    try:
        batch = unseen_batch(model, loaded.config, list(range(IMAGES)), None)
        own = [batch["label"].to(model.device)] if classes_of(model) else []
        codes = model.encode(batch["image"].to(model.device), *own).float()
    except UserError:
        count = min(SLIDERS, model.latent_dim)
        unit = torch.eye(model.latent_dim, device=model.device)[:count]
        names = ["latent coordinate"] * count
        return Axes(torch.zeros_like(unit[0]), unit, names)
    origin = codes.mean(0)
    _, sizes, directions = torch.linalg.svd(codes - origin, full_matrices=False)
    variances = sizes.square() / len(codes)
    shares = variances / variances.sum()
    count = min(SLIDERS, len(sizes))
    names = [f"{share:.0%} of the variance" for share in shares[:count]]
    return Axes(origin, directions[:count] * variances[:count, None].sqrt(), names)


def decoded(model: Any, axes: Axes, values: list[float], label: Any) -> str:
    """Return the decoded image of a point as HTML."""
    image = model.decode(axes.point(torch.tensor([values])), *labels(model, label, 1))[0]
    return html.gallery(image[None])


def map_image(model: Any, axes: Axes) -> str:
    """Return decoded images of the plane of the first two axes as a `data:` URL."""
    line = torch.linspace(-SPAN, SPAN, SIDE)
    y, x = torch.meshgrid(line.flip(0), line, indexing="ij")
    plane = torch.stack([x, y], -1)[..., : len(axes.directions)]  # (SIDE, SIDE, 1 or 2)
    images = decode_strips(model, axes.point(plane), *labels(model, 0, SIDE))
    return html.data_url(grid(images.flatten(0, 1), columns=SIDE))


def applies(model: Any) -> bool:
    """Return whether a system has a latent space."""
    return bool(model.has_latent_space)


def build(loaded: Loaded, backend: Backend) -> None:
    """Create the sliders, the map and the decoded image, which follows them at once."""

    def prepare() -> tuple[Axes, str, str]:
        model = loaded.model
        with torch.no_grad(), model.averaged_weights():
            axes = axes_of(loaded)
            start = decoded(model, axes, [0.0] * len(axes.names), 0)
            return axes, map_image(model, axes), start

    axes, source, start = backend.worker.call(prepare)()
    key, classes = loaded.key, classes_of(loaded.model)
    with gr.Row():
        with gr.Column(scale=2, min_width=MIN_COLUMN):
            sliders = [
                gr.Slider(-SPAN, SPAN, 0.0, step=0.05, label=f"Component {number}", info=name)
                for number, name in enumerate(axes.names, 1)
            ]
            label = gr.Slider(
                0,
                max(1, classes - 1),
                0,
                step=1,
                label="Label",
                info="Class of the decoded image.",
                visible=classes > 0,
            )
        with gr.Column(scale=2, min_width=MIN_COLUMN):
            image = gr.HTML(start, elem_classes="result")
        with gr.Column(scale=3, min_width=MIN_COLUMN):
            plane = gr.HTML(
                "0,0",
                html_template=MAP.format(source=source),
                js_on_load=SCRIPT.read_text(encoding="utf-8"),
            )
            which = " of label 0" if classes else ""
            gr.Markdown(f"Decoded images{which}: component 1 to the right, 2 up. Drag the mark.")

    def show(given: Any, values: list[Any]) -> str:
        points = [float(value) for value in values]
        model = backend.library.load(key).model
        with torch.no_grad(), model.averaged_weights():
            return decoded(model, axes, points, given)

    def moved(given: Any, *values: Any) -> tuple[str, str]:
        mark = [value / SPAN for value in (*values, 0.0)[:2]]
        return show(given, list(values)), f"{mark[0]},{mark[1]}"

    def dragged(place: Any, given: Any, *values: Any) -> tuple[Any, ...]:
        try:
            at = [round(SPAN * float(part), 2) for part in str(place).split(",")][: len(values)]
        except ValueError as error:
            raise UserError("the position on the map must be two numbers") from error
        now = [*at, *values[len(at) :]]
        return show(given, now), *now[:2]

    fast: dict[str, Any] = {
        "trigger_mode": "always_last",
        "show_progress": "hidden",
        "queue": False,
    }
    gr.on(
        [one.input for one in (*sliders, label)],
        backend.worker.call(moved),
        [label, *sliders],
        [image, plane],
        **fast,
    )
    plane.input(
        backend.worker.call(dragged), [plane, label, *sliders], [image, *sliders[:2]], **fast
    )


def interpolation_form(loaded: Loaded, backend: Backend) -> Form:
    """Create two canvases and a field for the number of steps."""
    fields = Form()
    with gr.Row():
        for name in ("start", "end"):
            with gr.Column():
                drawing = fields.add(name, canvas(name.capitalize()))
                add_test_button(drawing, loaded.key, backend, lambda: "image")
    steps = gr.Slider(3, MAX_STEPS, 9, step=1, label="Steps", info="Number of images.")
    fields.add("steps", steps, integer("steps", 3, MAX_STEPS))
    if classes := classes_of(loaded.model):
        label = gr.Slider(0, classes - 1, 0, step=1, label="Label", info="Class of all images.")
        fields.add("label", label, integer("label", 0, classes - 1))
    return fields


def interpolated(loaded: Loaded, values: Mapping[str, Any], show: Show, backend: Backend) -> None:
    """Show images decoded on the line between the latent vectors of the two images."""
    model = loaded.model
    found = [read_canvas(values[name], model.hparams.image_shape)[0] for name in ("start", "end")]
    if any(one is None for one in found):
        raise UserError("draw two images, or load two test images")
    images = torch.stack(found).to(model.device)  # type: ignore[arg-type]
    given = labels(model, values.get("label"), 2)
    with torch.no_grad():
        start, end = model.encode(images, *given)
        strip = interpolate(model, start[None], end[None], values["steps"], *(g[:1] for g in given))
    show(html.gallery(strip, ["decoded images from start to end"]))


INTERPOLATE = Panel(
    "Interpolate between images", "Interpolate", applies, interpolation_form, interpolated
)
