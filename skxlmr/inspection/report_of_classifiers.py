"""The tables of a report on a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
)

from skxlmr.columns import as_objects
from skxlmr.inspection.calibration import calibration_table, expected_calibration_error
from skxlmr.inspection.predictions import Comparison, run_classifier
from skxlmr.inspection.tables import ReportRows, confusion_table

PER_CLASS = ["precision", "recall", "f1", "support"]


def tables_of_classifier(estimator: Any, X: Any, y: Any, rows: ReportRows) -> dict[str, pd.DataFrame | None]:
    """Return the tables of a report, by the names of its attributes."""
    compared = Comparison.of(run_classifier(estimator, X), y, rows.column)
    several = compared.is_multilabel

    def scores(positions: np.ndarray) -> dict[str, float]:
        return _scores(compared.take(positions), rows.n_bins)

    confidence = compared.confidence
    return {
        "summary": pd.DataFrame([{"n": len(compared.true), **_scores(compared, rows.n_bins)}], index=["all rows"]),
        "by_class": _by_class(compared),
        "by_group": rows.by_group(scores),
        "by_length": rows.by_length(scores),
        "confusion": _confusion_of_labels(compared) if several else _confusion(compared),
        "worst": _worst_labels(compared, rows) if several else _worst(compared, rows),
        "calibration": None if confidence is None else calibration_table(*confidence, rows.n_bins),
    }


def _scores(compared: Comparison, n_bins: int) -> dict[str, float]:
    """Return the scores of some rows: the macro F1 is over the classes that occur in them."""
    true, predicted = compared.true, compared.predicted
    scores = {"accuracy": float(accuracy_score(true, predicted))}
    if compared.is_multilabel:
        scores["f1_micro"] = float(f1_score(true, predicted, average="micro", zero_division=0))
        occurring = np.flatnonzero((true + predicted).any(axis=0))
    else:
        occurring = np.union1d(true, predicted)
    if len(occurring):
        scores["f1_macro"] = float(f1_score(true, predicted, labels=occurring, average="macro", zero_division=0))
    if compared.confidence is not None:
        table = calibration_table(*compared.confidence, n_bins)
        scores["calibration_error"] = expected_calibration_error(table)
    return scores


def _by_class(compared: Comparison) -> pd.DataFrame:
    """Return precision, recall, F1 and support of each class, and their averages."""
    numbers = np.arange(len(compared.classes))
    arguments = {"labels": numbers, "zero_division": 0}
    of_classes = precision_recall_fscore_support(compared.true, compared.predicted, **arguments)
    table = pd.DataFrame(dict(zip(PER_CLASS, of_classes, strict=True)), pd.Index(compared.classes, tupleize_cols=False))
    total = int(table["support"].sum())
    averages = {}
    for average in ("micro", "macro", "weighted") if compared.is_multilabel else ("macro", "weighted"):
        scores = precision_recall_fscore_support(compared.true, compared.predicted, average=average, **arguments)
        averages[f"{average} avg"] = [*scores[:3], total]
    table = pd.concat([table, pd.DataFrame.from_dict(averages, orient="index", columns=PER_CLASS)])
    table.index.name = "label" if compared.is_multilabel else "class"
    return table.astype({"support": np.int64})


def _confusion(compared: Comparison) -> pd.DataFrame:
    """Count the rows of each true class, by the predicted one."""
    counts = confusion_matrix(compared.true, compared.predicted, labels=np.arange(len(compared.classes)))
    return confusion_table(counts, compared.classes)


def _confusion_of_labels(compared: Comparison) -> pd.DataFrame:
    """Count for each label the rows that have it or not, by whether it is predicted."""
    counts = multilabel_confusion_matrix(compared.true, compared.predicted).reshape(-1, 4)
    names = ["true_negative", "false_positive", "false_negative", "true_positive"]
    return pd.DataFrame(counts, pd.Index(compared.classes, name="label", tupleize_cols=False), names)


def _worst(compared: Comparison, rows: ReportRows) -> pd.DataFrame:
    """Return the wrong rows, the most confident first; without probabilities in their order."""
    names = as_objects(compared.classes)
    columns = {"true": names[compared.true], "predicted": names[compared.predicted]}
    wrong = np.flatnonzero(~compared.right)
    if compared.probabilities is not None:
        every = np.arange(len(compared.true))
        columns["probability"] = compared.probabilities[every, compared.predicted]
        columns["probability_of_true"] = compared.probabilities[every, compared.true]
        wrong = wrong[np.lexsort((columns["probability_of_true"][wrong], -columns["probability"][wrong]))]
    return rows.worst(wrong, columns)


def _worst_labels(compared: Comparison, rows: ReportRows) -> pd.DataFrame:
    """Return the wrong rows, those with the most wrong labels first, then the most confident."""
    names = as_objects(compared.classes)
    different = compared.true != compared.predicted
    missed, wrong = (different & (compared.true == value) for value in (1, 0))
    columns = {
        "true": [tuple(names[row.astype(bool)]) for row in compared.true],
        "missed": [tuple(names[row]) for row in missed],
        "wrong": [tuple(names[row]) for row in wrong],
    }
    n_errors = different.sum(axis=1)
    distance = n_errors.astype(np.float64)
    if compared.probabilities is not None:
        distance = np.abs(compared.true - compared.probabilities).max(axis=1)
        columns["error_of_probability"] = distance.tolist()
    order = np.lexsort((-distance, -n_errors))
    return rows.worst(order[n_errors[order] > 0], columns)
