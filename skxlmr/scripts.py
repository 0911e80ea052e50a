"""Scripts that are written without spaces between words."""

from __future__ import annotations

from typing import NamedTuple


class Script(NamedTuple):
    """A script that is written without spaces between words."""

    languages: tuple[str, ...]  # ISO 639-1
    code_points: tuple[tuple[int, int], ...]  # first and last ones
    splits: bool = False  # strings are split into its characters, since words cannot be found without a dictionary


SCRIPTS = {
    "Han": Script(
        ("zh", "ja"),
        ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
        splits=True,
    ),
    "Kana": Script(
        ("ja",),
        ((0x3041, 0x3096), (0x309D, 0x309F), (0x30A1, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F)),
        splits=True,
    ),
    "Bopomofo": Script(("zh",), ((0x3100, 0x312F), (0x31A0, 0x31BF))),
    "Thai": Script(("th",), ((0x0E00, 0x0E7F),), splits=True),
    "Lao": Script(("lo",), ((0x0E80, 0x0EFF),), splits=True),
    "Tibetan": Script(("bo", "dz"), ((0x0F00, 0x0FFF),)),
    "Myanmar": Script(("my",), ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)), splits=True),
    "Khmer": Script(("km",), ((0x1780, 0x17FF),), splits=True),
    # Of languages that are mostly written in other scripts today.
    "Tai Le, New Tai Lue": Script((), ((0x1950, 0x19DF),), splits=True),
    "Lanna": Script((), ((0x1A20, 0x1AAF),), splits=True),
    "Tai Viet": Script((), ((0xAA80, 0xAADF),), splits=True),
    "Balinese": Script((), ((0x1B00, 0x1B7F),), splits=True),
    "Javanese": Script((), ((0xA980, 0xA9DF),), splits=True),
}


def unspaced_script(character: str) -> Script | None:
    """Return the script of a character if it is written without spaces between words, else None.

    Examples
    --------
    >>> [unspaced_script(character) is not None for character in "语ไтa"]
    [True, True, False, False]
    """
    code_point = ord(character)
    for script in SCRIPTS.values():
        if any(first <= code_point <= last for first, last in script.code_points):
            return script
    return None


def unspaced_languages() -> set[str]:
    """Return the ISO 639-1 codes of the languages that are written without spaces between words."""
    return {language for script in SCRIPTS.values() for language in script.languages}
