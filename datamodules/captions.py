"""Previews with captions: emoji with their names, a folder of pictures and texts, a table.

A batch holds `image` and `tokens` int64 (N, T), each caption's ids padded to `text_length` with
`pad_id`. A training picture has `VARIANTS` encodings of its captions, of which a batch picks one by
its seed: the first eight of the picture's captions take turns, with `group_captions` some name its
group as well, and with `bpe_dropout` words are cut anew in each of them. Captions, and prompts
alike, are lower-cased with single blanks between their words.
"""

import random
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from datamodules.base import Request, mix_seed
from datamodules.images.base import ImageDataModule, InMemoryImages
from datamodules.images.folder import (
    SUFFIXES,
    FileImages,
    fits_into_memory,
    picture_files,
    read_all,
    read_table,
)
from datamodules.images.openmoji import GROUPS, OpenMoji, check_language, emoji_names, fold
from datamodules.tokenizer import BPETokenizer, encode_caption, tidy

VARIANTS = 8
PAD = "<pad>"  # its id is 0
Previews = InMemoryImages | FileImages


class CaptionedImageDataset:
    """Previews with their captions, gathered a batch at a time.

    Args:
        pictures: all of them.
        captions: the first one of each.
        tokens: (N, R, T) encodings of all of them, padded.

    Attributes:
        encoded: whether the pictures are known already, as codes, and need not be read for a batch.
    """

    def __init__(self, pictures: Previews, captions: list[str], tokens: Tensor) -> None:
        self.pictures, self.captions, self.tokens = pictures, captions, tokens
        self.encoded = False

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitems__(self, request: Request) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(mix_seed(request.seed, "caption"))
        variant = torch.randint(self.tokens.shape[1], (len(request.index),), generator=generator)
        known = (
            {"index": request.index, "seed": request.seed}
            if self.encoded
            else self.pictures.__getitems__(request)
        )
        return {**known, "tokens": self.tokens[request.index, variant].long()}

    def fingerprint(self) -> str:
        """Hash of the pictures."""
        return self.pictures.fingerprint()

    def having(self, attribute: str) -> Tensor:
        """(N,) bool: pictures whose caption contains `attribute` as a whole word or phrase."""
        return torch.tensor(
            [f" {attribute.lower()} " in f" {caption} " for caption in self.captions]
        )


