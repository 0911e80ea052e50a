"""Where an answer stands in its context."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple


class Place(NamedTuple):
    """Characters of a context, `context[start:stop]`; `is_unique` is False if the text stands elsewhere, too."""

    start: int
    stop: int
    is_unique: bool = True


class PlaceError(ValueError):
    """Raised if a text does not stand in its context, or not where it should."""


def find_text(text: str, context: str, start: int | None = None) -> Place:
    """Find a text in a context, at a start or anywhere.

    If it does not stand there as it is, it may differ in white space, in invisible characters such as direction marks,
    and in the composition and width of characters (Unicode's NFKD, which the tokenizer does not tell apart either). A
    start may also count the characters of the context in NFC or NFD, or with single spaces.

    Raises
    ------
    PlaceError
        If it does not stand in the context, or not at this start.

    Examples
    --------
    >>> find_text("Ada Lovelace", "by Ada \\n Lovelace")
    Place(start=3, stop=17, is_unique=True)
    """
    if start is not None and start >= 0 and context.startswith(text, start) and text:
        return Place(start, start + len(text))
    places = list(_exact(text, context)) or next(filter(None, (_folded(text, context, s) for s in (" ", ""))), [])
    if not places:
        raise PlaceError(f"the answer {text!r:.60} does not stand in its context")
    if start is None:
        return Place(*places[0], len(places) == 1)
    begins_with_space = text != text.lstrip()
    counted = [place for place in places if _counts(context, place[0], start, begins_with_space)]
    if not counted:
        first = min(places, key=lambda place: abs(place[0] - start))[0]
        shown = context[max(start, 0) :][: len(text)]
        raise PlaceError(
            f"the answer {text!r:.60} does not stand in its context at character {start}, where {shown!r:.60} is, but "
            f"at {first}. Starts count characters from 0"
        )
    return Place(*min(counted, key=lambda place: abs(place[0] - start)))


def _exact(text: str, context: str) -> Iterator[tuple[int, int]]:
    at = context.find(text) if text.strip() else -1
    while at >= 0:
        yield at, at + len(text)
        at = context.find(text, at + 1)


def _folded(text: str, context: str, space: str) -> list[tuple[int, int]]:
    """Return where a text stands in a context if both are normalised."""
    wanted = "".join(c for c, _ in _fold(text, space)).strip()
    folded = _fold(context, space)
    key, sources = "".join(c for c, _ in folded), [i for _, i in folded]
    places = []
    for begin, end in _exact(wanted, key):
        first, last = min(sources[begin:end]), max(sources[begin:end])
        is_whole = (begin == 0 or sources[begin - 1] < first) and (end == len(key) or sources[end] > last)
        if is_whole and not _composes(context, first) and not _composes(context, last + 1):
            places.append((first, last + 1))
    return places


@lru_cache(maxsize=8)  # a context has several questions
def _fold(text: str, space: str) -> list[tuple[str, int]]:
    """Return the characters of a text in NFKD, with the position that each comes from.

    `space` stands for any run of white space; if it is "", digits stay apart nevertheless.
    """
    folded: list[tuple[str, int]] = []
    run: list[tuple[str, int]] = []  # combining marks, which have an order of their own
    space_at = -1
    for i, original in enumerate(text):
        if original == "\u200b" or original.isspace():
            space_at = i if space_at < 0 else space_at
            continue
        if unicodedata.category(original) == "Cf":
            continue
        for character in unicodedata.normalize("NFKD", original):
            if unicodedata.combining(character):
                run.append((character, i))
                continue
            folded += sorted(run, key=lambda mark: unicodedata.combining(mark[0]))
            run = []
            if space_at >= 0:
                are_digits = bool(folded) and folded[-1][0].isdigit() and character.isdigit()
                folded += [(mark, space_at) for mark in (" " if are_digits else space)]
                space_at = -1
            folded.append((character, i))
    return folded + sorted(run, key=lambda mark: unicodedata.combining(mark[0]))


def _composes(text: str, at: int) -> bool:
    """Whether the characters on both sides of a position are parts of one: "e" and an accent, or Hangul letters."""
    left, right = text[max(at - 3, 0) : at], text[at : at + 3]
    if right and unicodedata.combining(right[0]):
        return True
    together = unicodedata.normalize("NFC", left + right)
    return together != unicodedata.normalize("NFC", left) + unicodedata.normalize("NFC", right)


def _counts(context: str, position: int, start: int, begins_with_space: bool) -> bool:
    """Whether a start stands for a position: in the context, or in a normalised one."""
    if start < 0:
        return False
    if start == position or (begins_with_space and start < position and not context[start:position].strip()):
        return True
    before = context[:position]
    for form in ("NFC", "NFD"):
        normal = unicodedata.normalize(form, before)
        single = " ".join(normal.split()) + (" " if normal[-1:].isspace() else "")
        if start in (len(normal), len(single), len(normal.lstrip()), len(normal.replace("\r\n", "\n"))):
            return True
    return False
