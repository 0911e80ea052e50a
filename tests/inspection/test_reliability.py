"""Reliability diagrams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from skxlmr import XLMRXLClassifier, XLMRXLRegressor
from skxlmr.inspection import ReliabilityDisplay

PROBA = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.7, 0.1, 0.2], [0.1, 0.2, 0.7]])
TRUE = ["a", "b", "c", "c"]


def test_top_label_of_several_classes():
    display = ReliabilityDisplay.from_predictions(TRUE, PROBA, classes=["a", "b", "c"], n_bins=5)
    assert display.table["n"].tolist() == [2, 2]
    assert display.table["accuracy"].tolist() == [0.5, 1.0]
    assert display.expected_calibration_error == pytest.approx((0.2 * 2 + 0.1 * 2) / 4)
    assert display.line_.get_ydata().tolist() == [0.5, 1.0]
    assert [bar.get_height() for bar in display.axes_[1].patches] == [2, 2]
    assert display.ax_ is display.axes_[0]
    assert display.figure_ is display.ax_.figure


def test_pos_label_shows_the_probability_of_one_class():
    display = ReliabilityDisplay.from_predictions(TRUE, PROBA, classes=["a", "b", "c"], n_bins=2, pos_label="c")
    assert display.table["confidence"].tolist() == pytest.approx([0.2 / 3, 0.7])
    assert display.table["accuracy"].tolist() == pytest.approx([1 / 3, 1.0])
    assert display.axes_[1].get_xlabel() == "Probability of c"


def test_two_classes_by_the_second_column():
    one = ReliabilityDisplay.from_predictions([0, 1, 1], [0.2, 0.8, 0.4], n_bins=4)
    both = ReliabilityDisplay.from_predictions([0, 1, 1], [[0.8, 0.2], [0.2, 0.8], [0.6, 0.4]], n_bins=4)
    pd.testing.assert_frame_equal(one.table, both.table)
    assert one.table["accuracy"].tolist() == [0.0, 1.0]


def test_several_labels_per_row_count_each_label():
    true, proba = np.array([[1, 0], [1, 1]]), np.array([[0.9, 0.2], [0.6, 0.4]])
    display = ReliabilityDisplay.from_predictions(true, proba, n_bins=2)
    assert display.table["n"].tolist() == [2, 2]
    assert display.table["accuracy"].tolist() == [0.5, 1.0]
    second = ReliabilityDisplay.from_predictions(true, proba, classes=["x", "y"], n_bins=2, pos_label="y")
    assert second.table["n"].tolist() == [2]
    assert second.table["accuracy"].tolist() == [0.5]


def test_from_estimator_equals_from_predictions(classifier: XLMRXLClassifier, reviews: pd.DataFrame):
    display = ReliabilityDisplay.from_estimator(classifier, reviews.text, reviews.label)
    proba = classifier.predict_proba(reviews.text)
    other = ReliabilityDisplay.from_predictions(reviews.label, proba, classes=classifier.classes_, ax=display.axes_)
    pd.testing.assert_frame_equal(display.table, other.table)
    assert len(display.ax_.lines) == 3  # the diagonal is drawn once
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(reviews.text, reviews.label)
    assert ReliabilityDisplay.from_estimator(pipeline, reviews.text, reviews.label).name == "Pipeline"
    with pytest.warns(UserWarning, match=r"in another order.*y\.loc\[X\.index\]"):
        ReliabilityDisplay.from_estimator(pipeline, reviews.text, reviews.label[::-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["a", "b"]}, "classes has 2 labels, but y_proba 3 columns"),
        ({"pos_label": "d"}, "pos_label='d' is not one of the classes"),
        ({"n_bins": 0}, "n_bins must be an integer"),
        ({"strategy": "width"}, "strategy must be one of 'uniform', 'quantile'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ReliabilityDisplay.from_predictions(TRUE, PROBA, **arguments)


def test_wrong_values_are_named(classifier: XLMRXLClassifier, reviews: pd.DataFrame):
    with pytest.raises(ValueError, match="y_proba must have a probability from 0 to 1"):
        ReliabilityDisplay.from_predictions(TRUE, PROBA * 3, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="y_proba must have a probability"):
        ReliabilityDisplay.from_predictions(TRUE, np.full_like(PROBA, np.nan))
    with pytest.raises(TypeError, match="y_proba must be an array of probabilities"):
        ReliabilityDisplay.from_predictions(["a", "b"], ["x", "y"])
    with pytest.raises(ValueError, match="y_true has 3 rows, but y_proba 4"):
        ReliabilityDisplay.from_predictions(TRUE[:3], PROBA)
    with pytest.raises(NotFittedError, match="estimator is not fitted"):
        ReliabilityDisplay.from_estimator(clone(classifier), reviews.text, reviews.label)
    svc = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(reviews.text, reviews.label)
    with pytest.raises(TypeError, match="estimator is a Pipeline, which has no predict_proba"):
        ReliabilityDisplay.from_estimator(svc, reviews.text, reviews.label)
    regressor = XLMRXLRegressor("nano", tuning="head", max_epochs=1, random_state=0)
    regressor.fit(reviews.text, reviews.score)
    with pytest.raises(TypeError, match="estimator is a XLMRXLRegressor, which has no predict_proba"):
        ReliabilityDisplay.from_estimator(regressor, reviews.text, reviews.score)
