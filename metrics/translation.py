"""How near translations are to references.

BLEU counts shared words and word sequences, chrF shared character sequences; neither knows meaning, and both compare only at equal
signatures.
"""

from collections.abc import Callable

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

BUCKETS = ((1, 9), (10, 14), (15, 19), (20, 10_000))  # words of a source
Figure = tuple[float, str]


def bleu(texts: list[str], references: list[str], lower: bool) -> Figure:
    """sacreBLEU of a corpus, 0 to 100, and its signature (Papineni et al. 2002; Post 2018).

    Args:
        texts: translations.
        references: one for each.
        lower: whether all is lower-cased.
    """
    metric = BLEU(lowercase=lower)
    value = metric.corpus_score(texts, [references]).score
    return value, f"bleu[{metric.get_signature()}]"


def chrf(texts: list[str], references: list[str], lower: bool) -> Figure:
    """chrF of a corpus, 0 to 100, and its signature (Popović 2015)."""
    metric = CHRF(lowercase=lower)
    value = metric.corpus_score(texts, [references]).score
    return value, f"chrf[{metric.get_signature()}]"


def tokenised_bleu(texts: list[str], references: list[str], tokenise: Callable[[str], list[str]], rules: str) -> Figure:
    """BLEU over the words that the rules of a corpus find in both, lower-cased, without smoothing: the older papers' protocol."""
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    words = [[" ".join(tokenise(text.lower())) for text in side] for side in (texts, references)]
    return metric.corpus_score(words[0], [words[1]]).score, f"bleu_tokenised[{metric.get_signature()}|words={rules}]"


def bleu_by_length(texts: list[str], references: list[str], sources: list[str], lower: bool) -> dict[str, Figure]:
    """BLEU of sentences whose source has so many words, by "first-last": where a context vector forgets, long ones are worse."""
    found = {}
    for first, last in BUCKETS:
        chosen = [number for number, source in enumerate(sources) if first <= len(source.split()) <= last]
        if chosen:
            value, signature = bleu([texts[i] for i in chosen], [references[i] for i in chosen], lower)
            name = f"{first}-{last}" if last < 10_000 else f"{first}+"
            found[name] = value, f"{signature[:-1]}|source_words={name}|sentences={len(chosen)}]"
    return found


def exact_match(texts: list[str], references: list[str]) -> Figure:
    """Share of translations that are their references."""
    return sum(map(str.__eq__, texts, references)) / max(1, len(texts)), "exact[compare=whole]"
