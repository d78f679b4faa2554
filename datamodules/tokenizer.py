"""Text to numbers and back: characters, bytes, words, and byte-pair encoding.

A tokenizer is a small object that travels as a string (`to_json`, `tokenizer_from_json`), inside of
a checkpoint and beside the encoded corpus. Ids are dense, from 0; special tokens come first, except
in a published `tokenizer.json`.
"""

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError

Kind = Literal["char", "byte", "word", "bpe"]
UNKNOWN = "<unk>"
# characters that a published tokenizer is shown before a piece, since it treats the beginning of a
# text in its own way
BEFORE = 64
RECORD = ("<pad>", "<bos>", "<eos>")  # special tokens of corpora whose examples are lines


class Tokenizer:
    """Base of all kinds.

    Args:
        specials: special tokens, whose ids are their places.

    Attributes:
        kind: how it is called on the command line.
        vocab_size: number of ids.
    """

    kind: str
    vocab_size: int
    lossless = True  # whether decoding gives the text back

    def __init__(self, specials: Iterable[str] = ()) -> None:
        self.specials = list(specials)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, specials: Iterable[str] = ()
    ) -> "Tokenizer":
        """Learn a vocabulary from pieces of text in one pass.

        Args:
            texts: the corpus, a piece at a time.
            vocab_size: largest number of ids, where the kind has a choice.
            specials: special tokens.
        """
        raise NotImplementedError

    def special(self, token: str) -> int:
        """Id of a special token."""
        return self.specials.index(token)

    def encode(self, text: str, before: str = "") -> np.ndarray:
        """int64 ids (T,).

        Args:
            text: what is encoded.
            before: what stands before it, where its ids depend on that.

        Raises:
            UserError: if the vocabulary lacks something in the text.
        """
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens have none."""
        raise NotImplementedError

    def token(self, number: int) -> str:
        """How one id is shown: its text, or the name of a special token."""
        return self.decode([number]) or next(
            (name for name in self.specials if self.special(name) == number), ""
        )

    def stable_prefix(self, text: str) -> int:
        """How much of a text can be encoded before more of it is known: a corpus is encoded a piece
        at a time.
        """
        return len(text)

    def state(self) -> dict[str, Any]:
        """Plain values that the kind is made of."""
        return {}

    def to_json(self) -> str:
        """All of it as a string."""
        return json.dumps(
            {"kind": self.kind, "specials": self.specials, **self.state()}, ensure_ascii=False
        )


class CharTokenizer(Tokenizer):
    """One id per character, in the order of their code points.

    Args:
        characters: all that can be encoded.
        specials: special tokens.
    """

    kind = "char"

    def __init__(self, characters: str, specials: Iterable[str] = ()) -> None:
        super().__init__(specials)
        self.characters = characters
        self.vocab_size = len(self.specials) + len(characters)
        points = np.array([ord(character) for character in characters], dtype=np.int64)
        self._ids = np.full(points.max(initial=0) + 1, -1, dtype=np.int64)
        self._ids[points] = np.arange(len(points)) + len(self.specials)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 0, specials: Iterable[str] = ()
    ) -> "CharTokenizer":
        found: set[str] = set()
        for text in texts:
            found.update(text)
        return cls("".join(sorted(found)), specials)

    def encode(self, text: str, before: str = "") -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(
            np.int64
        )
        ids = np.where(
            points < len(self._ids), self._ids[np.minimum(points, len(self._ids) - 1)], -1
        )
        unknown = np.flatnonzero(ids < 0)
        if len(unknown):
            place = int(unknown[0])
            raise UserError(
                f"the character {text[place]!r} (number {place + 1} of the text) was not in the corpus: leave it out"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        first = len(self.specials)
        return "".join(self.characters[i - first] for i in ids if i >= first)

    def state(self) -> dict[str, Any]:
        return {"characters": self.characters}


class ByteTokenizer(Tokenizer):
    """One id per byte of UTF-8: nothing is unknown, and no vocabulary has to be learnt."""

    kind = "byte"

    def __init__(self, specials: Iterable[str] = ()) -> None:
        super().__init__(specials)
        self.vocab_size = len(self.specials) + 256

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 0, specials: Iterable[str] = ()
    ) -> "ByteTokenizer":
        return cls(specials)

    def encode(self, text: str, before: str = "") -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + len(self.specials)

    def decode(self, ids: Iterable[int]) -> str:
        first = len(self.specials)
        return bytes(i - first for i in ids if i >= first).decode("utf-8", "replace")


class WordTokenizer(Tokenizer):
    """Words between blanks, with the end of a line as a word of its own; rare words are `<unk>`.

    The convention of the Penn Treebank and of WikiText, whose texts are prepared for it: decoding
    puts one blank between words.

    Args:
        words: the vocabulary, most frequent first; `<unk>` and the end of a line are added.
        specials: special tokens.
    """

    kind = "word"
    lossless = False
    END_OF_LINE = "<eol>"

    def __init__(self, words: list[str], specials: Iterable[str] = ()) -> None:
        super().__init__(specials)
        self.words = words
        everything = [*self.specials, *dict.fromkeys([UNKNOWN, self.END_OF_LINE, *words])]
        self._ids = {word: number for number, word in enumerate(everything)}
        self._words = everything
        self.vocab_size = len(everything)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, specials: Iterable[str] = ()
    ) -> "WordTokenizer":
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text.split())
        counts.pop(UNKNOWN, None)
        specials = list(specials)
        if vocab_size < len(specials) + 3:
            raise UserError(f"data.vocab_size {vocab_size}: give at least {len(specials) + 3}")
        kept = sorted(counts, key=lambda word: (-counts[word], word))[
            : vocab_size - len(specials) - 2
        ]
        return cls(kept, specials)

    def encode(self, text: str, before: str = "") -> np.ndarray:
        unknown = self._ids[UNKNOWN]
        words = re.findall(r"[^\s]+|\n", text)
        return np.array(
            [self._ids.get(self.END_OF_LINE if word == "\n" else word, unknown) for word in words],
            dtype=np.int64,
        )

    def decode(self, ids: Iterable[int]) -> str:
        words = [self._words[i] for i in ids if i >= len(self.specials)]
        return re.sub(f" ?{self.END_OF_LINE} ?", "\n", " ".join(words))

    def stable_prefix(self, text: str) -> int:
        """Up to the last white space, since the word after it may go on."""
        return max((match.end() for match in re.finditer(r"\s", text)), default=0)

    def state(self) -> dict[str, Any]:
        return {"words": self.words}


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes, Radford et al. 2019) by the
    `tokenizers` library.

    Args:
        model: the library's own JSON, such as the `tokenizer.json` that published models come with.
        specials: special tokens, which the model has to have.

    Raises:
        UserError: if the library is missing, or the JSON is not of its kind.
    """

    kind = "bpe"

    def __init__(self, model: str, specials: Iterable[str] = ()) -> None:
        super().__init__(specials)
        library = tokenizers_library()
        try:
            self.model = library.Tokenizer.from_str(model)
        except Exception as error:  # the library raises a bare one
            raise UserError(
                f"this is not a tokenizer of the `tokenizers` library ({error}): give its tokenizer.json"
            ) from error
        self.model.encode_special_tokens = True  # a text that spells one is only a text
        self.vocab_size = self.model.get_vocab_size()
        missing = [token for token in self.specials if self.model.token_to_id(token) is None]
        if missing:
            raise UserError(
                f"the tokenizer lacks the special token {missing[0]}, which examples on lines need: train one instead"
            )

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        specials: Iterable[str] = (),
        whole_alphabet: bool = True,
    ) -> "BPETokenizer":
        """See `Tokenizer`; unless `whole_alphabet`, bytes that the texts lack have no ids, and
        `encode` leaves them out.
        """
        library = tokenizers_library()
        model = library.Tokenizer(library.models.BPE())
        model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = library.decoders.ByteLevel()
        alphabet = library.pre_tokenizers.ByteLevel.alphabet() if whole_alphabet else []
        if vocab_size < len(alphabet) + len(list(specials)):
            raise UserError(
                f"data.vocab_size {vocab_size}: give at least {len(alphabet) + len(list(specials))}, for every byte has an id"
            )
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(specials),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        model.train_from_iterator(texts, trainer)
        return cls(model.to_str(), specials)

    def special(self, token: str) -> int:
        return int(self.model.token_to_id(token))

    def encode(self, text: str, before: str = "") -> np.ndarray:
        coded = self.model.encode(before + text, add_special_tokens=False)
        first = sum(end <= len(before) for _, end in coded.offsets) if before else 0
        return np.array(coded.ids[first:], dtype=np.int64)

    def encode_dropout(self, text: str, rate: float, numbers: random.Random) -> list[int]:
        """Ids by merges of which each is left out with a probability (Provilkov et al. 2020,
        Algorithm 1), by `numbers` alone.
        """
        ids: list[int] = []
        for word, _ in self.model.pre_tokenizer.pre_tokenize_str(text):
            parts = list(word)
            while True:
                ranks = [self._merges.get(pair) for pair in itertools.pairwise(parts)]
                open_to = [
                    (rank, at)
                    for at, rank in enumerate(ranks)
                    if rank is not None and numbers.random() >= rate
                ]
                if not open_to:
                    break
                _, at = min(open_to)
                parts[at : at + 2] = ["".join(parts[at : at + 2])]
            ids += [
                number for part in parts if (number := self.model.token_to_id(part)) is not None
            ]
        return ids

    @cached_property
    def _merges(self) -> dict[tuple[str, str], int]:
        """Rank of each pair that is merged."""
        merges = json.loads(self.model.to_str())["model"]["merges"]
        return {(left, right): rank for rank, (left, right) in enumerate(merges)}

    def decode(self, ids: Iterable[int]) -> str:
        return str(self.model.decode([int(i) for i in ids], skip_special_tokens=True))

    def stable_prefix(self, text: str) -> int:
        """Up to the last blank before a word, or the last line where there is none: no pair is
        merged across it.
        """
        cuts = (
            max((match.start() for match in re.finditer(rf"(?<=\S){gap}(?=\S)", text)), default=0)
            for gap in (" ", "\n")
        )
        return next(filter(None, cuts), 0)

    def state(self) -> dict[str, Any]:
        return {"model": self.model.to_str()}


