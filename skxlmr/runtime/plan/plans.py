"""Tokenised text columns: windows of token ids, and the row that each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from skxlmr.model.segments import segment_max, segment_mean, segment_sum
from skxlmr.system.warn import warn
from skxlmr.text.batching import token_batches


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """The windows of the distinct texts of a column; a text that is not longer than `max_length` is one window.

    Users of a plan call `warn_of_cut`, since plans may be made in a thread, where a warning cannot name their line.
    """

    windows: list[np.ndarray]  # token ids, int32, special tokens included
    text_of_window: np.ndarray  # (n_windows,), int64: indices of distinct texts, ascending
    text_of_row: np.ndarray  # (n_rows,), int64
    positions: list[np.ndarray] | None = None  # tokens with features, per window; None means one vector per window
    texts_are_whole: bool = False  # the loss of a text needs all its windows, so they share a micro-batch
    n_cut: int = 0  # number of distinct texts that are truncated to `cut_at` tokens
    cut_at: int = 0
    left_out: np.ndarray | None = None  # (n_windows,), int64: first tokens that the pooling does not take; None: none

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens in each window."""
        return np.fromiter(map(len, self.windows), np.int64, len(self.windows))

    @property
    def n_pooled(self) -> np.ndarray:
        """Number of tokens of each window that the pooling takes."""
        return self.lengths if self.left_out is None else self.lengths - self.left_out

    @property
    def counts(self) -> np.ndarray:
        """Number of feature vectors of each window."""
        if self.positions is None:
            return np.ones(len(self.windows), np.int64)
        return np.fromiter(map(len, self.positions), np.int64, len(self.windows))

    @property
    def windows_per_unit(self) -> np.ndarray:
        """Number of windows of each unit, which is what a head has one output for; here each window is a unit."""
        return np.ones(len(self.windows), np.int64)

    @property
    def text_of_unit(self) -> np.ndarray:
        """The distinct text of each unit, (n_units,), ascending."""
        return self.text_of_window

    def units_of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the units of some rows: their indices, and for each the place of its row in `rows`."""
        texts, counts = self.text_of_row[rows], np.bincount(self.text_of_unit)
        return rows_of(texts, counts), np.repeat(np.arange(len(rows)), counts[texts])

    @property
    def counts_of_units(self) -> np.ndarray:
        """Number of feature vectors of each unit, once they are combined."""
        return self.counts

    def unit_starts(self, windows: np.ndarray) -> np.ndarray:
        """Return where the units begin in an array of windows, which holds units as a whole."""
        return np.arange(len(windows))

    def combination(self, windows: np.ndarray) -> list[np.ndarray]:
        """Return what `combine` needs to know of some windows, which hold units as a whole."""
        return []

    def combine(self, features: Tensor, combination: Sequence[Tensor]) -> Tensor:
        """Turn the features of some windows, (n, H), into those of their units; here they are the same.

        `combination` is that of the windows, on the device of the features.
        """
        return features

    @property
    def windows_per_text(self) -> np.ndarray:
        """Number of windows of each distinct text."""
        return np.bincount(self.text_of_window)

    @property
    def n_texts(self) -> int:
        """Number of distinct texts."""
        return int(self.text_of_window[-1]) + 1

    def take(self, rows: np.ndarray) -> WindowPlan:
        """Return the plan of some of the rows."""
        return replace(self, text_of_row=self.text_of_row[rows])

    def warn_of_cut(self, n_cut: int | None = None, n_texts: int | None = None) -> None:
        """Warn of texts that are truncated; counts of several plans take the place of those of this one."""
        n_cut = self.n_cut if n_cut is None else n_cut
        if n_cut:
            warn(self._say_cut(n_cut, n_texts or self.n_texts))

    def _say_cut(self, n_cut: int, n_texts: int) -> str:
        return (
            f"{n_cut} of {n_texts} distinct texts were cut at {self.cut_at} tokens (truncation=True). "
            f"Use truncation=False to read long texts whole, in windows."
        )

    def micro_batches(self, windows: np.ndarray, place: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
        """Split the result of `windows_of_rows` into batches of about `batch_tokens`, as indices into `windows`."""
        lengths = self.lengths[windows]
        if not self.texts_are_whole:
            return token_batches(lengths, batch_tokens)
        counts = np.bincount(place)
        return [rows_of(batch, counts) for batch in token_batches(np.bincount(place, lengths), batch_tokens)]

    def shortest(self, rows: np.ndarray) -> int:
        """Return the number of tokens of the smallest part of these rows that can be run alone."""
        windows, place = self.windows_of_rows(rows)
        lengths = self.lengths[windows]
        return int((np.bincount(place, lengths) if self.texts_are_whole else lengths).min())

    def windows_of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows of some rows: their indices, and for each the place of its row in `rows`."""
        texts, counts = self.text_of_row[rows], self.windows_per_text
        return rows_of(texts, counts), np.repeat(np.arange(len(rows)), counts[texts])


