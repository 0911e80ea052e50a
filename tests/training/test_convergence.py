"""Warnings of trainings that learned nothing."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skxlmr import XLMRXLClassifier, XLMRXLMultipleChoice, XLMRXLRegressor, XLMRXLTagger
from skxlmr.training.convergence import Quality

TEXTS = ["good", "bad film", "fine", "poor", "nice words here", "awful", "lovely", "dull"] * 3
LABELS = ["yes", "no"] * 12


@pytest.mark.parametrize(
    ("quality", "problem"),
    [
        (Quality(0.1, 0.7), None),
        (Quality(0.8, 0.7), "predicting the same for all rows would give 0.7"),
        (Quality(float("nan"), 0.7), "predicting the same"),
        (Quality(0.5, 0.7, most_predicted=(1.0, 0.9)), "one class is predicted for 100% of the training rows"),
        (Quality(0.01, 0.02, most_predicted=(1.0, 1.0)), None),
        (Quality(0.3, 0.7, start=Quality(0.1, 0.7)), "loss is 0.3 at its end, but was 0.1 with the linear model"),
        (Quality(0.11, 0.7, start=Quality(0.1, 0.7)), None),
        (Quality(0.3, 0.7, 0.95, start=Quality(0.1, 0.7, 1.0)), None),
        (Quality(0.3, 0.7, 0.8, start=Quality(0.1, 0.7, 1.0)), "score is 0.8 at its end, but was 1 with the linear"),
    ],
)
def test_problem_names_what_went_wrong(quality, problem):
    found = quality.problem()
    assert found is None if problem is None else problem in found


def test_fit_with_high_learning_rate_warns():
    clf = XLMRXLClassifier("nano", learning_rate=2.0, random_state=0, device="cpu")
    with pytest.warns(ConvergenceWarning, match=r"Try to lower learning_rate \(it was 2\)"):
        clf.fit(TEXTS, LABELS)


def test_fit_with_learning_rate_beyond_all_numbers_raises():
    clf = XLMRXLClassifier("nano", learning_rate=1e6, random_state=0, device="cpu")
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        clf.fit(TEXTS, LABELS)


def test_fit_with_high_learning_rate_and_early_stopping_keeps_the_start():
    settings = {"random_state": 0, "validation_fraction": 0.5, "device": "cpu"}
    clf = XLMRXLClassifier("nano", learning_rate=300.0, early_stopping=True, **settings).fit(TEXTS, LABELS)
    assert clf.best_validation_score_ == clf.start_metrics_["validation_score"] >= max(clf.validation_scores_)
    head = XLMRXLClassifier("nano", tuning="head", early_stopping=True, **settings).fit(TEXTS, LABELS)
    np.testing.assert_allclose(clf.predict_proba(TEXTS), head.predict_proba(TEXTS), atol=1e-5)


@pytest.mark.parametrize("init", ["random", "probe"])
def test_fit_on_imbalanced_classes_warns_or_finds_both(init):
    rng = np.random.RandomState(0)
    texts = [" ".join(rng.choice(["one", "two", "three", "four", "five"], 6)) for _ in range(60)]
    labels = np.where(np.arange(60) % 10 == 0, "rare", "usual")
    clf = XLMRXLClassifier("nano", init=init, max_epochs=1, random_state=0, device="cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clf.fit(texts, labels)
    warned = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    assert warned or len(set(clf.predict(texts))) == 2
    assert warned or init == "probe"


def test_fit_that_learns_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        XLMRXLClassifier("nano", random_state=0, device="cpu").fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("estimator", "X", "y"),
    [
        (XLMRXLRegressor("nano"), TEXTS, np.arange(24.0)),
        (XLMRXLTagger("nano"), [["good", "film"], ["bad"]] * 12, [["A", "N"], ["A"]] * 12),
        (XLMRXLMultipleChoice("nano"), [[text, "good", "bad"] for text in TEXTS[:16]], [0, 1, 1, 0] * 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_estimators_warn_of_huge_learning_rates(estimator, X, y):
    estimator.set_params(learning_rate=300.0, max_epochs=2, random_state=1, device="cpu")
    with pytest.warns(ConvergenceWarning, match="did not learn well"):
        estimator.fit(X, y)
