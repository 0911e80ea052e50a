"""Labels of rows: one class, probabilities of classes, or several labels per row.

One rule for every container of y, a list, an array, a Series or a frame of any library:

- a table of several columns, or a column of vectors (lists, tuples, arrays) of one length of at least 2 that hold only
  0 and 1, is an indicator: each column is a label;
- if they hold fractions that sum to 1, they are the probabilities of classes;
- any other column of lists, tuples, arrays or sets has several labels per row, and so has an array of texts. Sets are
  never an indicator;
- anything else has one label per row.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import DataConversionWarning

from skxlmr.columns import TextColumn, as_objects
from skxlmr.system.warn import warn
from skxlmr.tasks.label_values import are_probabilities, check_indicator, check_lists, check_single, infer_labels
from skxlmr.tasks.targets import Target, is_vector, read_target


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of rows, as `read_labels` understood them.

    Attributes
    ----------
    kind : {"single", "probabilities", "indicator", "lists"}
    values : ndarray
        Labels, (n_rows,); a table, (n_rows, n_classes); or lists of labels, (n_rows,) of objects.
    target : Target
        What y was.
    """

    kind: str
    values: np.ndarray
    target: Target

    @property
    def form(self) -> str | None:
        """How several labels per row are given: "indicator" or "lists"; None if there is one per row."""
        return self.kind if self.kind in ("indicator", "lists") else None

    def warn_of_column(self) -> None:
        """Warn if a table of one column was taken for one label per row, as scikit-learn does in `fit`."""
        if self.kind == "single" and self.target.is_column:
            warn(
                f"A column-vector {self.target.name} was passed when a 1d array was expected. Please change the shape "
                f"of {self.target.name} to (n_samples,), for example using ravel().",
                DataConversionWarning,
            )

    def classes(self, rows: np.ndarray) -> np.ndarray:
        """Return the classes: those that some rows have, sorted; or the columns of a table, of an indicator in order.

        Raises
        ------
        ValueError
            If no row has a label.
        """
        names = self.target.names
        if self.kind == "indicator":
            return np.arange(self.values.shape[1]) if names is None else np.array(names, object)
        if self.kind == "probabilities":
            n_classes = self.values.shape[1]
            return np.arange(n_classes) if names is None else np.unique(infer_labels(np.array(names, object)))
        if self.kind == "single":
            return np.unique(self.values[rows])
        labels = {label for row in self.values[rows] for label in row}
        if not labels:
            raise ValueError(f"{self.target.name} has no label in any row.")
        return np.unique(infer_labels(np.array(list(labels), object), self.target.name))

    def numbers(self, classes: np.ndarray, unknown: float | None = None) -> np.ndarray:
        """Return the targets of a classification: numbers of classes, or a matrix; see `Classification`.

        `unknown` takes the place of a label that is not one of the classes, or fills the row that has it; None raises a
        ValueError.
        """
        if self.kind == "single":
            return self._numbers_of_classes(classes, unknown)
        if self.kind == "lists":
            return self._matrix_of_lists(classes, unknown)
        return self._columns(classes)

    def _numbers_of_classes(self, classes: np.ndarray, unknown: float | None) -> np.ndarray:
        name, known = self.target.name, {label: i for i, label in enumerate(classes.tolist())}
        distinct, of_row = np.unique(self.values, return_inverse=True)
        if len({isinstance(label, str) for label in [*distinct.tolist(), *known]}) > 1:
            raise ValueError(
                f"{name} has labels such as {distinct.tolist()[0]!r}, but the classes are such as "
                f"{next(iter(known))!r}: texts and numbers are never equal."
            )
        missing = [label for label in distinct.tolist() if label not in known]
        if missing and unknown is None:
            source = "y" if name == "y_val" else "classes"
            raise ValueError(f"{name} has labels that {source} has not: {missing[:5]}.")
        return np.array([known.get(label, unknown) for label in distinct.tolist()], np.int64)[of_row]

    def _matrix_of_lists(self, classes: np.ndarray, unknown: float | None) -> np.ndarray:
        place = {label: i for i, label in enumerate(classes.tolist())}
        targets = np.zeros((len(self.values), len(classes)))
        for i, labels in enumerate(self.values):
            missing = [label for label in labels if label not in place]
            if missing and unknown is None:
                raise ValueError(
                    f"{self.target.where(i)}: the label {missing[0]!r} is not one of those that fit was given."
                )
            targets[i, [place[label] for label in labels if label in place]] = 1
            if missing:
                targets[i] = unknown
        return targets

    def _columns(self, classes: np.ndarray) -> np.ndarray:
        """Return a table as it is, if its columns are the classes; probabilities in the order of the classes."""
        names, name, values = self.target.names, self.target.name, self.values
        what = "probabilities" if self.kind == "probabilities" else "labels"
        if values.shape[1] != len(classes):
            raise ValueError(f"{name} has {values.shape[1]} columns of {what}, but there are {len(classes)} classes.")
        if names is None or (self.kind == "indicator" and classes.dtype != object):
            return values
        if self.kind == "indicator" and names != classes.tolist():
            raise ValueError(
                f"{name} has the columns {names[:5]}, but the labels are {classes.tolist()[:5]}, in this order."
            )
        if self.kind == "probabilities":
            if sorted(map(str, names)) != sorted(map(str, classes.tolist())):
                raise ValueError(f"{name} has the columns {names[:5]}, but the classes are {classes.tolist()[:5]}.")
            values = values[:, [names.index(label) for label in classes.tolist()]]
        return values


