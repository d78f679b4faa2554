"""OpenMoji as two domains: line drawings (a) and colour images (b) of the same glyphs."""

import itertools
from typing import Any

import torch

from datamodules.images.base import InMemoryImages
from datamodules.images.openmoji import OpenMoji
from datamodules.pairs.base import PairDataModule
from datamodules.splits import split_share


class OpenMojiPairs(PairDataModule):
    """Line drawings and colour images of emoji on white.

    Skin tones and flags are left out, because a drawing does not determine their colours. The split
    is `drawing` of `OpenMoji`: a held-out glyph has neither the image nor the line drawing of a
    training glyph. Unpaired training uses the drawings of one half of the families and the colour
    images of the other half, so no glyph is in both. Validation and test images are always pairs:
    translations are compared with the true images.

    Args:
        **kwargs: Arguments of `PairDataModule`.
    """

    embedded = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        home = str(self.root)
        self.sources = {
            side: (
                OpenMoji(side, "line", split_by="drawing", neutral=True, root=home),
                OpenMoji(side, "color", split_by="drawing", neutral=True, root=home),
            )
            for side in {self.load_size, self.size}
        }

    def prepare_data(self) -> None:
        for source in itertools.chain.from_iterable(self.sources.values()):
            source.prepare_data()

    def load_domains(self, split: str) -> tuple[InMemoryImages, InMemoryImages, bool]:
        drawings, colours = self.sources[self.load_size if split == "train" else self.size]
        line, colour = drawings.load_split(split), colours.load_split(split)
        if self.paired or split != "train":
            return line, colour, True
        families = [colours.families[colours.codes[row]] for row in colours.rows(split)]
        drawn = torch.tensor([split_share(f"line {family}") < 0.5 for family in families])
        return line.subset(drawn.nonzero()[:, 0]), colour.subset((~drawn).nonzero()[:, 0]), False
