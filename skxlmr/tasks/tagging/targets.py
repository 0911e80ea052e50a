"""What the y of a tagger may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from skxlmr.columns import check_n_rows, name_row, one_column
from skxlmr.tags.infer import infer_scheme
from skxlmr.tags.rows import raise_for_rows
from skxlmr.tags.schemes import OTHER_NAMES, SCHEMES, get_scheme, read_tags
from skxlmr.tags.spans import SPAN_TYPES
from skxlmr.tasks.tagging.sentences import TokenColumn
from skxlmr.tasks.tagging.spans import SpanReader

ENTITY_TAG = re.compile(r"O|[BIESLUM]-\S+")
SCHEME_NAMES = {"auto", "plain", *SCHEMES, *OTHER_NAMES}  # what the parameter `scheme` of a tagger may be


def check_tags(
    y: Any, column: TokenColumn, name: str = "y", *, scheme: str = "auto", align: str = "strict"
) -> list[list[str]]:
    """Read one tag per token of each row, or turn the spans of each row into tags.

    A row of y is a list of str, one per token, or a list of spans: (start, end, label), or dicts; see
    `skxlmr.tags.spans.read_span`. Spans become tags of the scheme, of BIO if it is "auto". Errors count the rows and
    show the first ten.
    """
    rows, _, index = one_column(y, name)
    check_n_rows(rows, column.texts, name)
    names = _row_names(index, len(rows))
    bad = [
        (names[i], f"{row!r:.60} is not a list of tags or spans")
        for i, row in enumerate(rows)
        if not isinstance(row, list | tuple | np.ndarray)
    ]
    if bad:
        advice = _advice_on_texts(rows) if all(isinstance(row, str) for row in rows) else ""
        raise_for_rows(name, bad, len(rows), "", advice, error=TypeError)
    if any(isinstance(item, SPAN_TYPES) for row in rows for item in row):
        if scheme == "plain":
            raise ValueError(f"{name} has spans, which tags of scheme='plain' cannot mark. Set scheme='auto'.")
        return SpanReader(column, align).tags(rows, "BIO" if scheme == "auto" else scheme, name, names)
    _check_tags_of_tokens(rows, column, name, names)
    return [list(map(str, row)) if len(row) else ["O"] * len(t) for row, t in zip(rows, column.texts, strict=True)]


def _advice_on_texts(rows: Sequence[str]) -> str:
    """Say how texts in place of lists of tags become lists: there are several tags in each, or one."""
    if any(len(row.split()) > 1 for row in rows):
        return "Split texts of tags: [tags.split() for tags in y]."
    return (
        "A row is a sentence: if each has one token and its tag, collect them, "
        "df.groupby('sentence')[['token', 'tag']].agg(list); if sentences have one word, [[tag] for tag in y]."
    )


def _check_tags_of_tokens(rows: Sequence[Any], column: TokenColumn, name: str, names: Sequence[str]) -> None:
    some = any(map(len, rows))  # rows without a span are empty lists in both forms
    lengths, types = [], []
    for i, (row, tokens) in enumerate(zip(rows, column.texts, strict=True)):
        if len(row) != len(tokens) and some:
            lengths.append((names[i], f"{len(row)} tags for {len(tokens)} tokens"))
        odd = next((j for j, tag in enumerate(row) if not isinstance(tag, str)), None)
        if odd is not None:
            types.append((names[i], f"tag {odd} is {row[odd]!r:.60}, a {type(row[odd]).__name__}, not a text"))
    if types:
        advice = "Numbers of tags are turned into them by [names[number] for number in row]."
        if all(len(row) == 3 and isinstance(row[2], str) for row in rows):
            advice = "If they are spans, put those of each row into a list: [(start, end, label)]."
        raise_for_rows(name, types, len(rows), "", advice, TypeError)
    if lengths:
        advice = "Give each token one tag."
        if column.sources is not None:
            advice += " XLMRXLTagger.tokenize shows the tokens of strings."
        raise_for_rows(name, lengths, len(rows), "", advice)


def refuse_swapped(column: TokenColumn, rows: Sequence[Sequence[str]]) -> None:
    """Raise a ValueError if all tokens are tags of entities, and those of `rows`, the tags, are not."""
    tokens = {token for sentence in column.texts for token in sentence}
    if any(token != "O" for token in tokens) and all(map(ENTITY_TAG.fullmatch, tokens)):
        other = next((tag for row in rows for tag in row if not ENTITY_TAG.fullmatch(tag)), None)
        if other is not None:
            raise ValueError(
                f"X has tags such as {max(tokens - {'O'})!r}, and y has tokens such as {other!r:.40}: they are "
                f"swapped. Call fit(tokens, tags)."
            )


def _row_names(index: pd.Index | None, n: int) -> list[str]:
    return [name_row(i, index) for i in range(n)]


def find_scheme(rows: Sequence[Sequence[str]], used: np.ndarray, scheme: str, y: Any) -> str:
    """Return the scheme of the tags of the rows that are used, (n_rows,) bool, inferred if it is "auto".

    Raises a ValueError, which names rows as y does, if the scheme does not have one of the tags.
    """
    name, every = "y", _row_names(one_column(y, "y")[2], len(rows))
    chosen = np.flatnonzero(used).tolist()
    names, rows = [every[i] for i in chosen], [rows[i] for i in chosen]
    if scheme == "auto":
        return infer_scheme(rows, name=name, names=names)
    if scheme != "plain":
        read_tags(rows, scheme, name=name, names=names)
        return get_scheme(scheme).name
    return scheme
