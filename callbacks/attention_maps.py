"""Plots of attention weights, with tokens on the axes."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.figures import figure_to_image, panels
from callbacks.preview_batch import preview_batch
from callbacks.previews import title_of
from callbacks.publish import publish
from lightning_modules.nn.attention import AttentionMap


def heat_map(attention: AttentionMap, title: str = "", max_heads: int = 4) -> Tensor:
    """Plot attention weights, one panel per head.

    Args:
        attention: Attention weights (H, R, C) of H heads, with the tokens of queries and keys.
        title: Title of the figure.
        max_heads: Maximum number of heads shown.

    Returns:
        uint8 image (3, H, W), from white for a weight of 0 to black for a weight of 1.
    """
    weights = attention.weights[:max_heads].float().cpu()
    heads, rows, columns = weights.shape
    size = (heads * (1.2 + 0.22 * columns), 1.2 + 0.22 * rows)
    figure, axes = panels(1, heads, figsize=size, sharey=True)
    for number, (panel, head) in enumerate(zip(axes[0], weights), 1):
        panel.imshow(head.numpy(), cmap="Greys", vmin=0, vmax=1, aspect="auto")
        panel.set_xticks(
            range(columns), [label(word) for word in attention.columns], rotation=90, fontsize=8
        )
        panel.set_yticks(range(rows), [label(word) for word in attention.rows], fontsize=8)
        if heads > 1:
            panel.set_title(f"head {number}", fontsize=8)
        panel.set_xlabel("attends to", fontsize=8)
    axes[0][0].set_ylabel("from", fontsize=8)
    figure.suptitle(title, fontsize=9, y=1.0, va="bottom")
    return figure_to_image(figure)


def label(word: str) -> str:
    """Return a token as an axis label: spaces and line breaks become visible, `$` is escaped."""
    return word.replace(" ", "\u2423").replace("\n", "\\n").replace("$", "\\$")


class AttentionMaps(Callback):
    """Plots the attention weights of one validation sample when training ends.

    It runs for systems with a method `attention_maps(batch)`.
    """

    @staticmethod
    def watches(module: LightningModule) -> bool:
        """Return whether a system has a method `attention_maps`."""
        return hasattr(module, "attention_maps")

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            maps = pl_module.attention_maps(preview_batch(trainer, 1))
            for name, attention in maps.items():
                step = trainer.global_step
                title = title_of(pl_module, f"attention weights, {name}", step)
                publish(trainer, f"attention-{name}", heat_map(attention, title), step, title)
