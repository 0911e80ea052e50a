"""Scripts: those that are written without spaces between words, and those that texts are written in."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
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


SAMPLED_TEXTS = 2000
SAMPLED_CHARACTERS = 1000  # of each text
SMALLEST_SHARE = 0.01  # of the texts, from which on a script is not just a foreign name in some of them
# What is before the kind of a character in its Unicode name, as in LATIN SMALL LETTER A.
NAME = re.compile(
    r"(?:FULLWIDTH |HALFWIDTH )?(?P<script>[A-Z -]+?) (?:(?:SMALL|CAPITAL) )?(?:LETTER|SYLLABLE|CHARACTER)\b"
)
OTHER_NAMES = {"Hiragana": "Kana", "Katakana": "Kana"}
NO_SCRIPTS = ("Modifier", "Double-Struck", "Mathematical")


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


def scripts_of(texts: Sequence[str]) -> list[str]:
    """Return the scripts in which texts are written, the most frequent first.

    Of many texts some are read, evenly spaced. A script counts that is in 1% of them.

    Examples
    --------
    >>> scripts_of(["good morning", "hello", "доброе утро 123"])
    ['Latin', 'Cyrillic']
    """
    sampled = texts[:: -(-len(texts) // SAMPLED_TEXTS) or 1]
    counts: Counter[str] = Counter()
    for text in sampled:
        counts.update({script for character in set(text[:SAMPLED_CHARACTERS]) if (script := _script(character))})
    return [
        script
        for script, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
        if n >= SMALLEST_SHARE * len(sampled)
    ]


@lru_cache(maxsize=10_000)
def _script(character: str) -> str | None:
    """Return the script of a letter; None for other characters, and for letters of no one script."""
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "")
    if name.startswith("CJK "):
        return "Han"
    found = NAME.match(name)
    script = found["script"].title() if found else ""
    return None if not script or script.startswith(NO_SCRIPTS) else OTHER_NAMES.get(script, script)
