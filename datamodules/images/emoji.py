"""Emoji by their code points: families of related glyphs, groups and names."""

import re

from common.errors import UserError

SKIN_TONES = {f"{code:X}" for code in range(0x1F3FB, 0x1F400)}
GENDER_SIGNS = {"2640", "2642"}
INVISIBLE = {"FE0F", "200D"}  # variation selector and zero-width joiner
PERSON = "1F9D1"
GENDERED = {"1F468": PERSON, "1F469": PERSON}  # man, woman
FLAG = re.compile(
    "1F1[EF].-1F1[EF].|1F3F4-E00"
)  # two regional indicators, or a black flag with a subdivision's tags


FLAG_GROUP = 8
GROUPS = (
    *("Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink"),
    *("Travel & Places", "Activities", "Objects", "Symbols", "Flags", "other"),
)


def picture_key(code: str) -> str:
    """Family of a glyph like "1F469-1F3FB-200D-1F680" by its code points; "1F9D1-1F680" here."""
    points = [GENDERED.get(point, point) for point in code.split("-")]
    kept = [point for point in points if point not in SKIN_TONES | GENDER_SIGNS | INVISIBLE]
    return "-".join(kept) or code  # a skin tone by itself keeps itself


def composition_key(code: str) -> str:
    """Family of a glyph that ignores its skin tone and nothing else."""
    return (
        "-".join(point for point in code.split("-") if point not in SKIN_TONES | {"FE0F"}) or code
    )


def emoji_names(codes: list[str], language: str) -> dict[str, str]:
    """Names of the glyphs that have one: lower-cased, words separated by blanks."""
    import emoji

    emoji.config.load_language(language)
    known = {
        text.replace("\ufe0f", ""): entry[language]
        for text, entry in emoji.EMOJI_DATA.items()
        if language in entry
    }
    texts = {
        code: "".join(chr(int(point, 16)) for point in code.split("-") if point != "FE0F")
        for code in codes
    }
    return {
        code: known[text].strip(":").replace("_", " ").lower()
        for code, text in texts.items()
        if text in known
    }


def check_language(option: str, language: str) -> None:
    """Refuse a language in which emoji have no names.

    Raises:
        UserError: naming the option, and the languages that there are.
    """
    import emoji

    if language not in emoji.LANGUAGES:
        raise UserError(
            f"{option} {language}: emoji have no names in it; give one of "
            f"{', '.join(sorted(emoji.LANGUAGES))}"
        )
