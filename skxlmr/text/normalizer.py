"""Normalisers of tokenizer.json: texts are rewritten step by step, and each character knows where it comes from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sentencepiece import SentencePieceProcessor

from skxlmr.checkpoints.sentencepiece_file import rules_of, rules_only
from skxlmr.checkpoints.tokenizer_json import PRECOMPILED, SPLIT_AT_WHITESPACE, Steps
from skxlmr.text.offsets import step_stops

# What Unicode calls white space; Python's `isspace` has the separators U+001C to U+001F, too.
WHITESPACE = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


class Aligned(NamedTuple):
    """A rewritten text. Its character i comes from ``start[i]:stop[i]`` of the original; two (n,) int32."""

    text: str
    start: np.ndarray
    stop: np.ndarray

    def with_plain_spaces(self) -> Aligned:
        """Return this text with spaces for any white space, at which a pre-tokenizer splits."""
        return self._replace(text="".join(" " if character in WHITESPACE else character for character in self.text))

    def part(self, start: int, stop: int) -> Aligned:
        """Return a part of this text."""
        return Aligned(self.text[start:stop], self.start[start:stop], self.stop[start:stop])

    def rewritten(self, pieces: list[tuple[str, int, int]]) -> Aligned:
        """Return the texts of the pieces, each instead of the characters ``start, stop`` here."""
        counts = [len(text) for text, _, _ in pieces]
        first = np.repeat([start for _, start, _ in pieces], counts).astype(np.int64)
        last = np.repeat([max(start, stop - 1) for _, start, stop in pieces], counts).astype(np.int64)
        return Aligned("".join(text for text, _, _ in pieces), self.start[first], self.stop[last])


class Normalizer:
    """The steps of a normaliser, in the format of tokenizer.json, and the compiled rules of a sentencepiece model.

    Without steps it applies the rules alone.
    """

    def __init__(self, model: bytes, steps: Steps) -> None:
        self._processor = SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(rules_only(rules_of(model)))
        self._steps = [step for step in steps or (PRECOMPILED,) if step != SPLIT_AT_WHITESPACE]

    def __call__(self, text: str) -> Aligned:
        """Normalise a text; spaces at its ends and repeated ones stay unless a step removes them."""
        places = np.arange(len(text), dtype=np.int32)
        aligned = Aligned(text, places, places + 1)
        for step in self._steps:
            aligned = self._apply(step, aligned)
        return aligned

    def _apply(self, step: dict, aligned: Aligned) -> Aligned:
        text, whole = aligned.text, len(aligned.text)
        match step["type"]:
            case "Precompiled":
                return self._precompiled(aligned)
            case "Lowercase":
                return _each(aligned, str.lower)
            case "StripAccents":
                return _each(aligned, lambda c: "" if unicodedata.category(c)[0] == "M" else c)
            case "Strip":
                start, stop = 0, whole
                while step["strip_left"] and start < stop and text[start] in WHITESPACE:
                    start += 1
                while step["strip_right"] and start < stop and text[stop - 1] in WHITESPACE:
                    stop -= 1
                return aligned.part(start, stop)
            case "Prepend":
                rest = [(character, i, i + 1) for i, character in enumerate(text)]
                return aligned.rewritten([(step["prepend"], 0, 1), *rest]) if text else aligned
            case "Replace":
                return _replace(aligned, step)
            case form:  # NFC, NFD, NFKC or NFKD
                starts = [i for i in range(whole) if i == 0 or _begins_cluster(text[i])]
                clusters = zip(starts, [*starts[1:], whole], strict=True) if starts else ()
                return aligned.rewritten([(unicodedata.normalize(form, text[a:b]), a, b) for a, b in clusters])

    def _precompiled(self, aligned: Aligned) -> Aligned:
        normalized, origin = self._processor.normalize(aligned.text, with_offsets=True)
        start = np.asarray(origin, np.int64)
        stop = step_stops(self._processor, aligned.text, start)
        n = len(normalized)
        return Aligned(normalized, aligned.start[start[:n]], aligned.stop[stop[:n] - 1])


def _each(aligned: Aligned, change: Callable[[str], str]) -> Aligned:
    """Rewrite each character by itself."""
    return aligned.rewritten([(change(character), i, i + 1) for i, character in enumerate(aligned.text)])


def _replace(aligned: Aligned, step: dict) -> Aligned:
    pattern = step["pattern"]
    regex = re.compile(pattern["Regex"] if "Regex" in pattern else re.escape(pattern["String"]))
    pieces, end = [], 0
    for match in regex.finditer(aligned.text):
        pieces += [(aligned.text[i], i, i + 1) for i in range(end, match.start())]
        pieces.append((step["content"], *match.span()))
        end = match.end()
    pieces += [(aligned.text[i], i, i + 1) for i in range(end, len(aligned.text))]
    return aligned.rewritten(pieces)


def _begins_cluster(character: str) -> bool:
    """Whether no form of normalisation joins a character, or reorders it, with those before it."""
    first = unicodedata.normalize("NFKD", character)[:1]
    is_jamo_inside = "\u1160" <= first <= "\u11ff"  # vowels and final consonants of Korean syllables
    return unicodedata.category(first)[0] != "M" and not unicodedata.combining(first) and not is_jamo_inside
