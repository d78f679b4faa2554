"""Base class of translators: metrics of a split, and translation by beam search.

    -log p(y|x) = sum_t -log p(y_t | y_<t, x)          (1)

The source x and its translation y are sequences of tokens. Computing the probabilities of all y is
infeasible, so `beam_search` searches for a probable y. The metric is BLEU, which measures the
overlap with a reference, because a sentence has many correct translations.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from common.errors import UserError
from datamodules.tokenizers.pair import PairTokenizer
from lightning_modules.core.modes import sampling
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.core.tokens import TokenModule
from lightning_modules.decoding.beam_search import BeamSearchConfig, Hypothesis, beam_search
from lightning_modules.decoding.filters import FiniteNonNegative
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
# Beam search options of each split. The key is a suffix of the names of metrics ("bleu_beam5").
SEARCHES = {"val": {"": GREEDY}, "test": {"": GREEDY, f"_beam{BEAM.beam}": BEAM}}
CHARACTERS = 4096  # maximum number of characters in a batch of `translate`, padding included
# Two ways in which published BLEU on Multi30k was computed; both replace words outside of
# `Multi30k.vocabulary` by `<unk>`. Key: maximum number of words in a translation. Value: True if
# the translation is tokenised again after this replacement, which splits `<unk>` into three words.
PUBLISHED_PROTOCOLS = {24: True, 49: False}
PAD, BOS, EOS = range(3)  # ids of the special tokens, which come first in every vocabulary


class Translator(TokenModule):
    """Base class of encoder-decoder systems.

    A subclass implements `encode`, `decode` (teacher forcing) and `loss`. For decoding token by
    token, it implements `init_state`, `decode_step` and `reorder_cache`. The subclass must have a
    hyper-parameter `smoothing`, the label-smoothing factor of the loss.

    Attributes:
        tokenizer: Pair of the tokenizers of source and target; None until data or a checkpoint is
            loaded.
    """

    monitor: ClassVar[tuple[str, str] | None] = ("val/bleu", "max")
    tokenizer: PairTokenizer | None

    def __init__(self) -> None:
        super().__init__()
        self.nll, self.smoothed_nll = TokenNLL(), TokenNLL()  # without and with label smoothing
        self._translations: dict[str, dict[int, str]] = {}  # suffix -> index -> text

    def encode(self, source: Tensor, length: Tensor) -> Any:
        """Return encoder outputs, an input of `decode`, for sources (N, S) of lengths (N,)."""
        raise NotImplementedError

    def decode(self, memory: Any, tokens: Tensor) -> Tensor:
        """Return next-token logits (N, T, V) of target tokens (N, T), given the encoder outputs."""
        raise NotImplementedError

    def init_state(self, memory: Any, max_length: int) -> Any:
        """Return the decoding state before the first token, with one row per sentence."""
        raise NotImplementedError

    def decode_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return next-token logits (R, V) after one more token per row (R,), and the new state."""
        raise NotImplementedError

    def reorder_cache(self, state: Any, sentences: Tensor, rows: Tensor) -> Any:
        """Select rows of the decoding state; see `BeamSearchModel.reorder_cache` for arguments."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Return logits (N, T, V) of all target tokens of a batch."""
        memory = self.encode(batch["source"], batch["source_length"])
        return self.decode(memory, batch["target"][:, :-1])

    def networks(self) -> dict[str, ExportedNetwork]:
        """Return the logits of the next target token, given the source and the target so far."""

        def next_token(source: Tensor, length: Tensor, target: Tensor) -> Tensor:
            return self.decode(self.encode(source, length), target)[:, -1]

        inputs = {
            "source": torch.tensor([[3, 3, EOS], [3, EOS, PAD]]),
            "length": torch.tensor([3, 2]),
            "target": torch.tensor([[BOS, 3], [BOS, 3]]),
        }
        sizes = {
            "source": {0: "batch", 1: "source_length"},
            "length": {0: "batch"},
            "target": {0: "batch", 1: "target_length"},
        }
        return {"next_token": ExportedNetwork(Method(self, next_token), inputs, ("logits",), sizes)}

    # Metrics

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        logits, target = self(batch), data.tokenizer.target
        case = "lc" if data.lower else "mixed"
        unit = f"unit=nats/token|tokens={target.kind}:{target.vocab_size}|case:{case}"
        targets = batch["target"][:, 1:].flatten()
        metrics = ("nll", self.nll, 0.0), ("loss", self.smoothed_nll, self.hparams.smoothing)
        for name, metric, factor in metrics:
            metric.description = f"{unit}|smoothing={factor:g}|split={data.split_name(stage)}"
            losses = F.cross_entropy(
                logits.flatten(0, 1).float(),
                targets,
                ignore_index=PAD,
                reduction="none",
                label_smoothing=factor,
            )
            metric.update(losses, batch["num_targets"])
            self.log_metric(f"{stage}/{name}", metric)
        for name, search in SEARCHES[stage].items():
            translations = self.translate_batch(batch["source"], batch["source_length"], search)
            found = dict(zip(batch["index"].tolist(), translations))
            self._translations.setdefault(name, {}).update(found)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        """Log scores that compare the translations of all ranks with the references."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        signature = self.nll.signature.replace("nll", "ppl", 1)
        self._log_value(stage, "ppl", self.nll.compute().exp(), signature)
        sources, references = data.texts(stage)
        # Iterate over searches, not over translations: a rank without a batch has no translations.
        for name, search in SEARCHES[stage].items():
            ranks = self.of_all_ranks(self._translations.get(name, {}))
            translations = dict(sorted(item for rank in ranks for item in rank.items()))
            texts = list(translations.values()), [references[index] for index in translations]
            note = f"{search.signature}|split={data.split_name(stage)}|n={len(translations)}"
            scores = {"bleu": bleu(*texts, data.lower), "exact": exact_match(*texts, data.lower)}
            if stage == "test":
                scores["chrf"] = chrf(*texts, data.lower)
                of = [sources[index] for index in translations]
                for bucket, score in bleu_by_length(*texts, of, data.lower).items():
                    scores[f"bleu_source_{bucket}"] = score
            if stage == "test" and hasattr(data, "tokenise"):
                words = data.tokenise, data.word_rules
                scores["bleu_tokenised"] = tokenised_bleu(*texts, *words, data.lower)
                for max_words, again in PUBLISHED_PROTOCOLS.items():
                    scores[f"bleu_unk{max_words}"] = closed_vocabulary_bleu(
                        *texts, *words, data.vocabulary, max_words, again
                    )
            for metric, (value, signature) in scores.items():
                self._log_value(stage, f"{metric}{name}", value, f"{signature[:-1]}|{note}]")
        self._translations = {}

    def _log_value(self, stage: str, name: str, value: Tensor | float, signature: str) -> None:
        self.log(f"{stage}/{name}", float(value))  # equal on all ranks
        self.signatures[f"{stage}/{name}"] = signature

    # Translation

    def search(
        self, source: Tensor, length: Tensor, config: BeamSearchConfig
    ) -> list[list[Hypothesis]]:
        """Return N lists of hypotheses, (score, token ids), best first, for sources (N, S)."""
        max_lengths = config.max_lengths(length.tolist())
        state = self.init_state(self.encode(source, length), max(max_lengths))
        return beam_search(self, state, max_lengths, config, bos=BOS, eos=EOS, device=source.device)

    def translate_batch(
        self, source: Tensor, length: Tensor, config: BeamSearchConfig
    ) -> list[str]:
        """Return the best translation of each of N sources (N, S) of `length` (N,) tokens."""
        tokenizer = self.known_tokenizer().target
        texts = (
            tokenizer.decode(hypotheses[0][1]) if hypotheses else ""
            for hypotheses in self.search(source, length, config)
        )
        # Byte-level models may output line breaks: replace them, because a translation is one line.
        return [" ".join(text.splitlines()) for text in texts]

    def read(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Encode texts as padded source tokens (N, S) and their lengths (N,).

        Raises:
            UserError: If a text has a character that the tokenizer cannot encode.
        """
        tokenizer = self.known_tokenizer()
        rows = [torch.tensor([*tokenizer.encode(text.strip()).tolist(), EOS]) for text in texts]
        length = torch.tensor([len(row) for row in rows])
        source = pad_sequence(rows, batch_first=True, padding_value=PAD)
        return source.to(self.device), length.to(self.device)

    @sampling
    def translate(self, texts: list[str], config: BeamSearchConfig = BEAM) -> list[str]:
        """Return the translations of texts, in the same order; an empty text gives an empty one."""
        translations = [""] * len(texts)
        for indices in self._batches(texts):
            source, length = self.read([texts[index] for index in indices])
            for index, text in zip(indices, self.translate_batch(source, length, config)):
                translations[index] = text
        return translations

    @staticmethod
    def _batches(texts: list[str]) -> Iterator[list[int]]:
        """Yield lists of indices of texts of similar length, with at most `CHARACTERS` per batch.

        A text with more than `CHARACTERS` characters forms a batch alone.
        """
        batch: list[int] = []
        not_empty = [index for index, text in enumerate(texts) if text.strip()]
        for index in sorted(not_empty, key=lambda index: len(texts[index])):
            if batch and (len(batch) + 1) * len(texts[index]) > CHARACTERS:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        beam: PositiveInt = 5,
        length_penalty: FiniteNonNegative = 0.6,
        penalty: Literal["wu", "plain"] = "wu",
        min_length: NonNegativeInt = 0,
        max_length: NonNegativeInt = 0,
    ) -> list[str]:
        """Translate texts by beam search.

        Args:
            seeds: Indices of texts in the test split, one per translation. With `--input`,
                `sample.py` translates the lines of a file, or a given text, instead.
            batch: Texts to translate, with source tokens `source` (N, S) and lengths
                `source_length` (N,).
            beam: Beam size (number of hypotheses per sentence); 1 is greedy decoding.
            length_penalty: Exponent alpha of the length normalisation. Larger values favour longer
                translations; 0 disables the normalisation.
            penalty: Type of length normalisation: "wu" divides log-probabilities by
                ((5 + length) / 6)^alpha, "plain" by length^alpha.
            min_length: Minimum number of tokens in a translation, not counting the end token.
            max_length: Maximum number of tokens in a translation; 0 means twice the source length
                plus 10.

        Returns:
            N translations.

        Raises:
            UserError: If there are no texts, or `max_length` is below `min_length`.
        """
        if batch is None:
            raise UserError("a translation needs texts: give --input, or --data CONFIG")
        config = BeamSearchConfig(beam, length_penalty, penalty, min_length, max_length)
        source, length = batch["source"].to(self.device), batch["source_length"].to(self.device)
        return self.translate_batch(source, length, config)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Return a table of sources, references (=) and translations (>)."""
        if self.tokenizer is None:  # no text to decode; `layer_table` needs a forward pass
            self(batch)
            return {}
        translations = self.translate_batch(batch["source"], batch["source_length"], GREEDY)
        source, target = self.tokenizer.source, self.tokenizer.target
        rows = zip(batch["source"].tolist(), batch["target"].tolist(), translations)
        return {
            "translations": [
                f"{source.decode(a)}\n  = {target.decode(b)}\n  > {text}" for a, b, text in rows
            ],
            "translations/rows": ["source", "= reference", "> translation"],
        }

    def cross_attention(self, weights: list[Tensor]) -> dict[str, Tensor]:
        """Return attention weights (N, H, T, S) from target to source tokens, keyed by plot name.

        Args:
            weights: All attention weights recorded during one call of `encode` and one of `decode`.
        """
        return {}

    @sampling
    def attention_maps(
        self, batch: dict[str, Any], config: BeamSearchConfig = GREEDY
    ) -> dict[str, AttentionMap]:
        """Return the attention weights between the first source of a batch and its translation."""
        tokenizer = self.known_tokenizer()
        length = batch["source_length"][:1]
        source = batch["source"][:1, : int(length)]
        (hypotheses,) = self.search(source, length, config)
        ids = hypotheses[0][1] if hypotheses else []
        target = torch.tensor([[BOS, *ids]], device=source.device)
        with recording_attention(self) as weights:
            self.decode(self.encode(source, length), target)
        rows = [tokenizer.target.token(number) for number in [*ids, EOS]]
        columns = [tokenizer.source.token(number) for number in source[0].tolist()]
        return {
            name: AttentionMap(rows, columns, one[0])
            for name, one in self.cross_attention(weights).items()
        }
