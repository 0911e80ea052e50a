"""The values of labels: what they may be, and their dtype."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite

from skxlmr.columns import is_missing
from skxlmr.system.warn import warn
from skxlmr.tasks.targets import Target, is_vector

# How Python, JSON and NumPy write a list: "[1, 0]", "['a']", "[1 0]".
WRITTEN_LIST = re.compile(r"\[\s*(['\"\d].*)?\]", re.DOTALL)


def infer_labels(y: np.ndarray, name: str = "y") -> np.ndarray:
    """Give labels that came as objects their own dtype; strings stay objects."""
    types = set(map(type, y))
    if all(issubclass(t, str) for t in types):
        return np.array([str.__str__(label) for label in y], object)
    if len(types) > 1 and not all(issubclass(t, int | float | np.number | np.bool_) for t in types):
        names = " and ".join(sorted(t.__name__ for t in types))
        raise TypeError(
            f"{name} holds labels of several types ({names}), which cannot be sorted. Make all of them strings: "
            f"y.astype(str)."
        )
    return np.array(y.tolist())


def are_probabilities(table: np.ndarray) -> bool:
    """Whether a table has a probability for each class: rows of fractions that sum to 1."""
    if table.dtype.kind != "f" or table.shape[1] < 2 or not np.isfinite(table).all():
        return False
    inside, whole = (table >= 0).all() and (table <= 1 + 1e-3).all(), np.isin(table, [0, 1]).all()
    return bool(inside and not whole and np.allclose(table.sum(axis=1), 1, atol=1e-3))


def check_indicator(table: np.ndarray, target: Target) -> np.ndarray:
    """Check that a table holds only 0 and 1, and return it as float64."""
    if table.dtype == object:
        table = np.where(pd.isna(table), np.nan, table)  # with pandas' NA nothing can be compared
    bad = np.argwhere(~np.isin(table, [0, 1]))
    if len(bad):
        row, label = bad[0]
        names = range(table.shape[1]) if target.names is None else target.names
        raise ValueError(
            f"{target.where(row)}: {table[row, label]} for the label {names[label]!r} is neither 0 nor 1. If each "
            f"column has classes of its own, use sklearn.multioutput.MultiOutputClassifier."
        )
    return table.astype(np.float64)


def check_lists(target: Target) -> np.ndarray:
    """Check lists of labels, and return them with labels of Python's own types."""
    rows = np.empty(len(target.values), object)
    for i, labels in enumerate(target.values):
        if not is_vector(labels):
            raise ValueError(f"{target.where(i)}: {labels!r} is not a list of labels, as other rows have.")
        rows[i] = [_check_label(label, target, i) for label in labels]
    return rows


def _check_label(label: Any, target: Target, row: int) -> Any:
    if is_missing(label):
        raise ValueError(f"{target.where(row)}: {label} is not a label (NaN or missing). Leave it out of its list.")
    if not pd.api.types.is_hashable(label):
        raise TypeError(
            f"{target.where(row)}: the label {label!r:.60} is a {type(label).__name__}; labels must be hashable."
        )
    if isinstance(label, float | np.floating) and not float(label).is_integer():
        raise ValueError(
            f"{target.where(row)}: the label {label} is a fraction, not a class. Rows of probabilities must sum to 1."
        )
    return str.__str__(label) if isinstance(label, str) else label


def check_single(target: Target) -> np.ndarray:
    """Check one label per row, and give them their own dtype."""
    labels = target.values
    missing = np.flatnonzero(pd.isna(labels))
    if len(missing):
        raise ValueError(
            f"{target.where(missing[0])}: {labels[missing[0]]} is not a label (NaN or missing; {len(missing)} in all). "
            f"Leave these rows out of X and y."
        )
    if labels.dtype == object:
        labels = infer_labels(labels, target.name)
        if target.is_list and labels.dtype == object and len(labels) and isinstance(labels[0], str):
            labels = labels.astype(str)
    if labels.dtype.kind in "fc":
        assert_all_finite(labels, input_name=target.name)
    try:
        check_classification_targets(labels)
    except ValueError as error:
        if labels.dtype == object:  # of another type than texts and numbers, or integers beyond 64 bits
            raise ValueError(
                f"Unknown label type: {target.where(0)}: {labels[0]!r:.60} is a {type(labels[0]).__name__}. Classes "
                f"must be texts, booleans or whole numbers of 64 bits. Make them texts: y.astype(str)."
            ) from None
        raise ValueError(
            f"{error} {target.where(0)}, for example, has {labels[0]!s:.40}. For numbers use XLMRXLRegressor; classes "
            f"must be texts or whole numbers."
        ) from None
    if labels.dtype.kind in "OU" and all(isinstance(t, str) and WRITTEN_LIST.fullmatch(t) for t in set(labels)):
        warn(
            f"{target.name} has texts that look like lists, such as {str(labels[0])!r:.40}; each is read as one class. "
            f"If they are lists of labels, as a CSV file holds them, convert them: y.map(ast.literal_eval)."
        )
    return labels
