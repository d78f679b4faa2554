"""Metrics of translations, compared with sacreBLEU on words that are split by hand."""

from pathlib import Path

import pytest
import sacrebleu
from pytorch_lightning import Trainer

from datamodules.parallel.multi30k import Multi30k
from lightning_modules.transformer import Transformer
from metrics.translation import (
    bleu,
    bleu_by_length,
    chrf,
    closed_vocabulary_bleu,
    exact_match,
    tokenised_bleu,
)

TEXTS = [
    "A man, in a red hat, sleeps.",
    "two Dogs run through the deep snow .",
    "A girl isn't here",
]
REFERENCES = ["A man in a red Hat sleeps.", "Two dogs run through deep snow.", "A girl isn't there"]
# spaCy's words of both, split by hand
WORDS = [
    "A man , in a red hat , sleeps .",
    "two Dogs run through the deep snow .",
    "A girl is n't here",
]
REFERENCE_WORDS = [
    "A man in a red Hat sleeps .",
    "Two dogs run through deep snow .",
    "A girl is n't there",
]
DATA = Multi30k("de", "en")


def words_bleu(texts: list[str], references: list[str], lower: bool = False) -> float:
    """BLEU of texts whose words are separated by spaces, by sacreBLEU's own function."""
    return sacrebleu.corpus_bleu(
        texts, [references], smooth_method="none", force=True, lowercase=lower, tokenize="none"
    ).score


def test_chinese_and_japanese_have_no_words() -> None:
    """BLEU counts their characters, as sacreBLEU does with `trg_lang`."""
    value, signature = bleu(["穿红裙子的女人在跳舞"], ["穿红裤子的女人在跳舞"], False)
    assert value == pytest.approx(70.711, abs=1e-3)
    assert "|tok:char|" in signature
    assert "|tok:13a|" in bleu(TEXTS, REFERENCES, False)[1]
    assert "|tok:13a|" in bleu(["춤추는 사람"], ["춤추는 사람"], False)[1]  # Korean has spaces


@pytest.mark.parametrize("lower", [False, True])
def test_tokenised_bleu_has_the_case_of_its_signature(lower: bool) -> None:
    """BLEU over spaCy's words; "hat" equals "Hat" only with `case:lc`."""
    value, signature = tokenised_bleu(TEXTS, REFERENCES, DATA.tokenise, DATA.word_rules, lower)
    assert value == pytest.approx(words_bleu(WORDS, REFERENCE_WORDS, lower))
    case = "lc" if lower else "mixed"
    version = sacrebleu.__version__
    assert signature == (
        f"bleu_tokenised[nrefs:1|case:{case}|eff:no|tok:none|smooth:none|version:{version}"
        "|words=spacy-blank-en]"
    )
    mixed, lowered = (
        tokenised_bleu(TEXTS, REFERENCES, DATA.tokenise, "", fold)[0] for fold in (False, True)
    )
    assert lowered > mixed > 0


def test_signatures_are_those_of_the_calls_that_compute() -> None:
    """A metric ignores case if and only if its signature has `case:lc`."""
    upper = [text.upper() for text in TEXTS]
    for figure in (bleu, chrf, exact_match):
        for lower in (False, True):
            value, signature = figure(upper, TEXTS, lower)
            assert ("case:lc" in signature) == lower
            assert (value == pytest.approx(1 if figure is exact_match else 100)) == lower
    assert (
        bleu(TEXTS, REFERENCES, True)[0]
        == sacrebleu.corpus_bleu(TEXTS, [REFERENCES], lowercase=True).score
    )
    assert next(iter(bleu_by_length(TEXTS, REFERENCES, ["ein Wort"] * 3, True).values()))[
        1
    ].endswith("|source_words=1-9(split at white space)|sentences=3]")