@dataclass(frozen=True, eq=False, kw_only=True)
class PairPlan(WindowPlan):
    """A plan of pairs whose texts are read separately; what a plan calls a text is a pair, and is also a unit.

    The windows of a pair are those of its first text, then those of its second.
    """

    is_second: np.ndarray  # (n_windows,) bool
    texts_are_whole: bool = True

    @property
    def windows_per_unit(self) -> np.ndarray:
        return self.windows_per_text

    @property
    def text_of_unit(self) -> np.ndarray:
        return np.arange(self.n_texts)

    @property
    def counts_of_units(self) -> np.ndarray:
        return np.ones(self.n_texts, np.int64)

    def unit_starts(self, windows: np.ndarray) -> np.ndarray:
        return self._side_starts(windows)[::2]

    def combination(self, windows: np.ndarray) -> list[np.ndarray]:
        starts, tokens = self._side_starts(windows), self.n_pooled[windows]
        counts = np.diff(starts, append=len(windows))
        return [starts, tokens / np.repeat(np.add.reduceat(tokens, starts), counts)]

    def combine(self, features: Tensor, combination: Sequence[Tensor]) -> Tensor:
        """Average the windows of each text, by their numbers of tokens; (n, H) -> (n_pairs, 2, H)."""
        starts, shares = combination
        sides = segment_sum(features * shares.to(features.dtype)[:, None], starts)
        return sides.view(-1, 2, features.shape[1])

    def sides(self) -> WindowPlan:
        """Return a plan of single texts: the first and the second of row 0, then those of row 1, ..."""
        of_rows = (2 * self.text_of_row[:, None] + np.arange(2)).ravel()
        return WindowPlan(self.windows, 2 * self.text_of_window + self.is_second, of_rows, left_out=self.left_out)

    def _side_starts(self, windows: np.ndarray) -> np.ndarray:
        """Return where the windows of a text begin; first and second texts alternate."""
        is_second = self.is_second[windows]
        return np.flatnonzero(np.diff(is_second, prepend=True))


@dataclass(frozen=True, eq=False, kw_only=True)
class PiecePlan(WindowPlan):
    """A plan whose features are read at positions of the windows."""

    positions: list[np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class WordPlan(PiecePlan):
    """A plan of words that are read at several pieces, whose features are combined.

    The pieces of a word are next to each other in the positions of one window.
    """

    n_pieces: list[np.ndarray]  # of each word of a window, at least 1
    aggregation: str  # "mean" or "max"

    @property
    def counts_of_units(self) -> np.ndarray:
        return np.fromiter(map(len, self.n_pieces), np.int64, len(self.windows))

    def combination(self, windows: np.ndarray) -> list[np.ndarray]:
        counts = np.concatenate([self.n_pieces[i] for i in windows])
        return [counts if self.aggregation == "max" else np.cumsum(counts) - counts]

    def combine(self, features: Tensor, combination: Sequence[Tensor]) -> Tensor:
        """Combine the features of pieces, (n_pieces, H), to those of words, (n_words, H)."""
        return (segment_max if self.aggregation == "max" else segment_mean)(features, combination[0])


def rows_of(chosen: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the indices of the rows of the chosen windows, if each window has `counts` rows, in order of windows.

    Examples
    --------
    >>> rows_of(np.array([2, 0]), np.array([2, 1, 3])).tolist()
    [3, 4, 5, 0, 1]
    """
    starts = np.cumsum(counts) - counts
    n = counts[chosen]
    return np.arange(n.sum()) + np.repeat(starts[chosen] - (np.cumsum(n) - n), n)
