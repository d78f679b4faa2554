"""Emoji: families of related emoji, Unicode groups, and names in several languages."""

import re

from common.errors import UserError

SKIN_TONES = {f"{code:X}" for code in range(0x1F3FB, 0x1F400)}
GENDER_SIGNS = {"2640", "2642"}
INVISIBLE = {"FE0F", "200D"}  # variation selector and zero-width joiner
PERSON = "1F9D1"
GENDERED = {"1F468": PERSON, "1F469": PERSON}  # man, woman
# Code points of flags: two regional indicators, or a black flag with the tags of a region.
FLAG = re.compile("1F1[EF].-1F1[EF].|1F3F4-E00")
FLAG_GROUP = 8
GROUPS = (
    *("Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink"),
    *("Travel & Places", "Activities", "Objects", "Symbols", "Flags", "other"),
)


def picture_key(code: str) -> str:
    """Return the code points of an emoji without gender, skin tones and invisible code points.

    Emoji with the same result are one family, which is kept in one split. For example,
    "1F469-1F3FB-200D-1F680" (woman, light skin tone, joiner, rocket) gives "1F9D1-1F680".
    """
    points = [GENDERED.get(point, point) for point in code.split("-")]
    kept = [point for point in points if point not in SKIN_TONES | GENDER_SIGNS | INVISIBLE]
    return "-".join(kept) or code  # an emoji that is only a skin tone is its own family


def composition_key(code: str) -> str:
    """Return the code points of an emoji without skin tones and variation selectors.

    Emoji with the same result are one family under the split rule `composition` of `OpenMoji`.
    """
    return (
        "-".join(point for point in code.split("-") if point not in SKIN_TONES | {"FE0F"}) or code
    )


def emoji_names(codes: list[str], language: str) -> dict[str, str]:
    """Map the code points of emoji to names in lower case; emoji without a name are left out."""
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
    """Check that emoji have names in a language.

    Raises:
        UserError: If emoji have no names in the language; the message lists the languages.
    """
    import emoji

    if language not in emoji.LANGUAGES:
        raise UserError(
            f"{option} {language}: emoji have no names in this language; give one of "
            f"{', '.join(sorted(emoji.LANGUAGES))}"
        )
