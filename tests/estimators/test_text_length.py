"""Texts that are too long are an error of every estimator, which names the column and the row."""

from __future__ import annotations

import pandas as pd
import pytest

import skxlmr
from skxlmr import (
    XLMRXLQA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)

LONG = "long " * 20


@pytest.fixture(autouse=True)
def low_limit(monkeypatch):
    monkeypatch.setattr(skxlmr.system.text_length, "MAX_TEXT_LENGTH", 50)


@pytest.mark.parametrize(
    "estimator", [XLMRXLClassifier, XLMRXLRegressor, XLMRXLMaskedLM, XLMRXLGenerator, XLMRXLEmbedder]
)
def test_fit_with_a_long_text_names_the_row(estimator):
    X = pd.Series(["short", LONG, "short"], index=[5, 6, 7], name="review")
    with pytest.raises(ValueError, match=r"^X, column 'review', row 1 \(index 6\): the text has 100 characters"):
        estimator("nano").fit(X, [0, 1, 0])


@pytest.mark.parametrize("pair", [0, 1])
def test_fit_with_a_long_text_of_a_pair_names_the_column(pair):
    X = pd.DataFrame({"a": ["x", "y"], "b": ["x", "y"]})
    X.iloc[1, pair] = LONG
    with pytest.raises(ValueError, match=rf"^X, column '{'ab'[pair]}', row 1: the text has 100"):
        XLMRXLClassifier("nano").fit(X, [0, 1])


def test_fit_with_a_long_context_names_the_column():
    X = pd.DataFrame({"question": ["who?", "who?"], "context": ["Ada", LONG]})
    with pytest.raises(ValueError, match=r"^X, column 'context', row 1: the text has 100"):
        XLMRXLQA("nano").fit(X, ["Ada", "long"])


@pytest.mark.parametrize("X", [["short", LONG], [["short"], LONG.split()]], ids=["str", "tokens"])
def test_fit_of_tagger_with_a_long_sentence_names_the_row(X):
    with pytest.raises(ValueError, match=r"^X, row 1: the text has"):
        XLMRXLTagger("nano").fit(X, [["O"], ["O"] * 20])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([["why", LONG, "b"]], "^X, row 0: the text has 100"),
        ([[LONG, "a", "b"]], "^X, row 0: the text has 100"),
        ([["why", ["a", LONG]]], "^X, row 0, choice 1: the text has 100"),
    ],
    ids=["cell", "prompt", "list"],
)
def test_fit_with_a_long_choice_names_the_row(X, message):
    other = ["why", "a", "b"] if len(X[0]) == 3 else ["why", ["a", "b"]]
    with pytest.raises(ValueError, match=message):
        XLMRXLMultipleChoice("nano").fit([*X, other], [0, 1])


def test_predict_with_a_long_text_names_the_row():
    clf = XLMRXLClassifier("nano", tuning="head", max_epochs=1, random_state=0).fit(["good", "bad"], [1, 0])
    with pytest.raises(ValueError, match=r"^X, row 0: the text has 100"):
        clf.predict([LONG])
