"""What estimators do with X before they run: each call reads it once, fit refuses what it cannot be read by."""

import collections

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.utils import get_tags

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
from skxlmr.tasks.choices import Choosing
from skxlmr.tasks.classification import Classification
from skxlmr.tasks.questions import Answering
from skxlmr.tasks.tagging.task import Tagging

SETTINGS = {"model": "nano", "tuning": "head", "max_epochs": 1, "random_state": 0}
CASES = {
    "classifier": (XLMRXLClassifier, Classification, ["good", "bad"], ["yes", "no"], ["predict", "score"]),
    "multilabel": (XLMRXLClassifier, Classification, ["good", "bad"], [["a"], ["a", "b"]], ["predict", "score"]),
    "tagger": (XLMRXLTagger, Tagging, ["a b", "b"], [["X", "Y"], ["Y"]], ["predict", "predict_spans", "score"]),
    "qa": (XLMRXLQA, Answering, [["who?", "ada"], ["who?", "bob"]], ["ada", "bob"], ["predict", "metrics", "score"]),
    "choices": (XLMRXLMultipleChoice, Choosing, [["a", "b", "c"], ["a", "d", "e"]], ["b", "e"], ["predict", "score"]),
}


@pytest.mark.parametrize(("estimator", "task", "X", "y", "methods"), CASES.values(), ids=CASES)
def test_methods_read_column_once(estimator, task, X, y, methods, monkeypatch):
    read, calls = task.read, []
    monkeypatch.setattr(task, "read", lambda self, X: calls.append(1) or read(self, X))
    fitted = estimator(**SETTINGS).fit(X, y)
    assert len(calls) == 1
    for method in methods:
        calls.clear()
        getattr(fitted, method)(*((X, y) if method in ("score", "metrics") else (X,)))
        assert len(calls) == 1, method


DATA = {
    XLMRXLClassifier: (["good", "bad"], ["yes", "no"]),
    XLMRXLRegressor: (["good", "bad"], [1.0, 2.0]),
    XLMRXLTagger: (["a b", "b"], [["X", "Y"], ["Y"]]),
    XLMRXLQA: ([["who?", "ada"], ["who?", "bob"]], ["ada", "bob"]),
    XLMRXLMultipleChoice: ([["a", "b", "c"], ["a", "d", "e"]], ["b", "e"]),
    XLMRXLMaskedLM: (["good", "bad"],),
    XLMRXLGenerator: (["good", "bad"],),
    XLMRXLEmbedder: (["good", "bad"],),
}


@pytest.mark.parametrize("cls", DATA)
def test_fit_with_windows_that_the_model_cannot_read_raises(cls):
    with pytest.raises(ValueError, match="max_length=513, but 'nano' reads at most 512 tokens"):
        cls("nano", max_length=513).fit(*DATA[cls])
    with pytest.raises(ValueError, match="stride=510 leaves no way to advance: a window holds 510 pieces"):
        cls("nano", stride=510).fit(*DATA[cls])