@pytest.mark.parametrize("retokenise", [False, True])
def test_unknown_words_of_a_closed_vocabulary(retokenise: bool) -> None:
    """Unknown words become `<unk>`, which spaCy splits into three; long texts are truncated."""
    known = "a man , in red sleeps . two dogs run through the snow girl is n't here"
    vocabulary = frozenset(known.split())
    value, signature = closed_vocabulary_bleu(
        TEXTS, REFERENCES, DATA.tokenise, "spacy", vocabulary, 7, retokenise
    )
    written = [
        "a man , in a red <unk>",
        "two dogs run through the <unk> snow",
        "a girl is n't here",
    ]
    if retokenise:
        written = [text.replace("<unk>", "< unk >") for text in written]
    expected = words_bleu(written, [text.lower() for text in REFERENCE_WORDS])
    assert value == pytest.approx(expected)
    assert 0 < value < 100
    assert signature.startswith("bleu_unk[nrefs:1|case:lc|eff:no|tok:none|smooth:none|")
    assert signature.endswith(
        f"|words=spacy|vocabulary=17|max_words=7|retokenised={'yes' if retokenise else 'no'}]"
    )


def test_an_open_vocabulary_is_tokenised_bleu() -> None:
    """Both metrics are equal if no word is replaced or truncated; references score 100."""
    vocabulary = frozenset(
        word.lower() for line in (*WORDS, *REFERENCE_WORDS) for word in line.split()
    )
    for texts in (TEXTS, REFERENCES):
        found, _ = closed_vocabulary_bleu(
            texts, REFERENCES, DATA.tokenise, "", vocabulary, 49, False
        )
        assert found == tokenised_bleu(texts, REFERENCES, DATA.tokenise, "", True)[0]
    assert found == pytest.approx(100)


def test_bleu_of_words_equals_its_definition() -> None:
    """BLEU is the geometric mean of clipped precisions times the brevity penalty.

    Papineni et al. 2002, section 2.3.
    """
    value, _ = closed_vocabulary_bleu(
        ["a b c d e"], ["a b c d f g"], str.split, "", frozenset("abcdefg"), 49, False
    )
    assert value == pytest.approx(
        100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4) * 2.718281828459045 ** (1 - 6 / 5)
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Root of a corpus with the layout of Multi30k."""
    sides = {
        "train": (
            ["Ein Hund .", "Zwei Hunde .", "Hund"],
            ["A dog runs.", "Two DOGS run , a", "dog ,"],
        ),
        "val": (["Katze"], ["cat cat cat"]),
        "test_2016_flickr": (["Hund", "Hunde"], ["A dog, a dog, a dog runs.", "cat cat"]),
    }
    (tmp_path / "multi30k").mkdir()
    for name, pair in sides.items():
        for ending, lines in zip(("de", "en"), pair):
            (tmp_path / "multi30k" / f"{name}.{ending}").write_text(
                "".join(f"{line}\n" for line in lines), encoding="utf-8"
            )
    return tmp_path


def test_the_vocabulary_has_the_words_seen_twice(corpus: Path) -> None:
    """The words come from all training targets, even if `max_samples` is set."""
    for options in ({}, {"lower": True}, {"max_samples": 1}):
        assert Multi30k(tokenizer="word", root=str(corpus), **options).vocabulary == {
            "a",
            "dog",
            ",",
        }


def test_a_test_run_prints_the_published_protocols(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BLEU of at most 24 words that are tokenised again, and of at most 49 that are not."""
    data = Multi30k(tokenizer="word", lower=True, root=str(corpus))
    model = Transformer(
        data.data_spec["source_vocab_size"], data.data_spec["vocab_size"], 1, 2, 8, 8
    )
    monkeypatch.setattr(
        model,
        "translate_batch",
        lambda source, length, search: ["a dog , a dog runs ." + " a" * 60] * len(source),
    )
    off = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    (figures,) = Trainer(accelerator="cpu", **off).test(model, datamodule=data, verbose=False)
    for max_words, written in (
        (24, "a dog , a dog < unk > < unk >"),
        (49, "a dog , a dog <unk> <unk>"),
    ):
        expected = words_bleu(
            [written + " a" * (max_words - 7)] * 2, ["a dog , a dog , a dog runs .", "cat cat"]
        )
        assert expected > 0
        assert figures[f"test/bleu_unk{max_words}"] == pytest.approx(expected, rel=1e-5)
        retokenised = "yes" if max_words == 24 else "no"
        note = (
            f"vocabulary=3|max_words={max_words}|retokenised={retokenised}|beam=1|split=test|n=2]"
        )
        assert model.signatures[f"test/bleu_unk{max_words}"].endswith(note)
    nll = model.signatures["test/nll"]
    assert nll == (
        f"nll[unit=nats/token|tokens=word:{data.data_spec['vocab_size']}"
        "|case:lc|smoothing=0|split=test]"
    )
