"""Reading X as a column of texts."""

from __future__ import annotations

from typing import Any

from skxlmr.columns.containers import is_sequence, split_columns
from skxlmr.columns.names import feature_names
from skxlmr.columns.text_column import TextColumn
from skxlmr.columns.values import check_column_of_texts


def check_text_column(X: Any, *, name: str = "X", missing: str = "error") -> TextColumn:
    """Read one column of texts, or two columns of text pairs, of any sequence or library that narwhals knows.

    Errors name the row. With missing="empty", missing values become empty texts. Lone surrogates, which no encoding can
    write, become U+FFFD, with one warning.

    Examples
    --------
    >>> check_text_column(["one", "two"]).texts
    ['one', 'two']
    """
    columns, labels, index = split_columns(X, name)
    names = feature_names(X, name)
    if len(columns) not in (1, 2):
        listed = f": {', '.join(map(repr, labels))}" if labels is not None else ""
        if labels is None and is_sequence(X):
            listed = f". If they are the words of one text, join them: [' '.join(row) for row in {name}]"
        raise ValueError(
            f"{name} has {len(columns)} columns{listed}. Select the text column, df['text'], or two columns "
            f"for text pairs, df[['question', 'answer']]."
        )
    if not len(columns[0]):
        raise ValueError(f"{name} has 0 sample(s), while a minimum of 1 is required. Pass at least one text.")
    texts = [
        check_column_of_texts(column, name if labels is None else f"{name}, column {labels[i]!r}", index, missing)
        for i, column in enumerate(columns)
    ]
    return TextColumn(texts[0], texts[1] if len(texts) == 2 else None, names, len(texts))


def check_one_text(X: Any, missing: str = "error", *, name: str = "X") -> TextColumn:
    """Read one column of texts; two are an error."""
    column = check_text_column(X, name=name, missing=missing)
    if column.pairs is not None:
        raise ValueError(f"{name} has 2 columns, where one of texts is needed. Select it: df['text'].")
    return column
