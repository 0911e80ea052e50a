"""Checks of the arguments that displays and reports share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skxlmr.columns import as_objects, is_missing, one_column

MISSING = "(missing)"


def check_fitted(estimator: Any, needs: str, name: str = "estimator") -> None:
    """Raise an error unless an argument is an estimator that has a method and is fitted."""
    if isinstance(estimator, type):
        raise TypeError(
            f"{name} is the class {estimator.__name__}, not an estimator. Create one, {estimator.__name__}(), and fit "
            f"it."
        )
    if not hasattr(estimator, "fit"):
        raise TypeError(f"{name} is a {type(estimator).__name__}, not an estimator.")
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise NotFittedError(f"{name} is not fitted. Call fit of this {type(estimator).__name__} first.") from error
    if not hasattr(estimator, needs):
        raise TypeError(f"{name} is a {type(estimator).__name__}, which has no {needs}.")


def unwrapped(estimator: Any) -> Any:
    """Return the best estimator of a search; any other estimator itself."""
    while hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    return estimator


def steps_of(estimator: Any) -> list[Any]:
    """Return the steps of a pipeline, with those of pipelines and of searches in it; of another estimator itself."""
    estimator = unwrapped(estimator)
    if isinstance(estimator, Pipeline):
        return [inner for _, step in estimator.steps for inner in steps_of(step)]
    return [estimator]


def check_column(values: Any, n_rows: int, name: str, rows_of: str = "X") -> np.ndarray:
    """Return a column of any container as an array of objects (n_rows,), with "(missing)" for missing values."""
    column = [MISSING if is_missing(value) else value for value in one_column(values, name)[0]]
    if len(column) != n_rows:
        raise ValueError(f"{name} has {len(column)} values, but {rows_of} has {n_rows} rows. Give one value per row.")
    return as_objects(column)


def check_groups(groups: Any, n_rows: int, name: str = "groups", rows_of: str = "X") -> np.ndarray | None:
    """Return the group of each row, (n_rows,) of objects that can be compared for equality; None if there are none."""
    if groups is None:
        return None
    column = check_column(groups, n_rows, name, rows_of)
    for i, value in enumerate(column):
        if getattr(value, "__hash__", None) is None:
            raise TypeError(f"{name}, row {i}: {value!r:.60} is a {type(value).__name__}, not the name of a group.")
    return column


def distinct(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values in their order; those of several types in the order of their text."""
    found = set(values)
    try:
        return sorted(found)
    except TypeError:
        return sorted(found, key=str)


def rows_by(values: np.ndarray, order: Sequence[Any] | None = None) -> dict[Any, np.ndarray]:
    """Return the positions of the rows of each value."""
    rows: dict[Any, list[int]] = {value: [] for value in (distinct(values) if order is None else order)}
    for i, value in enumerate(values):
        rows[value].append(i)
    return {value: np.array(of_value, np.int64) for value, of_value in rows.items()}


def check_choice(value: Any, choices: Sequence[str | None], name: str) -> None:
    """Raise a ValueError unless an argument is one of its possible values."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_count(value: Any, name: str, least: int = 1) -> None:
    """Raise a ValueError unless an argument is an integer of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