class CaptionedImages(ImageDataModule):
    """Base of all captioned corpora. A subclass provides `image_shape` and `read`.

    Args:
        vocab_size: of the byte-pair encoding that is learnt from the training captions.
        text_length: T, most tokens of a caption.
        bpe_dropout: probability that a merge is left out in training (Provilkov et al. 2020).
        skip: leave out pictures whose captions are missing, empty, too long or of unknown
            characters, and say how many, instead of stopping at the first.
        **kwargs: see `DataModule`.

    Raises:
        UserError: if `bpe_dropout` is no probability.
    """

    image_shape: list[int]

    def __init__(
        self,
        vocab_size: int = 1000,
        text_length: int = 16,
        bpe_dropout: float = 0.0,
        skip: bool = False,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(flip=False, binarize=False, batch_size=batch_size, **kwargs)
        if not 0 <= bpe_dropout < 1:
            raise UserError(f"data.bpe_dropout {bpe_dropout}: give at least 0 and less than 1")
        if text_length < 1:
            raise UserError(f"data.text_length {text_length}: give at least 1")
        self.vocab_size, self.text_length, self.bpe_dropout, self.skip = (
            vocab_size,
            text_length,
            bpe_dropout,
            skip,
        )

    def read(
        self, split: str
    ) -> tuple[Callable[[list[int]], Previews], list[list[str]], list[str]]:
        """What makes the chosen ones of a split's pictures, the captions of each, and how each is
        called in a message.
        """
        raise NotImplementedError

    @property
    def data_spec(self) -> dict[str, Any]:
        vocabulary = {
            "vocab_size": self.tokenizer.vocab_size,
            "text_length": self.text_length,
            "pad_id": 0,
        }
        return {"image_shape": self.image_shape, **vocabulary}

    @cached_property
    def tokenizer(self) -> BPETokenizer:
        """Learnt from the training captions."""
        captions = [tidy(text) for texts in self.read("train")[1] for text in texts]
        return BPETokenizer.train(captions, self.vocab_size, [PAD], whole_alphabet=False)

    def load_split(self, split: str) -> CaptionedImageDataset:
        pictures_of, captions, places = self.read(split)
        numbers = list(range(len(captions)))
        if split == "train" and self.max_samples is not None:
            numbers = sorted(random.Random(0).sample(numbers, min(self.max_samples, len(numbers))))
        rows: dict[int, Tensor] = {}
        for number in numbers:
            try:
                rows[number] = self._encodings(
                    [tidy(text) for text in captions[number]], split, places[number]
                )
            except UserError as error:
                if not self.skip:
                    raise UserError(
                        f"{places[number]}: {error}, or leave such pictures out with data.skip true"
                    ) from error
        if len(rows) < len(numbers):
            print(
                f"{split}: skipped {len(numbers) - len(rows)} of {len(numbers)} pictures, for their captions",
                file=sys.stderr,
            )
        pictures, kept = self._readable(pictures_of(list(rows)), list(rows), split)
        tokens = (
            torch.stack([rows[number] for number in kept])
            if kept
            else torch.empty(0, 1, self.text_length, dtype=torch.int32)
        )
        return CaptionedImageDataset(
            pictures, [tidy(captions[number][0]) for number in kept], tokens
        )

    def _readable(
        self, pictures: Previews, numbers: list[int], split: str
    ) -> tuple[Previews, list[int]]:
        """Previews that are kept in memory where they fit, without those that cannot be read, and
        the numbers of the others.
        """
        if isinstance(pictures, InMemoryImages):
            return pictures, numbers
        keep = fits_into_memory(pictures)
        if not keep and not self.skip:
            return pictures, numbers
        images, usable = read_all(pictures, split, self.skip, keep)
        left = [numbers[i] for i in usable.tolist()]
        return InMemoryImages(images, pictures.labels[usable]) if keep else pictures.subset(
            usable
        ), left

    def batch(self, split: str, index: list[int], *, seed: int = 0) -> dict[str, Any]:
        data: Any = self.split(split)
        encoded, data.encoded = data.encoded, False  # whoever asks for one wants to see it
        try:
            return super().batch(split, index, seed=seed)
        finally:
            data.encoded = encoded

    def _encodings(self, texts: list[str], split: str, place: str) -> Tensor:
        """(R, T) of one picture's captions; one row in evaluation."""
        if not texts:
            raise UserError("has no caption: write one")
        numbers = random.Random(mix_seed(Path(place).name, "bpe"))
        rows = torch.zeros(VARIANTS if split == "train" else 1, self.text_length, dtype=torch.int32)
        for variant, row in enumerate(rows):
            dropped = self.bpe_dropout if variant else 0.0
            ids = encode_caption(
                self.tokenizer, texts[variant % len(texts)], self.text_length, dropped, numbers
            )
            row[: len(ids)] = torch.tensor(ids)
        return rows


class CaptionedEmoji(CaptionedImages):
    """Colour emoji with their names in one of 14 languages, on the split by composition of
    `OpenMoji`.

    Emoji are left out if their image does not show the skin tones of their name: an emoji with
    other tones, or none, has the same image to the pixel. There are 40: people with bunny ears or
    wrestling, of two different tones each. A message counts them.

    Args:
        size: height and width in pixels.
        language: of the names, such as en, de or ko.
        group_captions: let every fourth encoding of a name have its group of Unicode behind it,
            such as "food & drink".
        **kwargs: see `CaptionedImages`.

    Raises:
        UserError: if there is no such language.
    """

    embedded = True

    def __init__(
        self, size: int = 32, language: str = "en", group_captions: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_language("data.language", language)
        self.language, self.group_captions = language, group_captions
        self.source = OpenMoji(size, split_by="composition", named=True, root=str(self.root))
        self.image_shape = [3, size, size]

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
            print(
                f"{split}: left out {len(hidden)} emoji whose images do not show the skin tones of their names",
                file=sys.stderr,
            )
        return super().load_split(split)

    def read(
        self, split: str
    ) -> tuple[Callable[[list[int]], Previews], list[list[str]], list[str]]:
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

        def pictures(kept: list[int]) -> Previews:
            data: InMemoryImages = self.source.split(split)  # type: ignore[assignment]
            return data.subset(torch.tensor([named[number] for number in kept], dtype=torch.int64))

        return pictures, captions, [codes[row] for row in named]


class CaptionedFolder(CaptionedImages):
    """Your own pictures and captions.

    Args:
        path: a folder with `NAME.png` (or another picture) and `NAME.txt` beside it, a caption a
            line, anywhere in it or in `train`, `val` and `test`; or a .csv with the columns file
            and caption, whose files are named from where it lies, a row for each caption. Without
            the three folders an image's split follows from the SHA-256 of its path (80/10/10), so
            that copies of an image under several names may fall into different splits.
        size: height and width in pixels; pictures are cut to their centre square and scaled.
        **kwargs: see `CaptionedImages`.

    Raises:
        UserError: if there are no pictures.
    """

    def __init__(
        self,
        path: str,
        size: int = 64,
        vocab_size: int = 4000,
        text_length: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocab_size=vocab_size, text_length=text_length, **kwargs)
        self.path, self.size, self.image_shape = Path(path).absolute(), size, [3, size, size]
        if not self.path.exists():
            raise UserError(
                f"data.path {path}: there is no such folder or table; give one with pictures and captions"
            )
        self.captions = self._table() if self.path.is_file() else self._folder()
        if not self.captions:
            raise UserError(
                f"data.path {path}: there are no pictures in it; put some there ({', '.join(sorted(SUFFIXES))})"
            )

    def _folder(self) -> dict[Path, list[str]]:
        """Captions of each picture; none where there is no text beside it."""
        found: dict[Path, list[str]] = {}
        for path in picture_files(self.path):
            text = path.with_suffix(".txt")
            try:
                lines = text.read_text(encoding="utf-8-sig").splitlines() if text.exists() else []
            except UnicodeDecodeError as error:
                raise UserError(f"{text}: is not in UTF-8 ({error}); save it as such") from error
            found[path] = [line for line in lines if line.strip()]
        return found

    def _table(self) -> dict[Path, list[str]]:
        """The same from a table."""
        found: dict[Path, list[str]] = {}
        for line, row in enumerate(read_table(self.path, ("file", "caption")), 2):
            if not row["file"]:
                raise UserError(f"{self.path}: line {line} names no file; write one")
            captions = found.setdefault((self.path.parent / row["file"]).absolute(), [])
            if row["caption"] and row["caption"].strip():
                captions.append(row["caption"])
        return found

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """Previews of each split."""
        home = self.path if self.path.is_dir() else self.path.parent
        parts: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
        placed = any((home / split).is_dir() for split in parts)
        for path in self.captions:
            if not path.is_relative_to(home):
                raise UserError(
                    f"{self.path}: {path} is not below the folder of the table; move it there"
                )
            name = path.relative_to(home)
            split = name.parts[0] if placed else fold(name.as_posix())
            if split not in parts:
                raise UserError(
                    f"{path}: is in none of train, val and test, as others are; move it there"
                )
            parts[split].append(path)
        if not parts["train"]:
            raise UserError(
                f"data.path {self.path}: none of its {len(self.captions)} pictures falls to the training split; add more"
            )
        return parts

    def read(
        self, split: str
    ) -> tuple[Callable[[list[int]], Previews], list[list[str]], list[str]]:
        paths = self.files[split]

        def pictures(kept: list[int]) -> Previews:
            return FileImages(
                [paths[i] for i in kept],
                torch.zeros(len(kept), dtype=torch.int64),
                self.size,
                3,
                {},
            )

        return pictures, [self.captions[path] for path in paths], [str(path) for path in paths]
