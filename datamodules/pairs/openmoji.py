"""OpenMoji as two domains: line drawings (a) and colour images (b) of the same emoji."""

import itertools
from typing import Any

import torch

from datamodules.images.base import InMemoryImages
from datamodules.images.openmoji import OpenMoji
from datamodules.pairs.base import PairDataModule
from datamodules.splits import split_share


class OpenMojiPairs(PairDataModule):
    """Line drawings (domain a) and colour images (domain b) of emoji on a white background.

    Flags and emoji with a skin tone are left out, because a drawing does not determine their
    colours. Emoji are split as by `OpenMoji(split_by="drawing")`: no validation or test emoji has
    the same colour image or the same line drawing as a training emoji. Unpaired training uses the
    line drawings of one half of the emoji and the colour images of the other half, so no emoji is
    in both domains. Related emoji, such as a man cook and a woman cook, are in the same half.
    Validation and test images are always pairs, so that translations can be compared with the true
    images.

    Args:
        **kwargs: Arguments of `PairDataModule`.
    """

    embedded = True
    licence = "OpenMoji (openmoji.org), CC BY-SA 4.0"

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
