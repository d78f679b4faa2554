"""Base class of data modules of captioned images: emoji with names, or image files with texts.

A batch contains `image` and `tokens`, int64 (N, T): the token ids of one caption per image, padded
with `pad_id` to T = `text_length`. Each training image has `VARIANTS` = 8 encodings, one for each
of its first eight captions. If it has fewer captions, they are used repeatedly. The seed of a batch
selects one encoding per image. With the option `bpe_dropout`, all encodings except the first split
words into tokens at random. Captions and prompts are lower-cased, with single spaces between words.
"""

import random
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Tensor

from common.errors import UserError
from datamodules.base import BatchedDataset
from datamodules.captions.encoding import encode_caption, tidy
from datamodules.images.base import ImageDataModule, InMemoryImages
from datamodules.images.files import NOT_CHOSEN, FileImages, Images, ReadFiles, read_files
from datamodules.samplers import Request, mix_seed
from datamodules.tokenizers.bpe import BPETokenizer

VARIANTS = 8
PAD = "<pad>"  # its id is 0
NO_CAPTION = "with an unusable caption"


class CaptionedImageDataset:
    """Dataset of the captioned images of a split.

    Args:
        images: All images of a split.
        captions: First caption of each image.
        tokens: Token ids (N, R, T): R encodings of the captions of each image, padded to length T.
    """

    def __init__(self, images: Images, captions: list[str], tokens: Tensor) -> None:
        self.images, self.captions, self.tokens = images, captions, tokens

    def __len__(self) -> int:
        return len(self.images)

    def caption_batch(self, request: Request) -> dict[str, Any]:
        """Return a batch without images: `tokens`, `index` and `seed`."""
        generator = torch.Generator().manual_seed(mix_seed(request.seed, "caption"))
        variant = torch.randint(self.tokens.shape[1], (len(request.index),), generator=generator)
        tokens = self.tokens[request.index, variant].long()
        return {"tokens": tokens, "index": request.index, "seed": request.seed}

    def __getitems__(self, request: Request) -> dict[str, Any]:
        return {**self.images.__getitems__(request), **self.caption_batch(request)}

    def fingerprint(self) -> str:
        """Return a hash of the images."""
        return self.images.fingerprint()

    def having(self, attribute: str) -> Tensor:
        """Return a bool mask (N,), True where a caption contains `attribute` as whole words."""
        return torch.tensor(
            [f" {attribute.lower()} " in f" {caption} " for caption in self.captions]
        )


class CaptionBatch(dict[str, Any]):
    """Batch without images; reading the key `image` raises a `UserError`."""

    def __missing__(self, key: str) -> Any:
        if key == "image":
            raise UserError(
                "data.captions_only true: this system reads the images of a batch; "
                "set --data.captions_only false"
            )
        raise KeyError(key)


class CaptionsOnly:
    """Dataset of captions whose batches contain no images.

    Args:
        data: Dataset of captioned images.
    """

    def __init__(self, data: CaptionedImageDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, request: Request) -> CaptionBatch:
        return CaptionBatch(self.data.caption_batch(request))


