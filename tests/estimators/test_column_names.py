"""Names of columns: those that fit saw, and those of the embedder's output."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from polars_support import takes_polars
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler

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

WORDS = ["one two", "three", "one three two", "two"]
PAIRS = pd.DataFrame({"a": WORDS, "b": WORDS[::-1]})
TUNED = {"model": "nano", "max_epochs": 1, "random_state": 0}

# Estimators with an X of named columns and a y.
OF_PAIRS = {
    "classifier": (XLMRXLClassifier(tuning="head", **TUNED), PAIRS, [0, 1, 0, 1]),
    "regressor": (XLMRXLRegressor(tuning="head", **TUNED), PAIRS, [0.0, 1.0, 2.0, 3.0]),
    "qa": (XLMRXLQA(tuning="head", **TUNED), PAIRS.set_axis(["q", "c"], axis=1), PAIRS["b"].tolist()),
    "multiple choice": (
        XLMRXLMultipleChoice(tuning="head", **TUNED),
        PAIRS.assign(c=WORDS).set_axis(["p", "first", "second"], axis=1),
        [0, 1, 1, 0],
    ),
    "embedder": (XLMRXLEmbedder("nano"), PAIRS, None),
    "embedder of pairs": (XLMRXLEmbedder(objective="pairs", **TUNED), PAIRS, None),
}
OF_ONE_COLUMN = {
    "tagger": (XLMRXLTagger(tuning="head", **TUNED), PAIRS[["a"]], [text.split() for text in WORDS]),
    "masked lm": (XLMRXLMaskedLM(tuning="head", **TUNED), PAIRS[["a"]], None),
    "generator": (XLMRXLGenerator(tuning="head", **TUNED), PAIRS[["a"]], None),
    "classifier of one column": (XLMRXLClassifier(tuning="head", **TUNED), PAIRS[["a"]], [0, 1, 0, 1]),
}
ALL = OF_PAIRS | OF_ONE_COLUMN


def fitted(name):
    estimator, X, y = ALL[name]
    return clone(estimator).fit(X, y), X, y


def call(model, X):
    method = "transform" if hasattr(model, "transform") else "predict" if hasattr(model, "predict") else "score"
    return getattr(model, method)(X)


def with_missing_texts(X):
    X = X.astype(object)
    X.iloc[1] = None
    return X


def error_of_sklearn(X_fit, X):
    """The error that LogisticRegression raises for columns of these names."""
    numbers = [pd.DataFrame(np.eye(4)[:, : x.shape[1]], columns=x.columns) for x in (X_fit, X)]
    with pytest.raises((TypeError, ValueError)) as caught:
        LogisticRegression().fit(numbers[0], [0, 1, 0, 1]).predict(numbers[1])
    return caught.value


def test_estimators_under_test_are_all_public_ones():
    public = {getattr(skxlmr, name) for name in skxlmr.__all__ if name.startswith("XLMRXL")}
    assert {type(estimator) for estimator, _, _ in ALL.values()} == public


@pytest.mark.parametrize("name", OF_PAIRS)
def test_fit_with_names_of_mixed_types_raises_error_of_sklearn(name):
    estimator, X, y = OF_PAIRS[name]
    mixed = X.set_axis([0, *X.columns[1:]], axis=1)
    expected = error_of_sklearn(mixed, mixed)
    for columns in (mixed, with_missing_texts(mixed)):
        with pytest.raises(TypeError) as caught:
            clone(estimator).fit(columns, y)
        assert str(caught.value) == str(expected)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_fit_with_repeated_names_raises(name):
    estimator, X, y = OF_PAIRS[name]
    with pytest.raises(ValueError, match=r"Expected unique column names.*'same'"):
        clone(estimator).fit(X.set_axis(["same"] * X.shape[1], axis=1), y)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_fit_with_numbers_as_names_has_no_feature_names(name):
    estimator, X, y = OF_PAIRS[name]
    model = clone(estimator).fit(X.set_axis(range(X.shape[1]), axis=1), y)
    assert not hasattr(model, "feature_names_in_")
    call(model, X.set_axis(range(X.shape[1]), axis=1))


@pytest.mark.parametrize("missing", [False, True], ids=["texts", "missing texts"])
@pytest.mark.parametrize("name", OF_PAIRS)
def test_swapped_columns_raise_error_of_sklearn_before_missing_texts_are_told(name, missing):
    model, X, _ = fitted(name)
    swapped = X[X.columns[::-1]]
    if missing:
        swapped = with_missing_texts(swapped)
    expected = error_of_sklearn(X, swapped)
    for columns in (swapped, pl.from_pandas(swapped), pa.Table.from_pandas(swapped)):
        with pytest.raises(ValueError, match="must be in the same order") as caught:
            call(model, columns)
        assert str(caught.value) == f"{expected}Select the columns that fit saw: X[{list(X)}]."


@pytest.mark.parametrize("name", ALL)
def test_other_columns_raise_error_of_sklearn_before_other_content_is_told(name):
    model, X, _ = fitted(name)
    for content in (None, 3.5, b"bytes"):
        other = pd.DataFrame(content, index=X.index, columns=[f"other {column}" for column in X], dtype=object)
        with pytest.raises(ValueError, match="Feature names unseen at fit time") as caught:
            call(model, other)
        assert str(caught.value) == f"{error_of_sklearn(X, other)}Select the columns that fit saw: X[{list(X)}]."


def test_partial_fit_and_validation_rows_tell_swapped_columns_before_missing_texts():
    estimator, X, y = OF_PAIRS["classifier"]
    swapped = with_missing_texts(X[["b", "a"]])
    model = clone(estimator).partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="must be in the same order"):
        model.partial_fit(swapped, y)
    with pytest.raises(ValueError, match=r"X_val has the columns \['b', 'a'\], but X has \['a', 'b'\]"):
        clone(estimator).fit(X, y, X_val=swapped, y_val=y)
    with pytest.raises(ValueError, match="must be in the same order"):
        model.score(swapped, y)


def test_qa_finds_its_columns_by_name_in_any_order():
    estimator, X, y = OF_PAIRS["qa"]
    X = X.set_axis(["question", "context"], axis=1)
    model = clone(estimator).fit(X.assign(id=range(4))[["id", "context", "question"]], y)
    assert model.feature_names_in_.tolist() == ["question", "context"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(model.predict(X[["context", "question"]]), model.predict(X))


# -- names of the embedder's output -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "names"),
    [
        (WORDS, ["xlmrxlembedder0", "xlmrxlembedder1"]),
        (pd.Series(WORDS), ["xlmrxlembedder0", "xlmrxlembedder1"]),
        (pd.Series(WORDS, name=3), ["xlmrxlembedder0", "xlmrxlembedder1"]),
        (pl.Series(WORDS), ["xlmrxlembedder0", "xlmrxlembedder1"]),
        (PAIRS[["a"]].set_axis([0], axis=1), ["xlmrxlembedder0", "xlmrxlembedder1"]),
        (pd.Series(WORDS, name="title"), ["title_0", "title_1"]),
        (pl.Series("title", WORDS), ["title_0", "title_1"]),
        (PAIRS[["a"]], ["a_0", "a_1"]),
        (PAIRS, ["a_b_0", "a_b_1"]),
        (pl.from_pandas(PAIRS), ["a_b_0", "a_b_1"]),
        (pa.Table.from_pandas(PAIRS), ["a_b_0", "a_b_1"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_names_of_output_are_those_of_the_input_column(X, names):
    embedder = XLMRXLEmbedder("nano", n_dims=2).fit(X)
    assert embedder.get_feature_names_out().tolist() == names
    assert embedder.set_output(transform="pandas").transform(X).columns.tolist() == names


def test_names_of_separate_pairs_are_those_of_both_columns():
    embedder = XLMRXLEmbedder(objective="pairs", n_dims=2, **TUNED).fit(PAIRS)
    assert embedder.get_feature_names_out().tolist() == ["a_0", "a_1", "b_0", "b_1"]
    assert embedder.set_output(transform="polars").transform(PAIRS).columns == ["a_0", "a_1", "b_0", "b_1"]


def test_names_of_output_with_input_features():
    embedder = XLMRXLEmbedder("nano", n_dims=1)
    with pytest.raises(NotFittedError):
        embedder.get_feature_names_out()
    assert embedder.fit(WORDS).get_feature_names_out(["body"]).tolist() == ["body_0"]
    assert embedder.fit(PAIRS["a"]).get_feature_names_out(["body"]).tolist() == ["body_0"]
    assert embedder.fit(PAIRS[["a"]]).get_feature_names_out(["a"]).tolist() == ["a_0"]
    with pytest.raises(ValueError, match="input_features is not equal to feature_names_in_"):
        embedder.get_feature_names_out(["body"])
    with pytest.raises(ValueError, match="input_features should have length equal"):
        embedder.fit(WORDS).get_feature_names_out(["a", "b"])


@pytest.mark.parametrize("X", [PAIRS, pytest.param(pl.from_pandas(PAIRS), marks=takes_polars)], ids=["X", "polars X"])
@pytest.mark.parametrize("output", ["default", "pandas", pytest.param("polars", marks=takes_polars)])
def test_names_of_embedders_of_two_columns_do_not_clash(X, output):
    embedder = XLMRXLEmbedder("nano", n_components=1, random_state=0)
    steps = [("first", embedder, "a"), ("second", embedder, ["b"])]
    columns = ColumnTransformer(steps, verbose_feature_names_out=False).set_output(transform=output)
    columns.fit_transform(X)
    assert columns.get_feature_names_out().tolist() == ["a_0", "b_0"]


def test_names_of_embedders_in_unions_and_pipelines():
    embedder = XLMRXLEmbedder("nano", n_components=1, random_state=0)
    columns = ColumnTransformer([("x", embedder, [0]), ("y", embedder, [1])], verbose_feature_names_out=False)
    columns.fit(PAIRS.to_numpy())
    assert columns.get_feature_names_out().tolist() == ["x0_0", "x1_0"]
    union = FeatureUnion(
        [(name, ColumnTransformer([("text", embedder, name)], verbose_feature_names_out=False)) for name in PAIRS],
        verbose_feature_names_out=False,
    )
    assert union.set_output(transform="pandas").fit_transform(PAIRS).columns.tolist() == ["a_0", "b_0"]
    pipeline = make_pipeline(embedder, StandardScaler()).fit(PAIRS["a"])
    assert pipeline.get_feature_names_out().tolist() == ["a_0"]


def test_names_of_output_survive_save(tmp_path):
    XLMRXLEmbedder("nano", n_dims=1).fit(PAIRS["a"]).save(tmp_path)
    assert skxlmr.load(tmp_path).get_feature_names_out().tolist() == ["a_0"]
