"""Sentences of tokens: what a column of them may be, how strings are split, and which window reads which token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from skxlmr.columns import TextColumn, check_text_column, name_row, one_column, total_lengths
from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.runtime.plan import PiecePlan, WordPlan
from skxlmr.system.text_length import check_lengths
from skxlmr.tasks.tagging.tokenizers import Tokenizer, token_offsets
from skxlmr.text.offsets import SPACE
from skxlmr.text.windows import window_ranges
from skxlmr.text.words import split_words


@dataclass(frozen=True, eq=False)
class TokenColumn(TextColumn):
    """A column of sentences: `texts` are tuples of tokens.

    If X was strings, `sources` are these, and `offsets` the characters where each token begins and ends, (n_tokens, 2).
    """

    sources: list[str] | None = None
    offsets: list[np.ndarray] | None = None

    @property
    def strings(self) -> list[str]:
        return list(chain.from_iterable(self.texts))

    @property
    def sizes(self) -> np.ndarray:
        return total_lengths(self.texts)


def check_token_column(X: Any, *, name: str = "X", tokenizer: Tokenizer | None = None) -> TokenColumn:
    """Read a column of token lists, or of strings, which a tokenizer splits, or `split_words`; errors name the row."""
    values, names, index = one_column(X, name)
    if not len(values):
        raise ValueError(f"{name} has 0 sample(s), while a minimum of 1 is required: there is no sentence.")
    if all(isinstance(value, str) for value in values) or not any(
        isinstance(value, list | tuple | np.ndarray) for value in values
    ):
        texts = check_text_column(pd.Series(values, index=index, dtype=object), name=name).texts
        if tokenizer is None:
            offsets = [split_words(text) for text in texts]
        else:
            offsets = [token_offsets(tokenizer, text, f"{name}, {name_row(i, index)}") for i, text in enumerate(texts)]
        tokens = [tuple(text[a:b] for a, b in at.tolist()) for text, at in zip(texts, offsets, strict=True)]
        return TokenColumn(tokens, None, names, 1, texts, offsets)
    tokens = []
    for i, row in enumerate(values):
        if not isinstance(row, list | tuple | np.ndarray):
            raise TypeError(f"{name}, {name_row(i, index)}: {row!r:.60} is not a list of tokens, as other rows are.")
        for j, token in enumerate(row):
            if not isinstance(token, str):
                raise TypeError(
                    f"{name}, {name_row(i, index)}: token {j} is {token!r:.60}, a {type(token).__name__}, not a text."
                )
        tokens.append(tuple(map(str, row)))
    check_lengths(list(map("".join, tokens)), lambda i: f"{name}, {name_row(i, index)}")
    return TokenColumn(tokens, None, names, 1)


def plan_tokens(
    tokenizer: XLMRobertaXLTokenizer,
    sentences: Sequence[tuple[str, ...]],
    *,
    max_length: int,
    stride: int,
    aggregation: str = "first",
    spaces: bool = False,
) -> PiecePlan:
    """Join the pieces of each sentence's tokens, and cut what is too long into windows.

    A token is read at its first piece, in the window where that has most context; if that is a bare space, as before
    most Chinese words, which says nothing of the token, at the piece after it, unless `spaces` count. With the
    `aggregation` "mean" or "max" it is read at all its pieces that this window shows. A token without pieces is read as
    an unknown piece. Rows of the plan are the sentences; its positions, one window after the other, are the tokens in
    order.
    """
    distinct = list(dict.fromkeys(token for sentence in sentences for token in sentence))
    unknown = np.array([tokenizer.unk_token_id], np.int32)
    encoded = tokenizer.encode_batch(distinct) if distinct else []
    pieces = {token: ids if len(ids) else unknown for token, ids in zip(distinct, encoded, strict=True)}
    space = tokenizer.convert_tokens_to_ids(SPACE)
    read_at = {token: int(not spaces and len(ids) > 1 and ids[0] == space) for token, ids in pieces.items()}
    texts, first_pieces, stops = [], [], []
    for sentence in sentences:
        of_tokens = [pieces[token] for token in sentence]
        lengths = np.fromiter(map(len, of_tokens), np.int64, len(of_tokens))
        texts.append(np.concatenate(of_tokens) if of_tokens else np.empty(0, np.int32))
        stops.append(np.cumsum(lengths))
        first_pieces.append(stops[-1] - lengths + np.array([read_at[token] for token in sentence], np.int64))
    if aggregation == "first":
        return plan_pieces(tokenizer, texts, first_pieces, max_length=max_length, stride=stride)
    return _plan_words(tokenizer, texts, first_pieces, stops, aggregation, max_length=max_length, stride=stride)


def plan_pieces(
    tokenizer: XLMRobertaXLTokenizer,
    texts: Sequence[np.ndarray],
    pieces: Sequence[np.ndarray],
    *,
    max_length: int,
    stride: int,
    causal: bool = False,
) -> PiecePlan:
    """Cut texts, given as ids of pieces, into windows, each of which reads some of the pieces.

    `pieces` are those of each text that are to be read, ascending; each is read in the window where it has most
    context, if `causal` most before it. Positions of the plan, one window after the other, are these pieces in order.
    """
    windows, positions, text_of_window = [], [], []
    for i, (ids, wanted) in enumerate(zip(texts, pieces, strict=True)):
        for start, stop, owned in _owned_pieces(len(ids), wanted, max_length, stride, causal):
            windows.append(tokenizer.build_inputs(ids[start:stop]))
            positions.append(wanted[owned] - start + 1)  # <s> is before
            text_of_window.append(i)
    return PiecePlan(windows, np.asarray(text_of_window, np.int64), np.arange(len(texts)), positions=positions)


def _plan_words(
    tokenizer: XLMRobertaXLTokenizer,
    texts: Sequence[np.ndarray],
    first_pieces: Sequence[np.ndarray],
    stops: Sequence[np.ndarray],
    aggregation: str,
    *,
    max_length: int,
    stride: int,
) -> WordPlan:
    """Cut texts into windows that read words at all their pieces, from `first_pieces` to before `stops`."""
    windows, positions, n_pieces, text_of_window = [], [], [], []
    for i, (ids, firsts, ends) in enumerate(zip(texts, first_pieces, stops, strict=True)):
        for start, stop, owned in _owned_pieces(len(ids), firsts, max_length, stride):
            counts = np.minimum(ends[owned], stop) - firsts[owned]
            offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            windows.append(tokenizer.build_inputs(ids[start:stop]))
            positions.append(np.repeat(firsts[owned] - start + 1, counts) + offsets)
            n_pieces.append(counts)
            text_of_window.append(i)
    return WordPlan(
        windows,
        np.asarray(text_of_window, np.int64),
        np.arange(len(texts)),
        positions=positions,
        n_pieces=n_pieces,
        aggregation=aggregation,
    )


def _owned_pieces(
    length: int, pieces: np.ndarray, max_length: int, stride: int, causal: bool = False
) -> Iterator[tuple[int, int, slice]]:
    """Cut a text of some length into windows: where each starts and stops, and which of the pieces it reads."""
    room = max_length - 2
    ranges = window_ranges(length, room, min(stride, room - 1))
    bounds = np.searchsorted(_best_window(pieces, ranges, causal), np.arange(len(ranges) + 1))
    for (start, stop), first, after in zip(ranges, bounds, bounds[1:], strict=False):
        yield start, stop, slice(first, after)


def _best_window(first: np.ndarray, ranges: Sequence[tuple[int, int]], causal: bool = False) -> np.ndarray:
    """Return for each piece the window in which its nearer end, or the start, is farthest; ascending, as pieces are."""
    owner, best = np.zeros(len(first), np.int64), np.full(len(first), -1)
    for number, (start, stop) in enumerate(ranges):
        shown = slice(*np.searchsorted(first, (start, stop)))
        margin = first[shown] - start
        if not causal:
            margin = np.minimum(margin, stop - 1 - first[shown])
        better = margin > best[shown]
        owner[shown][better], best[shown][better] = number, margin[better]
    return owner
