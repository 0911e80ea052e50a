"""The rows that a fit validates on, and their score by a scorer of scikit-learn."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils import _safe_indexing
from sklearn.utils.multiclass import type_of_target

from skxlmr.columns import TextColumn, check_sample_weight, feature_names, warn_of_other_order
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.tasks.base import Task
from skxlmr.training.rows import Rows


@dataclass(frozen=True, eq=False)
class ValidationData:
    """The rows to validate on that the user passed to `fit`, as the task reads them."""

    column: TextColumn
    targets: np.ndarray
    weights: np.ndarray | None

    @classmethod
    def check(cls, X: Any, y: Any, sample_weight: Any, column: TextColumn, task: Task) -> ValidationData | None:
        """Check X_val, y_val and sample_weight_val of a fit on a column; None if there are no rows to validate on."""
        if X is None and y is None:
            if sample_weight is not None:
                raise ValueError("sample_weight_val has the weights of the rows of X_val, but there is no X_val.")
            return None
        if X is None or (y is None and task.needs_y):
            raise ValueError("X_val and y_val go together: one of them is missing.")
        names = [None if n is None else list(n) for n in (feature_names(task.select(X), "X_val"), column.feature_names)]
        if None not in names and names[0] != names[1]:
            raise ValueError(f"X_val has the columns {names[0]}, but X has {names[1]}, in this order.")
        for name, values in (("y_val", y), ("sample_weight_val", sample_weight)):
            warn_of_other_order(X, values, name)
        held_out = task.read(X)
        if held_out.n_features != column.n_features:
            raise ValueError(f"X_val has {held_out.n_features} columns, but X has {column.n_features}.")
        weights = None
        if sample_weight is not None:
            weights = check_sample_weight(sample_weight, held_out.texts, "sample_weight_val", non_negative=True)
        return cls(held_out, task.targets(y, held_out, "y_val"), weights)

    def rows(self, task: Task, backbone: Backbone) -> Rows:
        """Tokenise the rows, without those of weight zero."""
        rows = task.rows(backbone, self.column, self.targets)
        if self.weights is None:
            return rows
        rows = replace(rows, weights=self.weights[rows.numbers])
        kept = np.flatnonzero(rows.weights)
        if not len(kept):
            raise ValueError("sample_weight_val is zero for all rows of X_val that can be scored.")
        return rows.take(kept)


@dataclass(frozen=True, eq=False)
class Scorer:
    """The score of a module that is being trained, by a scorer of scikit-learn.

    Attributes
    ----------
    estimator : XLMRXLLearner
        The estimator that is being fitted.
    score : callable
        From an estimator, X and y to a score; higher is better.
    X, y : object
        The rows that the user passed, of which those to validate on are a part.
    fitted_attributes : callable
        From a module to the attributes of an estimator that holds it.
    """

    estimator: Any
    score: Callable[..., Any]
    X: Any
    y: Any
    fitted_attributes: Callable[[Finetuned], dict[str, Any]]

    def __call__(self, finetuned: Finetuned, rows: Rows, batch_tokens: int) -> float:
        """Score a module on rows, which are numbered as those of X and y."""
        parameters = self.estimator.get_params(deep=False) | {"verbose": 0, "batch_tokens": batch_tokens}
        fitted = type(self.estimator)(**parameters)
        fitted._set_fitted(self.fitted_attributes(finetuned))
        data = [_take(data, rows.numbers) for data in (self.X, self.y) if data is not None]
        weighted = _takes_sample_weight(self.score) and (rows.weights != 1).any()
        score = self.score(fitted, *data, **({"sample_weight": rows.weights} if weighted else {}))
        return _check_score(score, self.estimator.scoring)


def check_scorer(estimator: Any) -> Callable[..., Any] | None:
    """Return the scorer that `scoring` names; None for the score of the task."""
    if estimator.scoring is None:
        return None
    from sklearn.metrics import check_scoring

    return check_scoring(estimator, estimator.scoring)


def as_metrics_take(y: Any, task: Task, targets: np.ndarray) -> Any:
    """Return y as the user passed it, if scikit-learn's metrics read it alike; otherwise as the task writes it."""
    ours = None if y is None else task.as_y(targets)
    if ours is None or (isinstance(y, list | np.ndarray | pd.Series | pd.DataFrame) and _is_read_as(y, ours)):
        return y
    return ours


def _is_read_as(y: Any, ours: np.ndarray) -> bool:
    """Whether scikit-learn's metrics know the type of y, and its values are ours."""
    try:
        values = np.asarray(y)
        if type_of_target(values if values.ndim == 2 else y) == "unknown" or values.shape != ours.shape:
            return False
        return bool(np.allclose(values, ours) if ours.dtype.kind == "f" else np.array_equal(values, ours))
    except (TypeError, ValueError):
        return False


def _take(data: Any, rows: np.ndarray) -> Any:
    if isinstance(data, pd.Index):  # scikit-learn would take it for a list
        return data[rows]
    return _safe_indexing(data, rows)


def _takes_sample_weight(scorer: Callable[..., Any]) -> bool:
    """Whether a scorer, or the metric that it is made of, has the parameter sample_weight."""
    try:
        return "sample_weight" in inspect.signature(getattr(scorer, "_score_func", scorer)).parameters
    except ValueError:  # of a function that is not written in Python
        return False


def _check_score(score: Any, scoring: Any) -> float:
    if isinstance(score, np.ndarray | torch.Tensor) and score.ndim == 0:
        score = score.item()
    if not isinstance(score, Real):
        raise ValueError(f"scoring={scoring!r} must return a number, got {score!r:.60} ({type(score).__name__}).")
    value = float(score)
    if np.isnan(value):
        raise ValueError(
            f"scoring={scoring!r} returned NaN for the validation rows: they may be too few, or lack a class. Use a "
            f"larger validation_fraction, or pass more rows as X_val and y_val."
        )
    return value