class PairTokenizer(Tokenizer):
    """Two tokenizers for sequence-to-sequence systems: sources are encoded by one, targets are
    decoded by the other.

    Args:
        source: of what a system reads.
        target: of what it writes; the same object where the vocabulary is shared.
        lower: whether what is read is lower-cased.
    """

    kind = "pair"

    def __init__(self, source: Tokenizer, target: Tokenizer, lower: bool = False) -> None:
        super().__init__(target.specials)
        self.source, self.target, self.lower = source, target, lower
        self.vocab_size, self.lossless = target.vocab_size, target.lossless

    def encode(self, text: str, before: str = "") -> np.ndarray:
        return self.source.encode(text.lower() if self.lower else text, before)

    def decode(self, ids: Iterable[int]) -> str:
        return self.target.decode(ids)

    def to_json(self) -> str:
        parts = dict.fromkeys([self.source, self.target])  # one, where it is shared
        state = {
            "kind": self.kind,
            "lower": self.lower,
            "parts": [part.to_json() for part in parts],
        }
        return json.dumps(state, ensure_ascii=False)


def tidy(caption: str) -> str:
    """Lower-cased, with single blanks between words: how captions and prompts are read."""
    return " ".join(caption.lower().split())


def encode_caption(
    tokenizer: BPETokenizer,
    caption: str,
    most: int,
    rate: float = 0.0,
    numbers: random.Random | None = None,
) -> list[int]:
    """Ids of a tidy caption.

    Args:
        tokenizer: by which.
        caption: the text.
        most: tokens that there is room for.
        rate: of `encode_dropout`, which then needs `numbers`; where its pieces are too many they
            are merged as usual.
        numbers: what it draws from.

    Raises:
        UserError: if it is empty, too long, or has characters that no training caption had.
    """
    if not caption:
        raise UserError("the caption is empty: write one")
    ids: list[int] = tokenizer.encode(caption).tolist()
    if tokenizer.decode(ids) != caption:
        known = set(tokenizer.decode(range(tokenizer.vocab_size)))
        strange = next((character for character in caption if character not in known), caption[0])
        raise UserError(
            f"the caption {caption!r} has {strange!r}, which is in no training caption: write it without"
        )
    if len(ids) > most:
        raise UserError(
            f"the caption {caption[:60]!r} has {len(ids)} tokens, more than the {most} of data.text_length: shorten it"
        )
    if rate and numbers is not None:
        cut = tokenizer.encode_dropout(caption, rate, numbers)
        return cut if len(cut) <= most else ids
    return ids


