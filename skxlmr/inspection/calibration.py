"""Reliability: how often predictions of some confidence are right."""

from __future__ import annotations

import numpy as np
import pandas as pd

from skxlmr.inspection.arguments import check_choice, check_count

STRATEGIES = ("uniform", "quantile")


def calibration_table(
    confidence: np.ndarray, correct: np.ndarray, n_bins: int = 10, strategy: str = "uniform"
) -> pd.DataFrame:
    """Compare confidences with how often they were right, in the bins of `sklearn.calibration.calibration_curve`.

    Parameters
    ----------
    confidence : ndarray of shape (n,)
        Probabilities from 0 to 1.
    correct : ndarray of shape (n,)
        1 where the prediction was right, or where the event happened, else 0.
    n_bins : int, default=10
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width, or with equal numbers of values.

    Returns
    -------
    DataFrame
        One row per bin that is not empty: lower and upper, its ends; n, its number of values; confidence, their mean;
        accuracy, the share of them that is right.

    Examples
    --------
    >>> calibration_table(np.array([0.9, 0.8, 0.3]), np.array([1, 0, 0]), n_bins=2)
       lower  upper  n  confidence  accuracy
    0    0.0    0.5  1        0.30       0.0
    1    0.5    1.0  2        0.85       0.5
    """
    check_count(n_bins, "n_bins")
    check_choice(strategy, STRATEGIES, "strategy")
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        edges = np.quantile(confidence, edges) if len(confidence) else edges
    number = np.searchsorted(edges[1:-1], confidence)
    table = pd.DataFrame({"bin": number, "n": 1, "confidence": confidence, "accuracy": np.asarray(correct, np.float64)})
    table = table.groupby("bin").agg({"n": "sum", "confidence": "mean", "accuracy": "mean"})
    ends = pd.DataFrame({"lower": edges[table.index], "upper": edges[table.index + 1]})
    return pd.concat([ends, table.reset_index(drop=True)], axis=1)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Return the mean distance of confidence and accuracy over the values, from the result of `calibration_table`."""
    total = table["n"].sum()
    return float((table["n"] * (table["accuracy"] - table["confidence"]).abs()).sum() / total) if total else 0.0
