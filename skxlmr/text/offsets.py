"""The characters that each piece comes from, in the caller's own string and not in the normalised one."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from sentencepiece import SentencePieceProcessor

SPACE = "▁"  # U+2581, how sentencepiece writes a space


def piece_offsets(processor: SentencePieceProcessor, text: str) -> np.ndarray:
    """Return the characters of `text` that each of its pieces spells, as ``start, stop``, (n_pieces, 2) int32.

    The normaliser rewrites text in steps of one or more characters ("ﬁ" to "fi", "e" + accent to "é", a control
    character to nothing) and returns the character at which each step begins. A piece that spells only a part of a
    rewritten character has the whole of that character. Leading whitespace is left out: for a piece that is only a
    space, start and stop are the start of the next piece. The text must not have lone surrogates.
    """
    pieces = processor.encode(text, out_type=str)
    normalized, origin = processor.normalize(text, with_offsets=True)
    origin = np.asarray(origin, dtype=np.int32)  # (len(normalized) + 1,), never decreasing

    lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    if lengths.sum() != len(normalized):
        raise ValueError(
            "the sentencepiece model's pieces do not spell its normalised text (byte fallback?): no offsets"
        )
    spaces = np.fromiter((len(p) - len(p.lstrip(SPACE)) for p in pieces), dtype=np.int64, count=len(pieces))
    after = lengths.cumsum()
    first = after - lengths + spaces  # the first visible character of each piece; equals `after` if there is none
    visible = first < after

    start = origin[first]
    stop = step_stops(processor, text, origin)[after - 1]
    return np.stack([start, np.where(visible, stop, start)], axis=1)


def step_stops(processor: SentencePieceProcessor, text: str, origin: np.ndarray) -> np.ndarray:
    """Return where the step of the normaliser ends that gave each character, (n,).

    `origin` is where it begins, as from `SentencePieceProcessor.normalize`, (n + 1,).
    """
    step_ends = np.append(origin, origin.dtype.type(len(text)))
    stop = step_ends[np.searchsorted(origin, origin[:-1], side="right")]
    # Characters that normalise to nothing belong to the step before them: leave them out.
    long = np.flatnonzero(stop - origin[:-1] > 1)
    steps = dict(zip(origin[long].tolist(), stop[long].tolist(), strict=True))
    tight = {start: _tight_stop(processor, text, start, end) for start, end in steps.items()}
    stop[long] = [tight[start] for start in origin[long].tolist()]
    return stop


def _tight_stop(processor: SentencePieceProcessor, text: str, start: int, stop: int) -> int:
    """Return the end of the shortest ``text[start:...]`` that normalises to the same as ``text[start:stop]``."""
    whole = processor.normalize(text[start:stop])
    # By binary search, because a megabyte of control characters must not take quadratic time.
    return start + bisect_left(range(start, stop), True, key=lambda end: processor.normalize(text[start:end]) == whole)
