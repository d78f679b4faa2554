"""Results as HTML. Images are parts of the text, so the playground writes no files."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import torch
from PIL import Image
from torch import Tensor

from common.images import are_points, grid

MIN_WIDTH, MAX_WIDTH = 96, 320  # of a shown image, in CSS pixels
LARGE = 4  # number of images up to which they are shown with MAX_WIDTH
DARKEST = 0.85  # opacity of the mark of a token with the highest score


def data_url(image: Tensor) -> str:
    """Return a uint8 image (3, H, W) as a `data:` URL in PNG format."""
    file = io.BytesIO()
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def to_uint8(image: Tensor) -> Tensor:
    """Convert an image (C, H, W) in [-1, 1] to uint8 (3, H, W)."""
    scaled = image.detach().float().cpu().clamp(-1, 1).add(1).mul(127.5).round()
    return scaled.to(torch.uint8).expand(3, -1, -1)


def picture(image: Tensor, text: str, width: int | None = None, caption: str = "") -> str:
    """Return a uint8 image (3, H, W) as an HTML figure.

    Args:
        image: Image to show.
        text: Description for screen readers.
        width: Width in CSS pixels; None is for plots, which are shown in their own size.
        caption: Text below the image.
    """
    size = ' class="smooth"' if width is None else f' style="width:{width}px"'
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    source = data_url(image)
    return f'<figure><img src="{source}" alt="{escape(text)}"{size}>{below}</figure>'


def gallery(outputs: Tensor, captions: Sequence[str] = ()) -> str:
    """Return images as a list of HTML figures.

    Args:
        outputs: Images (N, C, H, W) in [-1, 1], strips of images (N, S, C, H, W), or points
            (N, 2, 1, 1) of 2-D data, which are shown in one plot.
        captions: Text below each image or strip, or none.
    """
    captions = captions or [""] * len(outputs)
    if are_points(outputs):
        return picture(grid(outputs), f"plot of {len(outputs)} samples")
    width = MAX_WIDTH if len(outputs) <= LARGE else MIN_WIDTH
    width = min(MAX_WIDTH, max(width, outputs.shape[-1]))
    if outputs.dim() == 5:
        strips = (torch.cat(list(map(to_uint8, strip)), 2) for strip in outputs)
        side = max(MIN_WIDTH * 2 // 3, outputs.shape[-1])
        parts = [
            picture(strip, f"strip of images, {caption}", side * outputs.shape[1], caption)
            for strip, caption in zip(strips, captions)
        ]
    else:
        parts = [
            picture(to_uint8(image), f"image, {caption}", width, caption)
            for image, caption in zip(outputs, captions)
        ]
    return f'<div class="gallery">{"".join(parts)}</div>'


def texts(outputs: Sequence[str], captions: Sequence[str]) -> str:
    """Return texts as a list of HTML blocks, each with a caption."""
    return "".join(
        f'<p class="caption">{escape(caption)}</p><pre class="text">{escape(text)}</pre>'
        for text, caption in zip(outputs, captions)
    )


def visible(token: str) -> str:
    """Return a token with a visible line break, escaped for HTML."""
    return escape(token).replace("\n", "↵<br>")


def generated_token(token: str, alternatives: Iterable[tuple[str, float]]) -> str:
    """Return a generated token as HTML that shows the most probable tokens on hover.

    Args:
        token: Generated text.
        alternatives: Most probable tokens at this position and their probabilities.
    """
    rows = "".join(
        f"<tr><td>{escape(repr(other))}</td><td>{probability:.1%}</td></tr>"
        for other, probability in alternatives
    )
    tip = f'<span class="alternatives" role="tooltip"><table>{rows}</table></span>'
    return f'<span class="token" tabindex="0">{visible(token)}{tip}</span>'


def scored_tokens(scores: Sequence[tuple[str, float]], unit: str, highest: float) -> str:
    """Return tokens with their scores as HTML: the darker the mark, the higher the score.

    Args:
        scores: Tokens and their scores.
        unit: Meaning of the scores, such as "surprisal in nats".
        highest: Score of the darkest mark.
    """
    parts = []
    for token, score in scores:
        opacity = min(1.0, max(0.0, score / highest)) * DARKEST
        parts.append(
            f'<span class="token" tabindex="0" style="background:rgba(234,88,12,{opacity:.2f})">'
            f'{visible(token)}<span class="alternatives" role="tooltip">{score:.2f}</span></span>'
        )
    return f'<div class="written">{"".join(parts)}</div><p class="caption">{escape(unit)}</p>'


def paragraph(text: str) -> str:
    """Return a text as an HTML paragraph."""
    return f"<p>{escape(text)}</p>"


def columns(parts: Iterable[tuple[str, str]]) -> str:
    """Return pairs of a title and HTML side by side, each HTML below its title."""
    inner = "".join(f"<section><h3>{escape(name)}</h3>{part}</section>" for name, part in parts)
    return f'<div class="columns">{inner}</div>'
