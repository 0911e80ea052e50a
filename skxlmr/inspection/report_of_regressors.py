"""The tables of a report on a regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from skxlmr.inspection.tables import ReportRows
from skxlmr.tasks.targets import read_target


def tables_of_regressor(estimator: Any, X: Any, y: Any, rows: ReportRows) -> dict[str, pd.DataFrame | None]:
    """Return the tables of a report, by the names of its attributes."""
    true, names = _numbers(y, rows)
    predicted = np.asarray(estimator.predict(X), np.float64).reshape(len(true), -1)
    if true.shape != predicted.shape:
        raise ValueError(
            f"y has {true.shape[1]} columns, but the estimator predicts {predicted.shape[1]} numbers per row."
        )

    def scores(positions: np.ndarray) -> dict[str, float]:
        return _scores(true[positions], predicted[positions])

    outputs = {name: {"n": len(true), **_scores(true[:, [i]], predicted[:, [i]])} for i, name in enumerate(names)}
    errors = predicted - true
    columns: dict[str, np.ndarray] = {}
    for i, name in enumerate(names):
        suffix = "" if len(names) == 1 else f"_{name}"
        columns |= {f"true{suffix}": true[:, i], f"predicted{suffix}": predicted[:, i], f"error{suffix}": errors[:, i]}
    spread = true.std(axis=0)
    size = np.abs(errors / np.where(spread > 0, spread, 1)).mean(axis=1)  # outputs may have other units
    return {
        "summary": pd.DataFrame([{"n": len(true), **_scores(true, predicted)}], index=["all rows"]),
        "by_class": pd.DataFrame.from_dict(outputs, orient="index").rename_axis("output") if len(names) > 1 else None,
        "by_group": rows.by_group(scores),
        "by_length": rows.by_length(scores),
        "confusion": None,
        "worst": rows.worst(np.argsort(-size, kind="stable"), columns),
        "calibration": None,
    }


def _scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the scores of some rows, averaged over the outputs; R2 is not defined for less than two rows."""
    return {
        "r2": float(r2_score(true, predicted)) if len(true) > 1 else float("nan"),
        "mae": float(mean_absolute_error(true, predicted)),
        "rmse": float(root_mean_squared_error(true, predicted)),
        "bias": float((predicted - true).mean()),
    }


def _numbers(y: Any, rows: ReportRows) -> tuple[np.ndarray, list[Any]]:
    """Read y as a table of numbers, and the names of its columns."""
    target = read_target(y, rows.column)
    table = target.stack() if target.has_vectors else target.values
    try:
        numbers = np.asarray(table, np.float64).reshape(len(target.values), -1)
    except (TypeError, ValueError) as error:
        raise TypeError(f"y must be numbers to score a regressor: {error}.") from error
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        raise ValueError(f"{target.where(bad[0])}: {numbers[bad[0]].tolist()} is not finite. Leave out such rows.")
    return numbers, list(range(numbers.shape[1])) if target.names is None else target.names