def read_labels(y: Any, column: TextColumn, name: str = "y", *, form: str | None = "auto") -> Labels:
    """Read the labels of rows.

    Parameters
    ----------
    y : array-like of shape (n_rows,), or (n_rows, n_classes)
    column : TextColumn
        The texts.
    name : str, default="y"
        What messages call y.
    form : {"auto", "indicator", "lists"} or None, default="auto"
        The form that an earlier call has found.

    Raises
    ------
    ValueError, TypeError
        If a value is not what it should be; the message names the row.
    """
    return _read(read_target(y, column, name), form)


def _read(target: Target, form: str | None, n_classes: int | None = None) -> Labels:
    name = target.name
    table = target.values if target.values.ndim == 2 else None
    if table is None and target.has_vectors and form != "lists":
        table = _table_of_vectors(target, form, n_classes)
    if table is not None and not table.shape[1]:
        raise ValueError(f"{name} has shape {table.shape}: there is no label.")
    if (
        table is not None
        and target.names is None
        and table.dtype.kind in "OU"
        and all(isinstance(value, str) for value in table.flat)
    ):
        return Labels("lists", check_lists(replace(target, values=as_objects(table.tolist()))), target)
    if table is not None and form in ("auto", None) and are_probabilities(table):
        shares = table.astype(np.float64)
        return Labels("probabilities", shares / shares.sum(axis=1, keepdims=True), target)
    if form is None and (table is not None or target.has_vectors):
        raise ValueError(f"{name} should be a 1d array, with one label per row, but it has several per row.")
    if table is not None:
        return Labels("indicator", check_indicator(table, target), target)
    if form == "indicator":
        raise ValueError(
            f"{name} has shape {target.values.shape}, but columns of 0 and 1 are needed, as fit was given."
        )
    if form == "lists" or target.has_vectors:
        return Labels("lists", check_lists(target), target)
    return Labels("single", check_single(target), target)


def check_labels(y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
    """Read one label per row, (n_rows,).

    Raises ValueError if labels are missing, are not classes or are not as many as the texts; TypeError if they cannot
    be sorted together.
    """
    labels = read_labels(y, column, name, form=None)
    if labels.kind != "single":
        raise ValueError(f"{name} should be a 1d array, with one label per row, but it has probabilities.")
    labels.warn_of_column()
    return labels.values


def find_form(y: Any, classes: Any = None) -> str | None:
    """Return how y gives several labels per row: "indicator" or "lists"; None if there is one label per row.

    If the `classes` are known, vectors of another length are not an indicator.
    """
    target = read_target(y, None)
    if target.values.ndim == 1 and not target.has_vectors:
        return None
    return _read(target, "auto", None if classes is None else len(classes)).form


def check_classes(classes: Any, form: str | None) -> np.ndarray:
    """Read all classes that `partial_fit` will ever see: sorted, those of an indicator in the order of its columns."""
    # As objects: an array of strings and numbers would make strings of all.
    classes = np.array(list(classes), object)
    if classes.ndim != 1 or pd.isna(classes).any():
        raise ValueError(f"classes must be a list of labels, none of them missing, got {classes.tolist()[:5]}.")
    if form == "indicator":
        return classes
    classes = np.unique(infer_labels(classes, "classes")) if len(classes) else classes
    if form is None and len(classes) < 2:
        raise ValueError(f"classes must have at least 2 labels to tell apart, got {classes.tolist()}.")
    return classes


def _table_of_vectors(target: Target, form: str | None, n_classes: int | None) -> np.ndarray | None:
    """Return vectors as a table if they are an indicator or probabilities; None if they are lists of labels."""
    table = target.stack()
    if table is None and form == "indicator":
        n_columns = max(map(len, filter(is_vector, target.values)))
        for i, row in enumerate(target.values):
            if not is_vector(row) or isinstance(row, Set) or len(row) != n_columns:
                raise ValueError(f"{target.where(i)}: {row!r:.60} is not a row of 0 and 1, as fit was given.")
        raise ValueError(f"{target.name} has vectors that are not of 0 and 1, as fit was given.")
    if table is None or form == "indicator":
        return table
    if table.shape[1] < 2 or n_classes not in (None, table.shape[1]):
        return None
    is_indicator = bool((np.isin(table, [0, 1]) | np.isnan(table)).all())
    return table if is_indicator or are_probabilities(table) else None
