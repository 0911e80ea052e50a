"""Which pieces of a long text, or of a pair of texts, form one input of the model.

This module only computes ranges from lengths; the piece encoder cuts the ids. *Room* is the number of pieces that fit
into an input beside the special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Range = tuple[int, int]  # start, stop, in pieces of one text
Only = Literal["longest", "first", "second"]


@dataclass(frozen=True, eq=False, slots=True)
class Window:
    """One input of the model, and the pieces of the text or texts that it contains."""

    input_ids: np.ndarray  # (n,) int32, special tokens included
    ranges: tuple[Range, ...]  # for each text, the range of its pieces in this window
    sequence: int = 0  # the text that is windowed: 0, or 1 for the second of a pair

    @property
    def start(self) -> int:
        """First piece of the windowed text in this window."""
        return self.ranges[self.sequence][0]

    @property
    def stop(self) -> int:
        """One past the last piece of the windowed text in this window."""
        return self.ranges[self.sequence][1]

    @property
    def position(self) -> int:
        """Index in `input_ids` of piece `start` of the windowed text."""
        if self.sequence == 0:
            return 1  # <s> A
        first_start, first_stop = self.ranges[0]
        return 1 + (first_stop - first_start) + 2  # <s> A </s></s> B


def window_ranges(length: int, room: int, stride: int) -> list[Range]:
    """Cut a text into ranges of at most `room` pieces that overlap by `stride`; the last ends at `length`."""
    step = room - stride
    count = 1 + max(0, -((room - length) // step))
    return [(i * step, min(i * step + room, length)) for i in range(count)]


def plan_windows(
    lengths: tuple[int, ...], room: int, stride: int, only: Only = "longest"
) -> tuple[list[tuple[Range, ...]], int]:
    """Plan the windows over a text or a pair, each with one range per text; no piece is left out.

    `only` is the text of a pair that is windowed while each window holds the whole of the other; the second result is
    its index. "longest" windows the longer one (the first, if both are equally long) if the shorter takes at most half
    of the room; otherwise both are windowed, each in its half, and each window of the text with more of them is
    combined with the window at the same relative position of the other. Each piece of both is seen, and the number of
    windows grows with the longer text and not with the product of both.

    Examples
    --------
    A pair of 3 and 12 pieces, and one of 7 and 12, of which neither is short:

    >>> plan_windows((3, 12), room=10, stride=2)
    ([((0, 3), (0, 7)), ((0, 3), (5, 12))], 1)
    >>> plan_windows((7, 12), room=10, stride=2)
    ([((0, 5), (0, 5)), ((0, 5), (3, 8)), ((3, 7), (6, 11)), ((3, 7), (9, 12))], 1)
    """
    if len(lengths) == 1:
        _check_only(only, ("longest", "first"))
        _check_stride(stride, room)
        return [(of_text,) for of_text in window_ranges(lengths[0], room, stride)], 0

    _check_only(only, ("longest", "first", "second"))
    half = room // 2
    _check_stride(stride, half if only == "longest" else room, pair=only == "longest")
    sequence = {"first": 0, "second": 1, "longest": int(lengths[1] > lengths[0])}[only]
    windowed, kept = lengths[sequence], lengths[1 - sequence]
    if sum(lengths) <= room:
        pairs = [((0, windowed), (0, kept))]
    elif only == "longest" and kept > half:
        pairs = _combine(window_ranges(windowed, room - half, stride), window_ranges(kept, half, stride))
    elif stride >= room - kept:
        raise ValueError(
            f"the {('first', 'second')[1 - sequence]} text of the pair has {kept} pieces and is kept whole, which "
            f"leaves {max(0, room - kept)} of {room} places for windows that overlap by stride={stride}: raise "
            f"max_length, lower stride, or let both texts be windowed with only='longest'"
        )
    else:
        pairs = [(of_text, (0, kept)) for of_text in window_ranges(windowed, room - kept, stride)]
    return [(a, b) if sequence == 0 else (b, a) for a, b in pairs], sequence


def plan_truncation(lengths: tuple[int, ...], room: int, only: Only = "longest") -> tuple[Range, ...]:
    """Plan one window that starts at the first piece of each text, and drops the pieces that do not fit.

    `only` is the text of a pair that is cut. "longest" cuts the longer one until both are equally long and then both by
    turns; an odd place goes to the longer one (the second, if both are equally long).
    """
    if len(lengths) == 1:
        _check_only(only, ("longest", "first"))
        return ((0, min(lengths[0], room)),)

    _check_only(only, ("longest", "first", "second"))
    if sum(lengths) <= room:
        kept = lengths
    elif only == "longest":
        short = min(*lengths, room // 2)
        kept = (short, room - short) if lengths[0] <= lengths[1] else (room - short, short)
    else:
        cut = 0 if only == "first" else 1
        left = room - lengths[1 - cut]
        if left < 1:
            raise ValueError(
                f"truncating only the {only} text leaves nothing of it: the other has {lengths[1 - cut]} pieces and "
                f"there are {room} places for both; raise max_length or truncate the longest first"
            )
        kept = (left, lengths[1]) if cut == 0 else (lengths[0], left)
    return ((0, kept[0]), (0, kept[1]))


def _combine(a: list[Range], b: list[Range]) -> list[tuple[Range, Range]]:
    """Pair the windows at the same relative position of two texts, each window at least once."""
    n = max(len(a), len(b))
    return [(a[i * len(a) // n], b[i * len(b) // n]) for i in range(n)]


def _check_only(only: str, allowed: tuple[str, ...]) -> None:
    if only not in allowed:
        of = "a pair" if len(allowed) == 3 else "a single text"
        raise ValueError(f"only={only!r} for {of} must be one of {', '.join(map(repr, allowed))}")


def _check_stride(stride: int, room: int, *, pair: bool = False) -> None:
    if stride < 0:
        raise ValueError(f"stride={stride} must not be negative: it is the number of pieces that windows share")
    if stride >= room:
        where = "half a window of a pair" if pair else "a window"
        raise ValueError(
            f"stride={stride} leaves no way to advance: {where} holds {room} pieces beside its special tokens; "
            f"use a stride below {room} or raise max_length"
        )
