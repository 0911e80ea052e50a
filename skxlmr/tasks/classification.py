"""What y may be, and what users are told when it is not."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_consistent_length, column_or_1d

from skxlmr.columns import TextColumn, name_row

LABELS = (list, tuple, set, frozenset, np.ndarray)  # what may hold the labels of one row


def check_labels(y: Any, column: TextColumn, estimator: BaseEstimator, several: bool = True) -> np.ndarray:
    """Read the labels of a classifier.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
    column : TextColumn
    estimator : estimator
        For its name.
    several : bool, default=True
        Whether there must be two classes at least.

    Returns
    -------
    ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If labels are missing, are not classes, are of one class only, or are not as many as the texts.
    TypeError
        If they are of types that cannot be sorted together.
    """
    name = type(estimator).__name__
    if y is None:
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
    index = y.index if isinstance(y, pd.Series) else None
    check_consistent_length(column.texts, y)
    y = column_or_1d(np.asarray(y), warn=True)
    if y.dtype.kind == "T":  # NumPy's strings of variable width, of which scikit-learn knows nothing
        y = y.astype(object)
    missing = np.flatnonzero(pd.isna(y))
    if len(missing):
        raise ValueError(
            f"y, {name_row(missing[0], index)}: {y[missing[0]]} is no label (NaN or missing; {len(missing)} in all). "
            f"Leave these rows out of X and y."
        )
    if y.dtype == object:
        y = _infer_labels(y)
    if y.dtype.kind in "fc":
        assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    if several:
        check_several_classes(y, name)
    return y


def check_classes(classes: Any, form: str | None) -> np.ndarray:
    """Read the labels that will ever come.

    Parameters
    ----------
    classes : array-like of shape (n_classes,)
    form : {"indicator", "lists"} or None
        What `multilabel_form` gave.

    Returns
    -------
    ndarray of shape (n_classes,)
        Sorted; those of an indicator matrix in the order of its columns.

    Raises
    ------
    ValueError
        If one is missing, or there are fewer than two.
    TypeError
        If they are of types that cannot be sorted together.
    """
    # As objects: an array of strings and numbers would make strings of all.
    classes = np.array(list(classes), object)
    if classes.ndim != 1 or pd.isna(classes).any():
        raise ValueError(f"classes must be a list of labels, none of them missing, got {classes.tolist()[:5]}.")
    if form == "indicator":
        return classes
    classes = np.unique(_infer_labels(classes, "classes")) if len(classes) else classes
    if form is None and len(classes) < 2:
        raise ValueError(f"classes must have at least 2 labels to tell apart, got {classes.tolist()}.")
    return classes


def multilabel_form(y: Any) -> str | None:
    """How y gives several labels a row: "indicator" (two dimensions), "lists" of labels, or None where it gives one."""
    y = _without_other_frames(y)
    if getattr(y, "ndim", 1) == 2:
        return "indicator" if y.shape[1] > 1 else None
    if isinstance(y, str | bytes) or y is None or not np.iterable(y):
        return None
    if not any(isinstance(row, LABELS) for row in y):
        return None
    is_table = isinstance(y, list | tuple) and all(isinstance(row, list | tuple | np.ndarray) for row in y)
    if not is_table or len({len(row) for row in y}) > 1 or len(y[0]) < 2:
        return "lists"
    values = [value for row in y for value in row]
    numbers = all(isinstance(value, bool | int | float | np.number) for value in values)
    return "indicator" if numbers and set(values) <= {0, 1} else "lists"


def _without_other_frames(y: Any) -> Any:
    """A frame of polars or pyarrow as one of pandas, a series as a list; others as they are."""
    if isinstance(y, pd.DataFrame | pd.Series):
        return y
    frame = nw.from_native(y, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        return pd.DataFrame({name: frame[name].to_list() for name in frame.columns})
    if isinstance(frame, nw.Series):
        return frame.to_list()
    return y.to_pylist() if hasattr(y, "to_pylist") else y


def _label_lists(y: Any, column: TextColumn, name: str) -> list[list]:
    """The labels of each row, where they are lists."""
    index = y.index if isinstance(y, pd.Series) else None
    check_consistent_length(column.texts, y)
    for i, labels in enumerate(y):
        where = f"{name}, {name_row(i, index)}"
        if not isinstance(labels, LABELS):
            raise ValueError(f"{where}: {labels!r} is no list of labels, as other rows have.")
        for label in labels:
            if not pd.api.types.is_hashable(label):
                raise TypeError(
                    f"{where}: the label {label!r:.60} is a {type(label).__name__}; labels must be hashable."
                )
            if pd.api.types.is_scalar(label) and pd.isna(label):
                raise ValueError(f"{where}: {label} is no label (NaN or missing). Leave it out of its list.")
    return [[str(label) if isinstance(label, str) else label for label in labels] for labels in y]


def find_labels(y: Any, column: TextColumn, form: str) -> np.ndarray:
    """The labels of a y that gives several a row: the columns of an indicator, or all that the lists have, sorted.

    Raises
    ------
    ValueError, TypeError
        If there are none, or they cannot be sorted together.
    """
    y = _without_other_frames(y)
    if form == "indicator":
        if isinstance(y, pd.DataFrame):
            return np.array(y.columns.tolist(), object)
        return np.arange(np.shape(y)[1])
    labels = {label for row in _label_lists(y, column, "y") for label in row}
    if not labels:
        raise ValueError("y has no label in any row.")
    return np.unique(_infer_labels(np.array(list(labels), object)))


def check_multilabel(y: Any, column: TextColumn, classes: np.ndarray, form: str, name: str = "y") -> np.ndarray:
    """Read several labels a row.

    Parameters
    ----------
    y : array-like of shape (n_samples, n_classes), or of lists
    column : TextColumn
    classes : ndarray
        What `find_labels` gave.
    form : {"indicator", "lists"}
    name : str, default="y"
        What messages call it.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), float64
        0 and 1.

    Raises
    ------
    TypeError, ValueError
        If a row has something else; the message names it.
    """
    y = _without_other_frames(y)
    index = y.index if isinstance(y, pd.Series | pd.DataFrame) else None
    check_consistent_length(column.texts, y)
    if form == "indicator":
        values = y.toarray() if sparse.issparse(y) else np.asarray(y)
        if values.dtype == object:
            values = np.where(pd.isna(values), np.nan, values)  # with pandas' NA nothing can be compared
        if values.ndim != 2 or values.shape[1] != len(classes):
            raise ValueError(f"{name} has shape {values.shape}, but {len(classes)} columns of labels are needed.")
        named = isinstance(y, pd.DataFrame) and classes.dtype == object
        if named and y.columns.tolist() != classes.tolist():
            raise ValueError(
                f"{name} has the columns {y.columns.tolist()[:5]}, but the labels are {classes.tolist()[:5]}, in this "
                f"order."
            )
        bad = np.argwhere(~np.isin(values, [0, 1]))
        if len(bad):
            row, label = bad[0]
            raise ValueError(
                f"{name}, {name_row(row, index)}: {values[row, label]} for the label {classes.tolist()[label]!r} is "
                f"neither 0 nor 1."
            )
        return values.astype(np.float64)
    place = {label: i for i, label in enumerate(classes.tolist())}
    targets = np.zeros((len(column.texts), len(classes)))
    for i, labels in enumerate(_label_lists(y, column, name)):
        unknown = [label for label in labels if label not in place]
        if unknown:
            raise ValueError(
                f"{name}, {name_row(i, index)}: the label {unknown[0]!r} is none of those that fit was given."
            )
        targets[i, [place[label] for label in labels]] = 1
    return targets


def check_numbers(y: Any, column: TextColumn, estimator: BaseEstimator, name: str = "y") -> np.ndarray:
    """Read the targets of a regressor.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    column : TextColumn
    estimator : estimator
        For its name.
    name : str, default="y"
        What messages call it.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs), float64

    Raises
    ------
    ValueError
        If they are no finite numbers, or not as many as the texts.
    """
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None."
        )
    index = y.index if isinstance(y, pd.Series | pd.DataFrame) else None
    check_consistent_length(column.texts, y)
    values = _as_floats(y, name, index)
    if values.ndim not in (1, 2):
        raise ValueError(f"{name} has {values.ndim} dimensions; numbers in one or two are needed.")
    if not values.size:
        raise ValueError(f"{name} has shape {values.shape}: there is nothing to learn.")
    values = values.reshape(len(values), -1)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name}, {name_row(bad[0], index)}: {values[bad[0]].tolist()} is NaN or infinity ({len(bad)} rows in "
            f"all). Leave these rows out of X and y."
        )
    return values


def _as_floats(y: Any, name: str, index: pd.Index | None) -> np.ndarray:
    if hasattr(y, "dtype") and np.iscomplexobj(y):
        raise ValueError(f"{name} holds complex numbers. Give their real and imaginary parts as two columns.")
    try:
        return np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        for i, row in enumerate(y.to_numpy() if isinstance(y, pd.DataFrame) else y):
            try:
                np.asarray(row, np.float64)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(
                    f"{name}, {name_row(i, index)}: {row!r:.60} is no number. Make it one, or leave its row out."
                ) from error
        raise ValueError(f"{name} holds something that is no number: {error}. Use y.astype(float).") from error


def check_class_weight(class_weight: dict | str | None, classes: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights of the classes, as scikit-learn has them.

    Raises
    ------
    ValueError
        If one is negative or not finite.
    """
    weights = compute_class_weight(class_weight, classes=classes, y=y)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"class_weight must give finite weights that are not negative, got {class_weight}.")
    return weights


def check_several_classes(y: np.ndarray, name: str) -> None:
    """Refuse labels of one class.

    Raises
    ------
    ValueError
        If there are not at least two.
    """
    classes = np.unique(y)
    if not len(classes):
        raise ValueError(f"{name} has no rows to learn from: all their weights are zero.")
    if len(classes) < 2:
        raise ValueError(f"{name} needs at least 2 classes to tell apart, but y has 1 class: {classes.tolist()[0]!r}.")


def _infer_labels(y: np.ndarray, name: str = "y") -> np.ndarray:
    """Give labels that came as objects their own dtype; strings stay objects."""
    types = set(map(type, y))
    if len(types) > 1 and not all(issubclass(t, int | float | np.number) for t in types):
        names = " and ".join(sorted(t.__name__ for t in types))
        raise TypeError(
            f"{name} holds labels of several types ({names}), which cannot be sorted. Make all of them strings: "
            f"y.astype(str)."
        )
    return y if str in types else np.array(y.tolist())