@pytest.mark.parametrize("cls", DATA)
def test_fit_with_any_sequence_equals_fit_with_lists(cls):
    settings = {"max_epochs": 1, "random_state": 0}
    predict = "transform" if cls is XLMRXLEmbedder else "predict"
    X, *y = DATA[cls]
    if cls in (XLMRXLMaskedLM, XLMRXLGenerator):
        predict = "score"
    expected = getattr(cls("nano", **settings).fit(X, *y), predict)(X)
    for kind in (collections.deque, collections.UserList):
        fitted = cls("nano", **settings).fit(*map(kind, DATA[cls]))
        assert np.array_equal(getattr(fitted, predict)(kind(X)), expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_grid_search_over_a_deque_and_early_stopping_work():
    X, y = collections.deque(["good", "bad"] * 6), collections.deque(["yes", "no"] * 6)
    clf = XLMRXLClassifier("nano", max_epochs=1, early_stopping=True, validation_fraction=0.25, scoring="accuracy")
    search = GridSearchCV(clf, {"tuning": ["head", "lora"]}, cv=2).fit(X, y)
    assert search.cv_results_["mean_test_score"].shape == (2,)


WITH_MISSING = {
    "list": ["good", None, "", "bad", float("nan"), pd.NA, pd.NaT],
    "Series": pd.Series(["good", None, "", "bad", float("nan"), pd.NA, pd.NaT], dtype=object),
    "string Series": pd.Series(["good", None, "", "bad", None, None, None], dtype="string"),
    "polars": pl.Series(["good", None, "", "bad", None, None, None]),
    "DataFrame": pd.DataFrame({"text": ["good", None, "", "bad", None, None, None]}),
}
FILLED = ["good", "", "", "bad", "", "", ""]
WITH_PARAMETER = [XLMRXLClassifier, XLMRXLRegressor, XLMRXLMaskedLM, XLMRXLGenerator, XLMRXLEmbedder]


def test_missing_is_a_parameter_of_the_estimators_of_text_columns():
    assert [cls for cls in DATA if "missing" in cls().get_params()] == WITH_PARAMETER
    assert get_tags(XLMRXLEmbedder(missing="empty")).input_tags.allow_nan
    assert not get_tags(XLMRXLEmbedder()).input_tags.allow_nan
    with pytest.raises(ValueError, match="'missing' parameter of XLMRXLEmbedder must be a str among"):
        XLMRXLEmbedder("nano", missing="drop").fit(["a"])


@pytest.mark.parametrize("cls", WITH_PARAMETER)
@pytest.mark.parametrize("kind", WITH_MISSING)
def test_missing_texts_are_an_error_or_empty_texts(cls, kind):
    X = WITH_MISSING[kind]
    y = {XLMRXLClassifier: [["yes", "no"][i % 2] for i in range(7)], XLMRXLRegressor: np.arange(7.0)}.get(cls)
    settings = {"max_epochs": 1, "random_state": 0}
    names = {XLMRXLClassifier: "predict_proba", XLMRXLRegressor: "predict", XLMRXLEmbedder: "transform"}
    method = names.get(cls, "score")
    data = (X,) if y is None else (X, y)
    with pytest.raises(ValueError, match=r"row 1.*is a missing value.*'empty' reads them as empty"):
        cls("nano", **settings).fit(*data)
    fitted = cls("nano", **settings, missing="empty").fit(*data)
    filled = cls("nano", **settings).fit(FILLED, *data[1:])
    np.testing.assert_array_equal(getattr(fitted, method)(X), getattr(filled, method)(FILLED))


def test_missing_texts_of_pairs_trim_validation_rows_and_partial_fit_are_empty():
    X, filled = [["a", None], [None, "b"]], [["a", ""], ["", "b"]]
    settings = {"max_epochs": 1, "random_state": 0, "vocabulary": "trim", "early_stopping": True}
    missing = XLMRXLClassifier("nano", missing="empty", **settings).fit(X, [0, 1], None, X, [0, 1])
    empty = XLMRXLClassifier("nano", **settings).fit(filled, [0, 1], None, filled, [0, 1])
    np.testing.assert_array_equal(missing.predict_proba(X), empty.predict_proba(filled))
    assert missing.score(X, [0, 1]) == empty.score(filled, [0, 1])
    begun = XLMRXLClassifier("nano", missing="empty").partial_fit([None, "a"], [0, 1], classes=[0, 1])
    assert begun.predict([None]).shape == (1,)


def test_column_of_datasets_is_read_like_a_list():
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    content = {"text": ["good", "bad"] * 6, "label": [1, 0] * 6, "tags": [[1, 0, 0], [0, 1, 1]] * 6}
    content["tokens"], content["words"] = [["Ada", "is"], ["Rome"]] * 6, [["N", "V"], ["N"]] * 6
    data, settings = datasets.Dataset.from_dict(content), {"model": "nano", "max_epochs": 1, "random_state": 0}
    for cls, X, y in (
        (XLMRXLClassifier, "text", "label"),
        (XLMRXLClassifier, "text", "tags"),
        (XLMRXLRegressor, "text", "tags"),
        (XLMRXLTagger, "tokens", "words"),
    ):
        of_column = cls(**settings).fit(data[X], data[y])
        of_list = cls(**settings).fit(content[X], content[y])
        assert of_column.score(data[X], data[y]) == of_list.score(content[X], content[y])
        for a, b in zip(of_column.predict(data[X]), of_list.predict(content[X]), strict=True):
            np.testing.assert_array_equal(a, b)
    assert of_column.fit(data["tokens"], data["words"], X_val=data["tokens"], y_val=data["words"]).validation_scores_


def test_table_vectorizer_of_skrub_may_make_empty_texts_missing():
    skrub = pytest.importorskip("skrub", reason="needs skrub")
    frame = pd.DataFrame({"text": ["", *[f"text {i}" for i in range(49)]]})
    vectorizer = skrub.TableVectorizer(high_cardinality=XLMRXLEmbedder("nano", missing="empty"))
    vectors = XLMRXLEmbedder("nano").fit_transform(frame.text)
    np.testing.assert_array_equal(vectorizer.fit_transform(frame).to_numpy(), vectors)
    np.testing.assert_array_equal(vectorizer.transform(frame.head(2)).to_numpy(), vectors[:2])
