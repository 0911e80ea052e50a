"""The values of a text column: what is not a text is an error that names its row."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from skxlmr.columns.rows import name_row
from skxlmr.system.text_length import check_lengths
from skxlmr.system.warn import warn

ROWS_AT_ONCE = 10_000
FILE_OF_TEXT = re.compile(r"(?!.*://)\S+\.(txt|text|md|rst|html?|xml|json|csv|pdf|docx?|eml)", re.IGNORECASE)
REMEDIES = {
    "missing": "Fill missing texts, for example with fillna(''), or drop these rows with dropna(); where an estimator "
    "has the parameter `missing`, 'empty' reads them as empty texts.",
    "bytes": "Decode it first: value.decode('utf-8').",
    "other": "If it is meant as text, convert it first, for example with astype(str).",
}


def check_column_of_texts(values: list, name: str, index: pd.Index | None, missing: str = "error") -> list[str]:
    """Check that every value is a str, and replace what cannot be encoded as UTF-8.

    With missing="empty", missing values become empty texts; otherwise they are an error.
    """
    types = set(map(type, values))
    if missing == "empty" and types != {str}:
        values = ["" if is_missing(value) else value for value in values]
        types = set(map(type, values))
    if types != {str}:
        if not all(issubclass(t, str) for t in types):
            row = next(i for i, value in enumerate(values) if not isinstance(value, str))
            _refuse(values[row], row, name, index)
        values = list(map(str.__str__, values))  # str() of an enum's member is its name
    check_lengths(values, lambda row: f"{name}, {name_row(row, index)}")
    if len(values) > 1 and all(len(value) < 1000 and FILE_OF_TEXT.fullmatch(value) for value in values):
        warn(
            f"{name} has names of files, such as {values[0]!r:.60}, which are read as texts. If the texts are in these "
            f"files, read them first: [pathlib.Path(name).read_text() for name in {name}]."
        )
    return _replace_surrogates(values, name, index)


def list_of_texts(values: Any, name: str, *, or_one: bool = False) -> list[str]:
    """Return the texts of an argument that is a list, array, Series or Index of them, or `or_one` text.

    Raises
    ------
    TypeError
        If it is something else, or has anything else; the message names the argument.
    """
    if or_one and isinstance(values, str):
        return [values]
    is_list = isinstance(values, list | tuple | np.ndarray | pd.Series | pd.Index)
    if not is_list or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} must be {'a text or ' if or_one else ''}a list of texts, got {values!r:.60}.")
    return list(values)


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or the like."""
    return not isinstance(value, str) and pd.api.types.is_scalar(value) and bool(pd.isna(value))


def _refuse(value: Any, row: int, name: str, index: pd.Index | None) -> NoReturn:
    """Raise an error that says what the value is."""
    shown = repr(value)
    what = f"{name}, {name_row(row, index)}: {shown[:60]}{'...' if len(shown) > 60 else ''}"
    if is_missing(value):
        raise ValueError(f"{what} is a missing value, not a text. {REMEDIES['missing']}")
    kind = "bytes" if isinstance(value, bytes | bytearray) else "other"
    raise TypeError(f"{what} is a {type(value).__name__}, not a text. {REMEDIES[kind]}")


def _replace_surrogates(texts: list[str], name: str, index: pd.Index | None) -> list[str]:
    """Replace lone surrogates by U+FFFD. Many texts are checked at once, since surrogates are rare."""
    bad: list[int] = []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        some = texts[start : start + ROWS_AT_ONCE]
        if not _is_utf8("".join(some)):
            bad += [start + i for i, text in enumerate(some) if not _is_utf8(text)]
    if not bad:
        return texts
    warn(
        f"{name}: {len(bad)} texts contain lone surrogates, which are not characters; they were replaced by U+FFFD. "
        f"The first is {name_row(bad[0], index)}."
    )
    texts = list(texts)
    for i in bad:
        # Surrogate pairs become the character that they encode; lone surrogates become U+FFFD.
        texts[i] = texts[i].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return texts


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
