"""Similarity of translations to references: BLEU, chrF and exact match.

BLEU counts words and word sequences that a translation shares with its reference; chrF counts
shared character sequences. Neither measures meaning. Values are comparable only if their
signatures, the strings that record the settings, are equal.
"""

from collections.abc import Callable

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

# Minimum and maximum number of source words of each group in `bleu_by_length`.
BUCKETS = ((1, 9), (10, 14), (15, 19), (20, 10_000))
Figure = tuple[float, str]


def bleu(texts: list[str], references: list[str], lower: bool) -> Figure:
    """Return the BLEU of a corpus, 0 to 100, and its signature, a string with the settings.

    BLEU (Papineni et al. 2002) is computed by sacreBLEU (Post 2018). Its default tokenizer splits
    at spaces and punctuation. If most letters of the references are Chinese or Japanese, which have
    no spaces between words, characters take the place of words.

    Args:
        texts: Translations to score.
        references: One reference for each translation.
        lower: Whether words are compared in lower case.
    """
    metric = BLEU(lowercase=lower, tokenize="char" if without_spaces(references) else "13a")
    value = metric.corpus_score(texts, [references]).score
    return value, f"bleu[{metric.get_signature()}]"


def without_spaces(texts: list[str]) -> bool:
    """Return whether most letters are Chinese characters or Japanese syllables."""
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return 2 * sum("\u3040" <= letter <= "\u9fff" for letter in letters) > len(letters)


def chrf(texts: list[str], references: list[str], lower: bool) -> Figure:
    """Return the chrF of a corpus, 0 to 100, and its signature string (Popović 2015)."""
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
    """Compute BLEU over the words of a given tokenizer, without smoothing.

    Papers before sacreBLEU computed BLEU in this way.

    Args:
        texts: Translations to score.
        references: One reference for each translation.
        tokenise: Function that splits a text into words.
        rules: Name of the rules of `tokenise`, recorded in the signature string.
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
    """Compute BLEU in lower case after replacing words outside of a vocabulary by `<unk>`.

    The value is comparable with the BLEU of translators that generate only words of a fixed
    vocabulary. Words of references are not replaced. BLEU is not smoothed.

    Args:
        texts: Translations to score.
        references: One reference for each translation.
        tokenise: Function that splits a text into words.
        rules: Name of the rules of `tokenise`, recorded in the signature string.
        vocabulary: Lower-cased words that are not replaced.
        max_words: Maximum number of words of a translation; longer translations are truncated.
        retokenise: Whether the words are joined with spaces and split again after the replacement.
            spaCy then splits `<unk>` into three words.
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
    """Compute BLEU for each range of source lengths in words, keyed by range, such as "10-14".

    Words are split at white space. In translators without attention, one context vector represents
    the whole source, and BLEU falls with the length of the source.
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
    """Compute the share of translations that equal their references.

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
