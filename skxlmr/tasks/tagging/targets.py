"""What the y of a tagger may be."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils.validation import check_consistent_length

from skxlmr.columns import name_row, one_column
from skxlmr.tasks.tagging.schemes import spans_to_tags
from skxlmr.tasks.tagging.sentences import TokenColumn

SPANS = (list, tuple, np.ndarray, Mapping)  # what one span may be


def check_tags(y: Any, column: TokenColumn, name: str = "y") -> list[list[str]]:
    """Read one tag per token of each row, or turn the spans of each row into tags.

    A row of y is a list of str, one per token, or a list of spans: (start, end, label), or dicts with these keys.
    Errors name the row.
    """
    rows, _, index = one_column(y, name)
    check_consistent_length(column.texts, rows)
    for i, row in enumerate(rows):
        if not isinstance(row, list | tuple | np.ndarray):
            raise TypeError(f"{name}, {name_row(i, index)}: {row!r:.60} is not a list of tags or spans.")
    if any(isinstance(item, SPANS) for row in rows for item in row):
        return [_from_spans(row, i, column, f"{name}, {name_row(i, index)}") for i, row in enumerate(rows)]
    for i, (row, tokens) in enumerate(zip(rows, column.texts, strict=True)):
        # Rows without a span are empty lists in both forms.
        if len(row) != len(tokens) and (len(row) or any(map(len, rows))):
            raise ValueError(f"{name}, {name_row(i, index)}: {len(row)} tags for {len(tokens)} tokens.")
        for j, tag in enumerate(row):
            if not isinstance(tag, str):
                raise TypeError(
                    f"{name}, {name_row(i, index)}: tag {j} is {tag!r:.60}, a {type(tag).__name__}, not a text. "
                    f"Numbers of tags are turned into them by [names[number] for number in row]."
                )
    return [list(map(str, row)) if len(row) else ["O"] * len(t) for row, t in zip(rows, column.texts, strict=True)]


def _from_spans(row: Any, i: int, column: TokenColumn, where: str) -> list[str]:
    spans = []
    for span in row:
        if isinstance(span, Mapping) and {"start", "end", "label"} <= span.keys():
            span = (span["start"], span["end"], span["label"])
        if not isinstance(span, list | tuple | np.ndarray) or len(span) != 3:
            raise TypeError(f"{where}: {span!r:.60} is not a span (start, end, label).")
        start, end, label = span
        if not (isinstance(start, Integral) and isinstance(end, Integral)):
            raise TypeError(f"{where}: start and end of the span {span!r:.60} must be integers.")
        if not isinstance(label, str | Integral):
            raise TypeError(f"{where}: the label of the span {span!r:.60} is a {type(label).__name__}, not a text.")
        if column.sources is not None:
            start, end = _to_tokens(int(start), int(end), column, i, where)
        spans.append((int(start), int(end), str(label)))
    try:
        return spans_to_tags(spans, len(column.texts[i]))
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error


def _to_tokens(start: int, end: int, column: TokenColumn, i: int, where: str) -> tuple[int, int]:
    """Convert a span of characters to tokens; it has to begin and end where tokens do."""
    assert column.sources is not None
    assert column.offsets is not None
    source, offsets = column.sources[i], column.offsets[i]
    text = source[start:end]
    if not 0 <= start < end <= len(source) or not text.strip():
        raise ValueError(f"{where}: the span ({start}, {end}) is empty or beyond the {len(source)} characters.")
    start, end = start + len(text) - len(text.lstrip()), end - (len(text) - len(text.rstrip()))
    first, last = np.flatnonzero(offsets[:, 0] == start), np.flatnonzero(offsets[:, 1] == end)
    if not len(first) or not len(last):
        raise ValueError(
            f"{where}: the span ({start}, {end}), {text!r:.40}, begins or ends within a token. Pass token lists of "
            f"your own in the place of strings."
        )
    return int(first[0]), int(last[0]) + 1
