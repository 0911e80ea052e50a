"""Which choices are right, as users say it."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np

from skxlmr.columns import as_objects, check_n_rows, name_row, one_column
from skxlmr.tasks.choice_columns import ChoiceColumn

FORMS = ("index", "choice", "label", "digit", "letter")
FROM_1 = " If yours are counted from 1, subtract 1."


def check_right_choices(y: Any, column: ChoiceColumn, name: str = "y") -> tuple[np.ndarray, str]:
    """Read which choices are right; returns (n_rows,) indices and the form of y.

    All rows have one form: the index of the choice from 0, its text, its label (of choices that have labels), the index
    as a text ("3"), or a letter ("A" for the first). The first of these forms that all rows fit is taken.
    """
    values, _, index = one_column(y.ravel() if isinstance(y, np.ndarray) and y.shape[1:] == (1,) else y, name)
    check_n_rows(values, column.texts, name)
    form = _form(values, column)
    indices = np.empty(len(values), np.int64)
    for i, (value, choices, labels) in enumerate(zip(values, column.choices, column.labels, strict=True)):
        where = f"{name}, {name_row(i, index)}: {value!r:.60}"
        if form == "choice":
            if not isinstance(value, str) or value not in choices:
                raise ValueError(
                    f"{where} is not one of the choices {list(choices)!r:.120}. Give texts of choices in all rows, or "
                    f"their indices from 0 as int."
                )
            indices[i] = choices.index(value)
        elif form == "label":
            indices[i] = (labels or ()).index(value)
        else:
            number = _number(value, form)
            if number is None:
                raise TypeError(
                    f"{where} is not an index of a choice. Give indices from 0 (int) in all rows, or texts of choices."
                )
            if not 0 <= number < len(choices):
                raise ValueError(
                    f"{where} is not an index of one of {len(choices)} choices, which are counted from "
                    f"{'A' if form == 'letter' else 0}.{FROM_1 if number == len(choices) else ''}"
                )
            indices[i] = number
    return indices, form


def right_choices(indices: np.ndarray, column: ChoiceColumn, form: str) -> np.ndarray:
    """Return choices by their indices in the form of y, (n_rows,)."""
    if form == "index":
        return indices
    if form == "choice":
        return as_objects([choices[i] for choices, i in zip(column.choices, indices, strict=True)])
    if form == "label":
        if None in column.labels:
            raise ValueError("y had the labels of choices when the model was fitted, but choices of X have no labels.")
        return as_objects([of_row[i] for of_row, i in zip(column.labels, indices, strict=True) if of_row is not None])
    return as_objects([chr(ord("A") + i) if form == "letter" else str(i) for i in indices])


def _form(values: list, column: ChoiceColumn) -> str:
    if not isinstance(values[0], str):
        return "index"
    rows = list(zip(values, column.choices, column.labels, strict=True))
    if all(isinstance(value, str) and value in choices for value, choices, _ in rows):
        return "choice"
    if all(labels is not None and value in labels for value, _, labels in rows):
        return "label"
    for form in ("digit", "letter"):
        if all(labels is None and _number(value, form) is not None for value, _, labels in rows):
            return form
    return "choice"


def _number(value: Any, form: str) -> int | None:
    """Return the index that a value stands for in a form; None if it has another form."""
    if form == "index":
        whole = isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer())
        return int(value) if whole and not isinstance(value, bool | np.bool_) else None
    if not isinstance(value, str) or not value.isascii():
        return None
    if form == "digit":
        return int(value) if value.isdecimal() else None
    return ord(value) - ord("A") if len(value) == 1 and value.isupper() else None
