"""Curves of trainings."""

from __future__ import annotations

import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.inspection import TrainingCurveDisplay


def test_panels_show_the_history(classifier: XLMRXLClassifier):
    display = TrainingCurveDisplay.from_estimator(classifier)
    assert [ax.get_title() for ax in display.axes_] == ["Loss", "Validation score", "Learning rate"]
    assert display.ax_ is display.axes_[0]
    assert display.figure_ is display.ax_.figure
    loss, validation_loss, score, rate = display.lines_["XLMRXLClassifier"]
    history, start = classifier.history_, classifier.start_metrics_
    assert loss.get_ydata().tolist() == history["loss"].tolist()
    assert loss.get_xdata().tolist() == [1, 2]
    assert validation_loss.get_ydata().tolist() == [start["validation_loss"], *history["validation_loss"]]
    assert score.get_xdata().tolist() == [0, 1, 2]
    assert rate.get_ydata().tolist() == history["learning_rate"].tolist()


def test_without_validation_there_are_two_panels():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.4], "learning_rate": [1e-3, 5e-4], "seconds": [1.0, 1.0]})
    display = TrainingCurveDisplay({"fit": history}).plot()
    assert [ax.get_title() for ax in display.axes_] == ["Loss", "Learning rate"]


def test_several_fits_are_lines_with_names(classifier: XLMRXLClassifier):
    display = TrainingCurveDisplay.from_estimator({"first": classifier, "second": make_pipeline(classifier)})
    assert list(display.lines_) == ["first", "second"]
    legend = [text.get_text() for text in display.axes_[1].get_legend().get_texts()]
    assert legend == ["first", "second"]
    assert list(TrainingCurveDisplay.from_estimator([classifier, classifier]).lines_) == ["fit 1", "fit 2"]


def test_not_fitted_is_an_error_that_names_the_argument(classifier: XLMRXLClassifier):
    with pytest.raises(NotFittedError, match=r"estimator is not fitted. Call fit of this XLMRXLClassifier first"):
        TrainingCurveDisplay.from_estimator(clone(classifier))
    with pytest.raises(NotFittedError, match=r"estimator\[1\] is not fitted"):
        TrainingCurveDisplay.from_estimator([classifier, clone(classifier)])


def test_estimators_that_were_not_trained_in_epochs_are_errors(classifier: XLMRXLClassifier):
    embedder = XLMRXLEmbedder("nano").fit(["text"])
    with pytest.raises(TypeError, match="estimator has no history_: this XLMRXLEmbedder was not trained"):
        TrainingCurveDisplay.from_estimator(embedder)
    with pytest.raises(TypeError, match="estimator has no history_"):
        TrainingCurveDisplay.from_estimator(TfidfVectorizer().fit(["some text"]))
    with pytest.raises(TypeError, match="estimator is a str, not an estimator"):
        TrainingCurveDisplay.from_estimator("clf")
    with pytest.raises(TypeError, match="estimator is the class XLMRXLClassifier"):
        TrainingCurveDisplay.from_estimator(XLMRXLClassifier)
    with pytest.raises(ValueError, match="estimator is empty"):
        TrainingCurveDisplay.from_estimator([])
    with pytest.raises(ValueError, match="name is for a single estimator"):
        TrainingCurveDisplay.from_estimator([classifier], name="one")


def test_loaded_weights_have_no_curve(classifier: XLMRXLClassifier):
    loaded = classifier._snapshot()
    loaded.history_ = classifier.history_[:0]
    with pytest.raises(ValueError, match="estimator has an empty history_"):
        TrainingCurveDisplay.from_estimator(loaded)
