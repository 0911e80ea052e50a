"""Confusion matrices of groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import confusion_matrix

from skxlmr import XLMRXLClassifier
from skxlmr.inspection import LanguageConfusionDisplay

TRUE = np.array(["a", "b", "c", "a", "b", "c", "a"])
PREDICTED = np.array(["a", "b", "a", "b", "b", "c", "a"])
GROUPS = ["zh", "en", "en", "zh", "en", None, "zh"]


@pytest.mark.parametrize("normalize", ["true", "pred", "all", None])
def test_matrices_are_those_of_sklearn(normalize: str | None):
    display = LanguageConfusionDisplay.from_predictions(TRUE, PREDICTED, groups=GROUPS, normalize=normalize)
    assert list(display.confusion_matrices) == ["(missing)", "en", "zh"]
    for group, matrix in display.confusion_matrices.items():
        rows = [i for i, name in enumerate(GROUPS) if (name or "(missing)") == group]
        expected = confusion_matrix(TRUE[rows], PREDICTED[rows], labels=["a", "b", "c"], normalize=normalize)
        np.testing.assert_array_equal(matrix, expected)
    scales = {one.im_.get_clim() for one in display.displays_}
    assert scales == {(0, 1.0)} if normalize else {(0, 2)}
    assert [ax.get_title().split("\n")[0] for ax in display.axes_] == ["(missing)", "en", "zh"]
    assert display.ax_ is display.axes_[0]
    assert len(display.figure_.axes) == 4


def test_numbers_are_readable_on_the_common_scale():
    many = LanguageConfusionDisplay({"one": np.array([[100, 0], [0, 100]]), "two": np.array([[3, 0], [0, 3]])}).plot()
    dark, light = (display.text_[0, 0].get_color() for display in many.displays_)
    cmap = many.displays_[0].im_.cmap
    assert dark == cmap(0.0)
    assert light == cmap(1.0)


def test_from_estimator_predicts(classifier: XLMRXLClassifier, reviews: pd.DataFrame):
    display = LanguageConfusionDisplay.from_estimator(
        classifier, reviews.text, reviews.label, groups=reviews.language, normalize=None
    )
    assert display.confusion_matrices["en"].sum() == 12
    assert display.confusion_matrices["zh"].sum() == 8
    assert [text.get_text() for text in display.ax_.get_yticklabels()] == ["bad", "good"]
    with pytest.warns(UserWarning, match=r"in another order.*groups\.loc\[X\.index\]"):
        LanguageConfusionDisplay.from_estimator(classifier, reviews.text, reviews.label, groups=reviews.language[::-1])


def test_without_groups_there_is_one_matrix():
    display = LanguageConfusionDisplay.from_predictions(TRUE, PREDICTED, display_labels=["A", "B", "C"])
    assert [ax.get_title() for ax in display.axes_] == ["all rows\naccuracy 0.71, n = 7"]
    assert [text.get_text() for text in display.ax_.get_xticklabels()] == ["A", "B", "C"]


def test_one_class_is_a_matrix_of_one_number():
    display = LanguageConfusionDisplay.from_predictions(["a"] * 3, ["a"] * 3, normalize=None)
    assert display.confusion_matrices["all rows"].tolist() == [[3]]


def test_labels_select_and_order_the_classes():
    display = LanguageConfusionDisplay.from_predictions(TRUE, PREDICTED, labels=["b", "a"], normalize=None)
    assert display.confusion_matrices["all rows"].tolist() == [[2, 0], [1, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": ["en"]}, "groups has 1 values, but y_true has 7 rows"),
        ({"groups": "language"}, "groups is a single str"),
        ({"groups": [[1]] * 7}, "groups, row 0: .* is a list, not the name of a group"),
        ({"normalize": "rows"}, "normalize must be one of"),
        ({"labels": ["x"]}, "labels has none of the labels"),
        ({"display_labels": ["A"]}, "display_labels has 1 names for 3 classes"),
        ({"n_cols": 0}, "n_cols must be an integer"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        LanguageConfusionDisplay.from_predictions(TRUE, PREDICTED, **arguments)


def test_wrong_labels_are_named(classifier: XLMRXLClassifier, reviews: pd.DataFrame):
    with pytest.raises(ValueError, match="y_true has 7 labels, but y_pred 2"):
        LanguageConfusionDisplay.from_predictions(TRUE, PREDICTED[:2])
    with pytest.raises(ValueError, match="y_pred must have one label per row"):
        LanguageConfusionDisplay.from_predictions(TRUE, np.eye(7, dtype=int))
    with pytest.raises(ValueError, match="y has labels such as 1, but the predictions of estimator such as"):
        LanguageConfusionDisplay.from_estimator(classifier, reviews.text, [1, 0] * 10)
    with pytest.raises(ValueError, match="y_true, row 1: None is not a label"):
        LanguageConfusionDisplay.from_predictions(["a", None], ["a", "b"])
    with pytest.raises(ValueError, match="y_true has no label"):
        LanguageConfusionDisplay.from_predictions([], [])
    with pytest.raises(TypeError, match="y is a NoneType"):
        LanguageConfusionDisplay.from_estimator(classifier, reviews.text, None)
    with pytest.raises(NotFittedError, match="estimator is not fitted"):
        LanguageConfusionDisplay.from_estimator(clone(classifier), reviews.text, reviews.label)
    with pytest.raises(ValueError, match="groups has 3 values, but y has 20 rows"):
        LanguageConfusionDisplay.from_estimator(classifier, reviews.text, reviews.label, groups=["en"] * 3)
