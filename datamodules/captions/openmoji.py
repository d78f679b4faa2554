"""Data module of emoji with their names as captions."""

from collections.abc import Callable
from typing import Any

import torch

from datamodules.captions.base import CaptionedImageDataset, CaptionedImages
from datamodules.images.base import InMemoryImages
from datamodules.images.emoji import GROUPS, check_language, emoji_names
from datamodules.images.openmoji import EmojiSize, OpenMoji
from datamodules.usage_report import note


class CaptionedEmoji(CaptionedImages):
    """Colour emoji, captioned with their names in one of 14 languages.

    Emoji are split as by `OpenMoji(split_by="composition")`: names of validation and test emoji are
    new combinations of words that occur in training names. An emoji is left out if its image does
    not show the skin tones in its name, because another emoji, with other tones or none, has the
    same image. A message gives the number of emoji left out of each split. The three splits
    together leave out 40 emoji: two people with bunny ears, or wrestling, of different skin tones.

    Args:
        Corpus:
        size: Height and width in pixels, 8 to 512.
        language: Language code of the names, such as en, de or ko.
        group_captions: Append the Unicode group of an emoji, such as "food & drink", to one in four
            training captions.
        **kwargs: Arguments of `CaptionedImages`.

    Raises:
        UserError: If emoji have no names in `language`.
    """

    embedded = True
    licence = "OpenMoji (openmoji.org), CC BY-SA 4.0"
    provides = (*CaptionedImages.provides, "num_classes")

    def __init__(
        self,
        size: EmojiSize = 32,
        language: str = "en",
        group_captions: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_language("data.language", language)
        self.language, self.group_captions = language, group_captions
        self.source = OpenMoji(size, split_by="composition", named=True, root=str(self.root))
        self.image_shape = [3, self.source.size, self.source.size]

    @property
    def data_spec(self) -> dict[str, Any]:
        return {**super().data_spec, "num_classes": len(GROUPS)}

    def prepare_data(self) -> None:
        self.source.prepare_data()

    def load_split(self, split: str) -> CaptionedImageDataset:
        hidden = {
            self.source.codes[row] for row in self.source.rows(split)
        } & self.source.hidden_tones
        if hidden:
            note(
                f"{split}: left out {len(hidden)} emoji whose images do not show the skin tones "
                "of their names"
            )
        return super().load_split(split)

    def read(
        self, split: str
    ) -> tuple[Callable[[list[int]], InMemoryImages], list[list[str]], list[str]]:
        names = emoji_names(self.source.codes, self.language)
        codes = [self.source.codes[row] for row in self.source.rows(split)]
        named = [
            row
            for row, code in enumerate(codes)
            if code in names and code not in self.source.hidden_tones
        ]
        captions = []
        for row in named:
            name, group = names[codes[row]], GROUPS[self.source.groups[codes[row]]]
            captions.append(
                [name, name, name, f"{name}, {group}"] if self.group_captions else [name]
            )

        def make_images(chosen: list[int]) -> InMemoryImages:
            data: InMemoryImages = self.source.split(split)  # type: ignore[assignment]
            return data.subset(
                torch.tensor([named[number] for number in chosen], dtype=torch.int64)
            )

        return make_images, captions, [codes[row] for row in named]