def caption_tokens(tokenizer: BPETokenizer, captions: list[str], most: int) -> Tensor:
    """int64 (N, most) of captions as they come, padded with 0.

    Raises:
        UserError: as `encode_caption`.
    """
    tokens = torch.zeros(len(captions), most, dtype=torch.int64)
    for row, caption in zip(tokens, captions):
        ids = encode_caption(tokenizer, tidy(caption), most)
        row[: len(ids)] = torch.tensor(ids)
    return tokens


def tokenizers_library() -> Any:
    """The `tokenizers` package.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            "byte-pair encoding needs a package that is not installed: pip install tokenizers"
        ) from error
    return tokenizers


KINDS: dict[str, type[Tokenizer]] = {
    cls.kind: cls for cls in (CharTokenizer, ByteTokenizer, WordTokenizer, BPETokenizer)
}


def tokenizer_from_json(text: str) -> Tokenizer:
    """What `to_json` wrote.

    Raises:
        UserError: if it is anything else.
    """
    try:
        state = json.loads(text)
        kind = state.pop("kind")
        if kind == PairTokenizer.kind:
            parts = [tokenizer_from_json(part) for part in state["parts"]]
            return PairTokenizer(parts[0], parts[-1], state["lower"])
        return KINDS[kind](**state)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"this is not a tokenizer of this template ({error}): give one that a run has made"
        ) from error


def encode_pieces(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Ids of a long text that comes in pieces, as if it had been encoded at once."""
    before = rest = ""
    for text in texts:
        rest += text
        cut = tokenizer.stable_prefix(rest)
        if cut:
            yield tokenizer.encode(rest[:cut], before)
            before, rest = rest[max(0, cut - BEFORE) : cut], rest[cut:]
    if rest:
        yield tokenizer.encode(rest, before)