class CaptionedImages(ImageDataModule):
    """Base class of data modules of captioned images.

    A subclass sets `image_shape` and implements `read`. Captions stay as they are with `flip`, so
    captions that contain "left" or "right" do not match mirrored images.

    Args:
        Captions:
        vocab_size: Maximum vocabulary size of the byte-pair encoding, which is learned from the
            training captions.
        text_length: Maximum number of tokens per caption; shorter captions are padded.
        bpe_dropout: Probability, in [0, 1], of skipping a merge when training captions are encoded
            (BPE dropout, Provilkov et al. 2020).
        skip: Skip unusable images and print their number. If False, stop at the first unusable
            image. An image is unusable if its file is broken, or if its caption is missing, is too
            long, or contains a character that occurs in no training caption.
        captions_only: Load batches without images, for a system such as DALL-E that encodes all
            images once before training, without augmentation. The method `batch` still returns
            images.
        **kwargs: Arguments of `ImageDataModule`.

    Raises:
        UserError: If images are to be augmented, but `captions_only` leaves them out.
    """

    provides = (*ImageDataModule.provides, "vocab_size", "text_length", "pad_id")

    image_shape: list[int]

    def __init__(
        self,
        vocab_size: PositiveInt = 1000,
        text_length: PositiveInt = 16,
        bpe_dropout: ClosedUnitInterval = 0.0,
        skip: bool = False,
        captions_only: bool = False,
        batch_size: PositiveInt = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(binarize=False, batch_size=batch_size, **kwargs)
        if captions_only and (self.flip or self.shift or self.blur):
            raise UserError(
                "data.captions_only true: batches have no images, so data.flip, data.shift and "
                f"data.blur have no effect (got flip={self.flip}, shift={self.shift}, "
                f"blur={self.blur}); set --data.captions_only false to augment images"
            )
        self.captions_only = captions_only
        self.vocab_size, self.text_length, self.bpe_dropout, self.skip = (
            vocab_size,
            int(text_length),
            bpe_dropout,
            skip,
        )

    def read(
        self, split: str
    ) -> tuple[Callable[[list[int]], InMemoryImages | FileImages], list[list[str]], list[str]]:
        """Read a split.

        Returns:
            A tuple of three: a function from indices to images, the captions of each image, and the
            name of each image for error messages.
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
        """Byte-pair encoding, learned from the training captions."""
        captions = [tidy(text) for texts in self.read("train")[1] for text in texts]
        return BPETokenizer.train(captions, self.vocab_size, [PAD], whole_alphabet=False)

    def load_split(self, split: str) -> CaptionedImageDataset:
        make_images, captions, places = self.read(split)
        numbers = list(range(len(captions)))
        if split == "train" and self.max_samples is not None:
            numbers = sorted(random.Random(0).sample(numbers, min(self.max_samples, len(numbers))))
        left_out = {NOT_CHOSEN: set(range(len(captions))) - set(numbers), NO_CAPTION: set()}
        rows: dict[int, Tensor] = {}
        for number in numbers:
            try:
                rows[number] = self._encodings(
                    [tidy(text) for text in captions[number]], split, places[number]
                )
            except UserError as error:
                if not self.skip:
                    raise UserError(
                        f"{places[number]}: {error}, or skip such images with --data.skip true"
                    ) from error
                left_out[NO_CAPTION].add(number)
        images = make_images(list(rows))
        read = (
            ReadFiles(images, torch.arange(len(rows)))
            if isinstance(images, InMemoryImages)
            else read_files(images, self.skip)
        )
        if not isinstance(images, InMemoryImages) or left_out[NO_CAPTION]:
            read.report(
                split,
                {
                    reason: [Path(places[number]) for number in sorted(which)]
                    for reason, which in left_out.items()
                },
            )
        kept = [list(rows)[i] for i in read.kept.tolist()]
        tokens = (
            torch.stack([rows[number] for number in kept])
            if kept
            else torch.empty(0, 1, self.text_length, dtype=torch.int32)
        )
        first = [tidy(captions[number][0]) for number in kept]
        return CaptionedImageDataset(read.data, first, tokens)

    def loader_dataset(self, split: str) -> BatchedDataset:
        data: CaptionedImageDataset = self.split(split)  # type: ignore[assignment]
        return CaptionsOnly(data) if self.captions_only else data

    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        captions = [self.tokenizer.decode(row[row > 0].tolist()) for row in batch["tokens"]]
        images = {} if self.captions_only else {"image": batch["image"]}
        return {**images, "caption": captions}

    def _encodings(self, texts: list[str], split: str, place: str) -> Tensor:
        """Encode the captions of one image to int32 (R, T); R is `VARIANTS` in training, else 1."""
        if not texts:
            raise UserError("the caption is missing; write one")
        numbers = random.Random(mix_seed(Path(place).name, "bpe"))
        rows = torch.zeros(VARIANTS if split == "train" else 1, self.text_length, dtype=torch.int32)
        encoded: dict[str, list[int]] = {}  # without dropout
        for variant, row in enumerate(rows):
            text, dropped = texts[variant % len(texts)], self.bpe_dropout if variant else 0.0
            ids = [] if dropped else encoded.get(text, [])
            ids = ids or encode_caption(self.tokenizer, text, self.text_length, dropped, numbers)
            if not dropped:
                encoded[text] = ids
            row[: len(ids)] = torch.tensor(ids)
        return rows
