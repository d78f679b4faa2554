"""Similarity of translations to references: BLEU, chrF and exact match.

BLEU counts shared words and word sequences, chrF shared character sequences. Neither measures
meaning, and values are comparable only if their signatures are equal.
"""

from collections.abc import Callable

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

BUCKETS = (
    (1, 9),
    (10, 14),
    (15, 19),
    (20, 10_000),
)  # minimum and maximum number of words of a source
Figure = tuple[float, str]


def bleu(texts: list[str], references: list[str], lower: bool) -> Figure:
    """sacreBLEU of a corpus, 0 to 100, and its signature (Papineni et al. 2002; Post 2018).

    Args:
        texts: Translations to score.
        references: One reference for each translation.
        lower: Whether words are compared in lower case.
    """
    metric = BLEU(lowercase=lower)
    value = metric.corpus_score(texts, [references]).score
    return value, f"bleu[{metric.get_signature()}]"


def chrf(texts: list[str], references: list[str], lower: bool) -> Figure:
    """chrF of a corpus, 0 to 100, and its signature (Popović 2015)."""
    metric = CHRF(lowercase=lower)
    value = metric.corpus_score(texts, [references]).score
    return value, f"chrf[{metric.get_signature()}]"


def tokenised_bleu(
    texts: list[str],
    references: list[str],
    tokenise: Callable[[str], list[str]],
    rules: str,
    lower: bool,
) -> Figure:
    """BLEU over the words of a corpus' own tokenizer, without smoothing.

    This is the protocol of papers before sacreBLEU.

    Args:
        texts: Translations to score.
        references: One reference for each translation.
        tokenise: Function that splits a text into words.
        rules: Name of `tokenise` in the signature.
        lower: Whether words are compared in lower case.
    """
    words, reference_words = ([tokenise(text) for text in side] for side in (texts, references))
    return _word_bleu("bleu_tokenised", words, reference_words, lower, f"words={rules}")


def closed_vocabulary_bleu(
    texts: list[str],
    references: list[str],
    tokenise: Callable[[str], list[str]],
    rules: str,
    vocabulary: frozenset[str],
    max_words: int,
    retokenise: bool,
) -> Figure:
    """BLEU after replacing words outside of a vocabulary by `<unk>`, in lower case, not smoothed.

    This is comparable with translators over whole words, which cannot generate other words.
    References keep all of their words.

    Args:
        texts: Translations to score.
        references: One reference for each translation.
        tokenise: Function that splits a text into words.
        rules: Name of `tokenise` in the signature.
        vocabulary: Lower-cased words that are not replaced.
        max_words: Maximum number of words of a translation; longer translations are truncated.
        retokenise: Whether the words are joined by spaces and split again; spaCy then splits
            `<unk>` into three words.
    """
    words = [
        [word if word.lower() in vocabulary else "<unk>" for word in tokenise(text)[:max_words]]
        for text in texts
    ]
    if retokenise:
        words = [tokenise(" ".join(line)) for line in words]
    note = (
        f"words={rules}|vocabulary={len(vocabulary)}|max_words={max_words}"
        f"|retokenised={'yes' if retokenise else 'no'}"
    )
    return _word_bleu("bleu_unk", words, [tokenise(text) for text in references], True, note)


def _word_bleu(
    name: str, texts: list[list[str]], references: list[list[str]], lower: bool, note: str
) -> Figure:
    """Compute BLEU of texts that are already split into words, without smoothing."""
    metric = BLEU(lowercase=lower, tokenize="none", smooth_method="none", force=True)
    value = metric.corpus_score(
        [" ".join(words) for words in texts], [[" ".join(words) for words in references]]
    ).score
    return value, f"{name}[{metric.get_signature()}|{note}]"


def bleu_by_length(
    texts: list[str], references: list[str], sources: list[str], lower: bool
) -> dict[str, Figure]:
    """BLEU of sentences grouped by the number of words in the source, such as "10-14".

    Words are split at white space. Without attention, one context vector represents the whole
    source, and BLEU falls with its length.
    """
    figures: dict[str, Figure] = {}
    for first, last in BUCKETS:
        chosen = [
            number for number, source in enumerate(sources) if first <= len(source.split()) <= last
        ]
        if chosen:
            value, signature = bleu(
                [texts[i] for i in chosen], [references[i] for i in chosen], lower
            )
            name = f"{first}-{last}" if last < 10_000 else f"{first}+"
            figures[name] = (
                value,
                f"{signature[:-1]}|source_words={name}(split at white space)|"
                f"sentences={len(chosen)}]",
            )
    return figures


def exact_match(texts: list[str], references: list[str], lower: bool) -> Figure:
    """Share of translations that equal their references.

    Args:
        texts: Translations to score.
        references: One reference for each translation.
        lower: Whether texts are compared in lower case.
    """
    normalise = str.lower if lower else str
    equal = sum(
        normalise(text) == normalise(reference) for text, reference in zip(texts, references)
    )
    return equal / max(1, len(texts)), f"exact[{'case:lc|' if lower else ''}compare=whole]"
