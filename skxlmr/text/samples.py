"""The texts of a call of the tokenizer: one text or pair, or a batch of them, as strings or as lists of words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any, TypeAlias

import numpy as np

from skxlmr.system.text_length import check_lengths
from skxlmr.text.segments import Pieces, Segmenter, SpecialTokens

Text: TypeAlias = "str | list[str]"  # or its words
Texts: TypeAlias = "str | Sequence[str] | Sequence[Sequence[str]]"


@dataclass(frozen=True)
class Samples:
    """The texts of a call. A batch of one text or pair is not the same as this one alone."""

    columns: list[list[Text]]  # the texts, or the first and the second ones of pairs
    is_batch: bool
    in_words: bool

    def __len__(self) -> int:
        return len(self.columns[0])

    def pieces(
        self, segmenter: Segmenter, special_tokens: SpecialTokens, with_offsets: bool
    ) -> Iterator[tuple[Pieces, ...]]:
        """Encode each text or pair; offsets in lists of words are those in each word."""
        encoded = [self._encoded(segmenter, texts, special_tokens, with_offsets) for texts in self.columns]
        return zip(*encoded, strict=True)

    def _encoded(
        self, segmenter: Segmenter, texts: list[Any], special_tokens: SpecialTokens, with_offsets: bool
    ) -> list[Pieces]:
        strings = list(chain.from_iterable(texts)) if self.in_words else texts
        pieces = segmenter.encode(strings, special_tokens=special_tokens, with_offsets=with_offsets)
        if not self.in_words:
            return pieces
        nothing = Pieces(np.empty(0, np.int32), np.empty((0, 2), np.int32))
        ends = accumulate(map(len, texts), initial=0)
        return [
            Pieces(*map(np.concatenate, zip(nothing, *pieces[start:stop], strict=True)))
            for start, stop in pairwise(ends)
        ]


def read_samples(text: Texts, text_pair: Texts | None, is_split_into_words: bool) -> Samples:
    """Check the texts of a call.

    Raises TypeError if one is not a string, or `text` and `text_pair` are not alike, and ValueError if their numbers
    differ.
    """
    if text_pair is None and not is_split_into_words and not isinstance(text, str) and _has_pairs(text):
        text, text_pair = _unzipped(list(text))
    given = {"text": text} if text_pair is None else {"text": text, "text_pair": text_pair}
    kinds = {_is_batch(name, column, is_split_into_words) for name, column in given.items()}
    if len(kinds) > 1:
        one = "lists of words" if is_split_into_words else "strings"
        raise TypeError(f"text and text_pair must both be {one} or both be lists of {one}")
    is_batch = kinds.pop()
    columns: list[list[Text]] = []
    for name, column in given.items():
        rows: Any = column if is_batch else [column]
        if is_split_into_words:
            columns.append([check_texts(words, f"{name}[{i}]" if is_batch else name) for i, words in enumerate(rows)])
        else:
            columns.append(list(check_texts(rows, name)))
    if len(set(map(len, columns))) > 1:
        lengths = " and ".join(f"{len(column)} in {name}" for name, column in zip(given, columns, strict=True))
        raise ValueError(f"text and text_pair must have the same length: there are {lengths}")
    return Samples(columns, is_batch, is_split_into_words)


def check_texts(texts: Iterable[Any], name: str = "texts") -> list[str]:
    """Return the texts as a list; raise a TypeError that names the first one that is not a string."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"{name} must be a list of strings, not a single {type(texts).__name__}: wrap it in a list")
    if not isinstance(texts, Iterable):
        raise TypeError(f"{name} must consist of strings, got {texts!r:.60}")
    texts = list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            words = "; pass lists of words with is_split_into_words=True" if isinstance(text, list | tuple) else ""
            raise TypeError(f"{name}[{row}] is {type(text).__name__}, not a string: {text!r:.60}{words}")
    check_lengths(texts, lambda row: f"{name}[{row}]")
    return texts


def _is_batch(name: str, column: Any, in_words: bool) -> bool:
    if not in_words:
        return not isinstance(column, str)
    if isinstance(column, str | bytes) or not isinstance(column, Sequence | np.ndarray):
        raise TypeError(f"{name} must be a list of words with is_split_into_words=True, not {type(column).__name__}")
    return len(column) > 0 and not isinstance(column[0], str)


def _has_pairs(texts: Any) -> bool:
    return isinstance(texts, Sequence) and len(texts) > 0 and isinstance(texts[0], list | tuple)


def _unzipped(pairs: list[Any]) -> tuple[list[Any], list[Any]]:
    for row, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise TypeError(
                f"text[{row}] must be a pair of two strings, since text[0] is a {type(pairs[0]).__name__}, got "
                f"{pair!r:.60}; pass lists of words with is_split_into_words=True"
            )
    return [first for first, _ in pairs], [second for _, second in pairs]
