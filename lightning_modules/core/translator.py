"""What all systems share that write one text for another: the objective, its figures over a whole
split, and translating.

    -log p(y|x) = sum_t -log p(y_t | y_<t, x)          (1)

Unlike the p(y|x) of a classifier, y is a text: there are more of them than can be listed, so that
the likeliest one has to be looked for (`beam_search`), and many are right, so that they are
compared with a reference by what they share with it (BLEU).
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from datamodules.tokenizers.pair import PairTokenizer
from lightning_modules.core.modes import sampling
from lightning_modules.core.tokens import TokenModule, token_losses
from lightning_modules.decoding.beam_search import BeamSearchConfig, beam_search
from lightning_modules.nn.attention import AttentionMap, recording_attention
from metrics.language import TokenNLL
from metrics.translation import (
    bleu,
    bleu_by_length,
    chrf,
    closed_vocabulary_bleu,
    exact_match,
    tokenised_bleu,
)

GREEDY, BEAM = BeamSearchConfig(), BeamSearchConfig(beam=5)
SEARCHES = {
    "val": {"": GREEDY},
    "test": {"": GREEDY, f"_beam{BEAM.beam}": BEAM},
}  # by the ending of their figures' names
# Published translators on Multi30k (see `Multi30k.vocabulary`): maximum number of words -> whether
# they are tokenised again.
PUBLISHED_PROTOCOLS = {24: True, 49: False}
PAD, BEGIN, STOP = range(3)  # special tokens come first in every vocabulary


class Translator(TokenModule):
    """Base of encoder-decoder systems.

    A subclass brings `encode`, `decode` with all targets given, and `start`, `step` and `select` to
    write one token at a time.

    Attributes:
        smoothing: share of each target's probability that is spread over all tokens, in training.
        tokenizer: of both sides.
    """

    monitor: ClassVar[tuple[str, str] | None] = ("val/bleu", "max")
    smoothing: float = 0.0
    tokenizer: PairTokenizer | None

    def __init__(self) -> None:
        super().__init__()
        self.nll, self.smoothed_nll = TokenNLL(), TokenNLL()  # without and with label smoothing
        self._written: dict[str, dict[int, str]] = {}

    def encode(self, source: Tensor, length: Tensor) -> Any:
        """What is kept of sources (N, S) with `length` (N,) tokens each."""
        raise NotImplementedError

    def decode(self, memory: Any, tokens: Tensor) -> Tensor:
        """Logits (N, T, V) of what follows each of tokens (N, T)."""
        raise NotImplementedError

    def start(self, memory: Any, most: int) -> Any:
        """State before the first of at most `most` tokens, a row for each sentence."""
        raise NotImplementedError

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """See `BeamSearchModel`."""
        raise NotImplementedError

    def select(self, state: Any, sentences: Tensor, rows: Tensor) -> Any:
        """See `BeamSearchModel`."""
        raise NotImplementedError

    # Training

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Logits (N, T, V) of all targets of a batch."""
        return self.decode(
            self.encode(batch["source"], batch["source_length"]), batch["target"][:, :-1]
        )

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        losses = token_losses(
            self(batch), batch["target"][:, 1:], batch["target_length"], self.smoothing
        )  # Eq. 1
        return {"loss": losses.sum() / batch["targets"]}

    # Figures

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        logits, target = self(batch), data.tokenizer.target
        unit = f"unit=nats/token|tokens={target.kind}:{target.vocab_size}|case:{'lc' if data.lower else 'mixed'}"
        for name, metric, smoothing in (
            ("nll", self.nll, 0.0),
            ("loss", self.smoothed_nll, self.smoothing),
        ):
            metric.description = f"{unit}|smoothing={smoothing:g}|split={data.split_name(stage)}"
            losses = token_losses(logits, batch["target"][:, 1:], batch["target_length"], smoothing)
            metric.update(losses, batch["targets"])
            self.log_metric(f"{stage}/{name}", metric)
        for name, search in SEARCHES[stage].items():
            written = self.write(batch["source"], batch["source_length"], search)
            self._written.setdefault(name, {}).update(zip(batch["index"].tolist(), written))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._score("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._score("test")

    def _score(self, stage: str) -> None:
        """Compare all that was written, on all ranks, with the references."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self._note(
            stage, "ppl", self.nll.compute().exp(), self.nll.signature.replace("nll", "ppl", 1)
        )
        sources, references = data.texts(stage)
        for name, search in SEARCHES[
            stage
        ].items():  # and not of what was written, since a rank may have had nothing to write
            every = self.of_all_ranks(self._written.get(name, {}))
            written = dict(sorted(item for part in every for item in part.items()))
            texts = list(written.values()), [references[index] for index in written]
            note = f"{search.signature}|split={data.split_name(stage)}|n={len(written)}"
            self._note(stage, f"bleu{name}", *bleu(*texts, data.lower), note)
            self._note(stage, f"exact{name}", *exact_match(*texts, data.lower), note)
            if stage == "test":
                self._note(stage, f"chrf{name}", *chrf(*texts, data.lower), note)
                for bucket, found in bleu_by_length(
                    *texts, [sources[i] for i in written], data.lower
                ).items():
                    self._note(stage, f"bleu_source_{bucket}{name}", *found, note)
                if hasattr(data, "tokenise"):
                    words = data.tokenise, data.word_rules
                    self._note(
                        stage,
                        f"bleu_tokenised{name}",
                        *tokenised_bleu(*texts, *words, data.lower),
                        note,
                    )
                    for max_words, again in PUBLISHED_PROTOCOLS.items():
                        found = closed_vocabulary_bleu(
                            *texts, *words, data.vocabulary, max_words, again
                        )
                        self._note(stage, f"bleu_unk{max_words}{name}", *found, note)
        self._written = {}

    def _note(
        self, stage: str, name: str, value: Tensor | float, signature: str, note: str = ""
    ) -> None:
        self.log(f"{stage}/{name}", float(value))  # equal on all ranks
        self.signatures[f"{stage}/{name}"] = f"{signature[:-1]}|{note}]" if note else signature

    # Translating

    def write(self, source: Tensor, length: Tensor, search: BeamSearchConfig) -> list[str]:
        """The likeliest text that is found for each of sources (N, S)."""
        assert self.tokenizer is not None
        most = self._most(length, search)
        state = self.start(self.encode(source, length), max(most))
        found = beam_search(
            self, state, len(source), most, search, begin=BEGIN, stop=STOP, device=source.device
        )
        texts = (self.tokenizer.target.decode(one[0][1]) if one else "" for one in found)
        return [
            " ".join(text.splitlines()) for text in texts
        ]  # bytes may be drawn that end a line, and a text is a line

    @staticmethod
    def _most(length: Tensor, search: BeamSearchConfig) -> list[int]:
        """Most tokens that are written for each of sources of `length` (N,)."""
        return [
            search.max_length or max(search.min_length, 2 * size + 10) for size in length.tolist()
        ]

    def read(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Sources (N, S) and their lengths (N,) of texts, padded.

        Raises:
            UserError: if one has an unknown character.
        """
        tokenizer = self.known_tokenizer()
        rows = [[*tokenizer.encode(text.strip()).tolist(), STOP] for text in texts]
        length = torch.tensor([len(row) for row in rows])
        source = torch.full((len(rows), int(length.max())), PAD)
        for number, row in enumerate(rows):
            source[number, : len(row)] = torch.tensor(row)
        return source.to(self.device), length.to(self.device)

    @sampling
    def translate(
        self, texts: list[str], search: BeamSearchConfig = BEAM, budget: int = 4096
    ) -> list[str]:
        """Translations in the order of the texts; of an empty one an empty one.

        Args:
            texts: any number.
            search: how they are looked for.
            budget: most characters of a batch, padding included.
        """
        made = [""] * len(texts)
        for chosen in self._batches(texts, budget):
            source, length = self.read([texts[number] for number in chosen])
            for number, text in zip(chosen, self.write(source, length, search)):
                made[number] = text
        return made

    @staticmethod
    def _batches(texts: list[str], budget: int) -> Iterator[list[int]]:
        """Numbers of texts of about one length; one that is too long is alone."""
        chosen: list[int] = []
        for number in sorted(
            (n for n, text in enumerate(texts) if text.strip()), key=lambda n: len(texts[n])
        ):
            if chosen and (len(chosen) + 1) * len(texts[number]) > budget:
                yield chosen
                chosen = []
            chosen.append(number)
        if chosen:
            yield chosen

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any],
        beam: int = 5,
        length_penalty: float = 0.6,
        penalty: Literal["wu", "plain"] = "wu",
        min_length: int = 0,
        max_length: int = 0,
    ) -> list[str]:
        """Translate.

        Args:
            seeds: seed i picks text i of the test split; `sample.py --input` brings texts of your
                own.
            batch: `source` and `source_length`.
            beam: translations that are followed at a time; 1 always takes the likeliest token.
            length_penalty: alpha, above 0 favours longer ones.
            penalty: wu divides log-probabilities by ((5 + length) / 6)^alpha, plain by
                length^alpha.
            min_length: fewest tokens, without the end.
            max_length: most tokens; 0 for twice the source and 10.

        Returns:
            N texts.

        Raises:
            UserError: if an option is out of its range.
        """
        search = BeamSearchConfig(beam, length_penalty, penalty, min_length, max_length)
        return self.write(
            batch["source"].to(self.device), batch["source_length"].to(self.device), search
        )

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """A table of sources, references and translations."""
        if self.tokenizer is None:  # before a run has begun there is only its shape to be shown
            self(batch)
            return {}
        written = self.write(batch["source"], batch["source_length"], BeamSearchConfig())
        source, target = self.tokenizer.source, self.tokenizer.target
        rows = zip(batch["source"].tolist(), batch["target"].tolist(), written)
        return {
            "translations": [
                f"{source.decode(a)}\n  = {target.decode(b)}\n  > {text}" for a, b, text in rows
            ]
        }

    def cross_attention(self, weights: list[Tensor]) -> dict[str, Tensor]:
        """Of all attention that was watched in one `decode`, that to the source by name, (N, H, T,
        S) each.
        """
        return {}

    @sampling
    def attention_maps(
        self, batch: dict[str, Any], search: BeamSearchConfig = GREEDY
    ) -> dict[str, AttentionMap]:
        """Of the first text of a batch: what its translation looked at, word by word."""
        assert self.tokenizer is not None
        source, length = (
            batch["source"][:1, : int(batch["source_length"][0])],
            batch["source_length"][:1],
        )
        memory = self.encode(source, length)
        most = self._most(length, search)
        (found,) = beam_search(
            self,
            self.start(memory, most[0]),
            1,
            most,
            search,
            begin=BEGIN,
            stop=STOP,
            device=source.device,
        )
        ids = found[0][1] if found else []
        with recording_attention() as weights:
            self.decode(
                self.encode(source, length), torch.tensor([[BEGIN, *ids]], device=source.device)
            )
        rows = [self.tokenizer.target.token(number) for number in [*ids, STOP]]
        columns = [self.tokenizer.source.token(number) for number in source[0].tolist()]
        return {
            name: AttentionMap(rows, columns, one[0])
            for name, one in self.cross_attention(weights).items()
        }
