"""Predictions of classifiers of skxlmr and of scikit-learn, with the model run once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.columns import TextColumn
from skxlmr.estimators.learner import XLMRXLLearner
from skxlmr.inspection.predictions import Comparison, Outputs, run_classifier

INDICATOR = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 5)


def column(n_rows: int) -> TextColumn:
    return TextColumn([""] * n_rows, None, None, 1)


def test_run_classifier_reads_texts_once(
    classifier: XLMRXLClassifier, reviews: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
):
    runs = []
    run = XLMRXLLearner._run
    monkeypatch.setattr(XLMRXLLearner, "_run", lambda self, *args: runs.append(1) or run(self, *args))
    outputs = run_classifier(classifier, reviews.text)
    assert runs == [1]
    assert outputs.labels.tolist() == classifier.predict(reviews.text).tolist()
    np.testing.assert_array_equal(outputs.probabilities, classifier.predict_proba(reviews.text))


def test_run_classifier_transforms_once_in_a_pipeline_in_a_search(
    reviews: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
):
    search = GridSearchCV(make_pipeline(XLMRXLEmbedder("nano"), LogisticRegression()), {"logisticregression__C": [1.0]})
    search.fit(reviews.text, reviews.label)
    expected = search.predict(reviews.text)
    calls = []
    transform = XLMRXLEmbedder.transform
    monkeypatch.setattr(XLMRXLEmbedder, "transform", lambda self, X: calls.append(1) or transform(self, X))
    outputs = run_classifier(search, reviews.text)
    assert calls == [1]
    assert outputs.labels.tolist() == expected.tolist()
    assert outputs.probabilities.shape == (20, 2)


def test_run_classifier_of_calibrated_probabilities_and_of_none(classifier: XLMRXLClassifier, reviews: pd.DataFrame):
    calibrated = CalibratedClassifierCV(FrozenEstimator(classifier)).fit(reviews.text, reviews.label)
    outputs = run_classifier(calibrated, reviews.text)
    assert outputs.labels.tolist() == calibrated.predict(reviews.text).tolist()
    svc = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(reviews.text, reviews.label)
    assert run_classifier(svc, reviews.text).probabilities is None


@pytest.mark.parametrize(
    "model", [OneVsRestClassifier(LogisticRegression()), RandomForestClassifier(10, random_state=0)]
)
def test_run_classifier_of_several_labels_of_sklearn(model: object, reviews: pd.DataFrame):
    pipeline = make_pipeline(TfidfVectorizer(), model).fit(reviews.text, INDICATOR)
    outputs = run_classifier(pipeline, reviews.text)
    assert outputs.form == "indicator"
    assert outputs.probabilities.shape == (20, 2)
    compared = Comparison.of(outputs, INDICATOR, column(20))
    assert compared.is_multilabel
    assert compared.classes == [0, 1]


@pytest.mark.parametrize("form", ["indicator", "lists"])
def test_run_classifier_of_several_labels(form: str, reviews: pd.DataFrame):
    y = (
        INDICATOR
        if form == "indicator"
        else [[name for name, one in zip("ab", row, strict=True) if one] for row in INDICATOR]
    )
    clf = XLMRXLClassifier("nano", tuning="head", max_epochs=1, random_state=0).fit(reviews.text, y)
    outputs = run_classifier(clf, reviews.text)
    assert outputs.form == form
    assert outputs.labels.tolist() == clf.predict(reviews.text).tolist()
    compared = Comparison.of(outputs, y, column(20))
    assert compared.true.tolist() == INDICATOR.tolist()
    assert compared.predicted.tolist() == (clf.predict_proba(reviews.text) > 0.5).astype(int).tolist()


def test_comparison_counts_labels_that_fit_has_not_seen_as_wrong():
    outputs = Outputs(np.array(["b", "d"]), np.array([[0.8, 0.2], [0.3, 0.7]]), np.array(["b", "d"]), None)
    compared = Comparison.of(outputs, ["c", "d"], column(2))
    assert compared.classes == ["b", "c", "d"]
    assert compared.right.tolist() == [False, True]
    assert compared.probabilities.tolist() == [[0.8, 0.0, 0.2], [0.3, 0.0, 0.7]]
    lists = Outputs(np.array([("b",), ()], object), np.array([[0.8], [0.2]]), np.array(["b"]), "lists")
    compared = Comparison.of(lists, [["b", "x"], []], column(2))
    assert compared.true.tolist() == [[1, 1], [0, 0]]
    assert compared.right.tolist() == [False, True]


def test_comparison_names_what_is_wrong_with_y():
    outputs = Outputs(np.array(["b", "d"]), None, np.array(["b", "d"]), None)
    with pytest.raises(ValueError, match="y has labels such as 1, but the classes of estimator such as 'b'"):
        Comparison.of(outputs, [1, 2], column(2))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        Comparison.of(outputs, ["b"], column(2))
    with pytest.raises(ValueError, match="y has probabilities of classes, but labels are needed"):
        Comparison.of(outputs, [[0.5, 0.5], [0.1, 0.9]], column(2))
