"""Tokenised text columns: windows of token ids, and the row that each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from skxlmr.columns import TextColumn
from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.model.segments import segment_max, segment_mean, segment_sum
from skxlmr.runtime.backbone import Backbone
from skxlmr.system.parameters import parameter, parameter_group
from skxlmr.system.warn import warn
from skxlmr.text.batching import deduplicate, token_batches


@parameter_group
class WindowParameters:
    """How texts are cut that are longer than the model reads at once.

    Parameters
    ----------
    max_length : int
        Maximum number of tokens that the model reads at once; a longer text is read in windows of this length. None is
        the length that a directory of sentence-transformers was trained with (its `max_seq_length`), and otherwise all
        that the model can, 512; the attribute `max_length_` shows it.
    stride : int or "auto"
        Number of tokens that neighbouring windows of a text longer than `max_length` share; "auto" is an eighth of
        `max_length`.
    """

    max_length: int | None = parameter(default=None, valid=[Interval(Integral, 4, None, closed="left"), None], order=20)
    stride: int | str = parameter(
        default="auto", valid=[Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})], order=20
    )


@parameter_group
class Truncation:
    """Whether texts are cut instead.

    Parameters
    ----------
    truncation : bool
        Read only the beginning of a long text, as sentence-transformers does, and not all of it in windows. A warning
        counts the texts that were cut.
    """

    truncation: bool = parameter(default=False, valid=["boolean"], order=20)


@dataclass(frozen=True)
class Windows:
    """The values of `WindowParameters` and `Truncation`; `limit` is the `max_length` that the checkpoint asks for."""

    max_length: int | None = None
    stride: int | str = "auto"
    truncation: bool = False
    limit: int | None = None

    def default(self, backbone: Backbone) -> int:
        """Return the number of tokens that `max_length=None` stands for."""
        longest = backbone.model.config.max_length
        return longest if self.limit is None else min(self.limit, longest)

    def resolve(self, backbone: Backbone) -> tuple[int, int]:
        """Return `max_length` and `stride` as numbers.

        Raises ValueError if the model reads less than `max_length`, or neighbouring windows would be the same.
        """
        longest, name = backbone.model.config.max_length, backbone.name
        if self.max_length is not None and self.max_length > longest:
            raise ValueError(f"max_length={self.max_length}, but {name!r} reads at most {longest} tokens at once.")
        max_length = self.max_length or self.default(backbone)
        stride, room = max_length // 8 if self.stride == "auto" else int(self.stride), max_length - 2
        if stride >= room and not self.truncation:
            raise ValueError(
                f"stride={stride} leaves no way to advance: a window holds {room} pieces beside its special tokens. "
                f"Use a stride below {room}, or raise max_length."
            )
        return max_length, stride


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

    def combine(self, features: Tensor, windows: np.ndarray) -> Tensor:
        """Turn the features of some windows, (n, H), into those of their units; here they are the same."""
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

    def combine(self, features: Tensor, windows: np.ndarray) -> Tensor:
        """Average the windows of each text, by their numbers of tokens; (n, H) -> (n_pairs, 2, H)."""
        starts, tokens = self._side_starts(windows), self.n_pooled[windows]
        counts = np.diff(starts, append=len(windows))
        shares = tokens / np.repeat(np.add.reduceat(tokens, starts), counts)
        weighted = features * torch.from_numpy(shares).to(features)[:, None]
        sides = segment_sum(weighted, torch.from_numpy(starts).to(features.device))
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

    def combine(self, features: Tensor, windows: np.ndarray) -> Tensor:
        """Combine the features of pieces, (n_pieces, H), to those of words, (n_words, H)."""
        counts = np.concatenate([self.n_pieces[i] for i in windows])
        if self.aggregation == "max":
            return segment_max(features, torch.from_numpy(counts).to(features.device))
        return segment_mean(features, torch.from_numpy(np.cumsum(counts) - counts).to(features.device))


def make_plan(
    tokenizer: XLMRobertaXLTokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
    stride: int,
    truncation: bool = False,
    prompt: str = "",
) -> WindowPlan:
    """Tokenise each distinct text or pair once, and split long ones into windows, or truncate them.

    A window has at most `max_length` tokens, special tokens included, of which neighbours share `stride`. The pooling
    leaves out the `prompt` with which all texts begin, and the token `<s>` before it.
    """
    first, text_of_row = deduplicate(texts if pairs is None else list(zip(texts, pairs, strict=True)))
    ids = tokenizer.encode_batch([texts[i] for i in first])
    pair_ids = [None] * len(ids) if pairs is None else tokenizer.encode_batch([pairs[i] for i in first])
    n_prompt = len(tokenizer.encode_batch([prompt])[0]) if prompt else 0
    windows, text_of_window, left_out, truncated = [], [], [], 0
    for text, (a, b) in enumerate(zip(ids, pair_ids, strict=True)):
        if truncation:
            window, dropped = tokenizer.truncate(a, b, max_length=max_length)
            of_text, truncated = [window], truncated + (dropped > 0)
            left_out.append(1 + min(n_prompt, len(window) - 2))
        else:
            cut = tokenizer.windows(a, b, max_length=max_length, stride=stride)
            of_text = [window.input_ids for window in cut]
            # Of <s> and the first text, what is before the end of the prompt.
            left_out += [1 + min(max(start, n_prompt), stop) - start for start, stop in (w.ranges[0] for w in cut)]
        windows += of_text
        text_of_window += [text] * len(of_text)
    return WindowPlan(
        windows,
        np.asarray(text_of_window, np.int64),
        text_of_row,
        n_cut=truncated,
        cut_at=max_length,
        left_out=np.asarray(left_out, np.int64) if prompt else None,
    )


def make_pair_plan(
    tokenizer: XLMRobertaXLTokenizer,
    texts: Sequence[str],
    pairs: Sequence[str],
    *,
    max_length: int,
    stride: int,
    truncation: bool = False,
    prompt: str = "",
) -> PairPlan:
    """Tokenise pairs of texts that are read separately: each distinct text once, long ones in windows or truncated.

    For `prompt` see `make_plan`.
    """
    first, text_of_row = deduplicate(list(zip(texts, pairs, strict=True)))
    sides = [side for i in first for side in (texts[i], pairs[i])]
    single = make_plan(tokenizer, sides, max_length=max_length, stride=stride, truncation=truncation, prompt=prompt)
    windows_of_side = single.windows_per_text[single.text_of_row]
    chosen = rows_of(single.text_of_row, single.windows_per_text)
    side = np.repeat(np.arange(len(sides)), windows_of_side)
    return PairPlan(
        [single.windows[i] for i in chosen],
        side // 2,
        text_of_row,
        n_cut=single.n_cut,
        cut_at=max_length,
        left_out=None if single.left_out is None else single.left_out[chosen],
        is_second=side % 2 == 1,
    )


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


def plan_texts(backbone: Backbone, column: TextColumn, windows: Windows, prompt: str = "") -> WindowPlan:
    """Plan a column of texts, or of pairs, for a base model; the pooling leaves out the `prompt` at their beginning."""
    max_length, stride = windows.resolve(backbone)
    return make_plan(
        backbone.tokenizer,
        column.texts,
        column.pairs,
        max_length=max_length,
        stride=stride,
        truncation=windows.truncation,
        prompt=prompt,
    )


def plan_pairs(backbone: Backbone, column: TextColumn, windows: Windows, prompt: str = "") -> PairPlan:
    """Plan a column of pairs whose texts are read separately, which begin with the `prompt` as in `plan_texts`."""
    assert column.pairs is not None
    max_length, stride = windows.resolve(backbone)
    return make_pair_plan(
        backbone.tokenizer,
        column.texts,
        column.pairs,
        max_length=max_length,
        stride=stride,
        truncation=windows.truncation,
        prompt=prompt,
    )
