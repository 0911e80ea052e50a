"""scikit-learn's contract, for every public estimator."""

from __future__ import annotations

import io
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.fixes import parse_version

import skxlmr
from skxlmr import (
    XLMRXLQA,
    Head,
    LoRA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.estimators.language_model import XLMRXLLanguageModel
from skxlmr.text.words import split_words

ESTIMATORS = [
    XLMRXLClassifier(model="nano", max_epochs=2, learning_rate=1e-2, random_state=0),
    XLMRXLClassifier(model="nano", max_epochs=2, learning_rate=1e-2, tuning="head", random_state=0),
    XLMRXLRegressor(model="nano", max_epochs=2, learning_rate=1e-2, random_state=0),
    XLMRXLRegressor(model="nano", max_epochs=2, tuning="head", loss="huber", random_state=0),
    XLMRXLTagger(model="nano", max_epochs=2, learning_rate=1e-2, random_state=0),
    XLMRXLMaskedLM(model="nano", max_epochs=2, random_state=0),
    XLMRXLGenerator(model="nano", max_epochs=2, random_state=0),
    XLMRXLEmbedder(model="nano"),
    XLMRXLEmbedder(model="nano", pooling="max", n_components=3, normalize=True, random_state=0),
    XLMRXLEmbedder(model="nano", objective="classes", max_epochs=2, random_state=0),
]
OF_SEVERAL_COLUMNS = [XLMRXLQA, XLMRXLMultipleChoice]  # tested in test_qa.py and test_multiple_choice.py
TEXTS = [
    "a wonderful film", "很好看的电影", "dreadful", "太难看了", "I loved every minute of it, from the first to last",
    "", "糟糕", "un film magnifique 🎬", "boring and far too long", "a wonderful film", "好", "never again",
]  # fmt: skip
LABELS = ["good", "good", "bad", "bad", "good", "bad", "bad", "good", "bad", "good", "good", "bad"]
NUMBERS = [4.5, 4.0, 1.0, 0.5, 5.0, 2.0, 1.5, 4.8, 1.2, 4.5, 3.9, 2.1]


def ids(estimator):
    return repr(estimator).replace("\n", "").replace("model='nano', ", "").replace("  ", "")


routes_weights_of_scores = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.8"),
    reason="a Pipeline of scikit-learn before 1.8 routes no weights of scores",
)
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=ids)


@pytest.fixture(scope="module")
def fitted():
    """Estimators of ESTIMATORS, fitted, by their repr."""
    return {repr(estimator): clone(estimator).fit(TEXTS, y_for(estimator)) for estimator in ESTIMATORS}


def y_for(estimator):
    if isinstance(estimator, XLMRXLTagger):
        return [["long" if end - start > 3 else "short" for start, end in split_words(text)] for text in TEXTS]
    return NUMBERS if is_regressor(estimator) else LABELS


def outputs(estimator, X):
    """Numeric outputs of an estimator, by method."""
    if is_regressor(estimator):
        return {"predict": estimator.predict(X)}
    if isinstance(estimator, XLMRXLTagger):
        return {"predict_proba": np.stack([p.sum(axis=0) for p in estimator.predict_proba(X)])}
    if isinstance(estimator, XLMRXLMaskedLM):
        return {"pseudo_log_likelihood": estimator.pseudo_log_likelihood(X)}
    if isinstance(estimator, XLMRXLGenerator):
        return {"log_likelihood": estimator.log_likelihood(X)}
    if is_classifier(estimator):
        return {"predict_proba": estimator.predict_proba(X), "decision_function": estimator.decision_function(X)}
    return {"transform": estimator.transform(X)}


def assert_same(got, expected, atol=1e-5):
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=atol, err_msg=name)


def test_estimators_under_test_cover_all_public_estimators():
    public = {value for name in skxlmr.__all__ if name.startswith("XLMRXL") for value in [getattr(skxlmr, name)]}
    assert {type(estimator) for estimator in ESTIMATORS} | set(OF_SEVERAL_COLUMNS) == public


# -- parameters and persistence -----------------------------------------------------------------------------------


@every_estimator
def test_fit_leaves_parameters_and_input_unchanged(estimator):
    X, y = pd.DataFrame({"text": TEXTS}), pd.Series(y_for(estimator))
    X_before, y_before, params = X.copy(), y.copy(), dict(estimator.get_params())
    model = clone(estimator).fit(X, y)
    outputs(model, X)
    assert model.get_params() == params or repr(model.get_params()) == repr(params)
    pd.testing.assert_frame_equal(X, X_before)
    pd.testing.assert_series_equal(y, y_before)


@every_estimator
def test_clone_of_fitted_estimator_is_not_fitted(estimator, fitted):
    copy = clone(fitted[repr(estimator)])
    if not get_tags(copy).requires_fit:  # the checkpoint itself can predict
        assert not [name for name in vars(copy) if name.endswith("_")]
        return
    with pytest.raises(NotFittedError):
        outputs(copy, TEXTS)


@pytest.mark.parametrize("how", ["pickle", "joblib"])
@every_estimator
def test_pickle_is_small_and_restores_outputs(estimator, fitted, how):
    model = fitted[repr(estimator)]
    file = io.BytesIO()
    (pickle if how == "pickle" else joblib).dump(model, file)
    assert file.tell() < 1_000_000, "the backbone must not be in the pickle"
    file.seek(0)
    skxlmr.release_models()
    again = pickle.load(file) if how == "pickle" else joblib.load(file)
    assert_same(outputs(again, TEXTS), outputs(model, TEXTS), atol=0)


@every_estimator
def test_fit_with_invalid_input_raises_and_keeps_earlier_fit(estimator, fitted):
    model = pickle.loads(pickle.dumps(fitted[repr(estimator)]))
    before = outputs(model, TEXTS)
    for X, y in (([*TEXTS[:-1], None], y_for(estimator)), ("a bare string", y_for(estimator)), ([], [])):
        with pytest.raises((TypeError, ValueError)):
            model.fit(X, y)
    model.set_params(model="./no-such-folder")
    with pytest.raises(OSError, match="no-such-folder"):
        model.fit(TEXTS, y_for(estimator))
    model.set_params(model="nano")
    assert_same(outputs(model, TEXTS), before, atol=0)


@every_estimator
def test_fit_again_discards_earlier_fit(estimator):
    model = clone(estimator).fit(pd.DataFrame({"text": TEXTS}), y_for(estimator))
    assert model.feature_names_in_.tolist() == ["text"]
    model.fit(TEXTS, y_for(estimator))
    assert not hasattr(model, "feature_names_in_")
    assert_same(outputs(model, TEXTS), outputs(clone(estimator).fit(TEXTS, y_for(estimator)), TEXTS), atol=0)


# -- results ------------------------------------------------------------------------------------------------------


@every_estimator
def test_fit_with_fixed_random_state_is_reproducible(estimator, fitted):
    again = clone(estimator).fit(TEXTS, y_for(estimator))
    assert_same(outputs(again, TEXTS), outputs(fitted[repr(estimator)], TEXTS), atol=0)


@every_estimator
def test_outputs_do_not_depend_on_batches_or_row_order(estimator, fitted):
    skxlmr.set_feature_cache(0)  # compute every output anew
    model = pickle.loads(pickle.dumps(fitted[repr(estimator)]))
    expected = outputs(model, TEXTS)
    for batch_tokens in (1, 7, 64):
        assert_same(outputs(model.set_params(batch_tokens=batch_tokens), TEXTS), expected)
    order = np.random.RandomState(0).permutation(len(TEXTS))
    shuffled = outputs(model, [TEXTS[i] for i in order])
    assert_same(shuffled, {name: value[order] for name, value in expected.items()})
    alone = outputs(model, TEXTS[4:5])
    assert_same(alone, {name: value[4:5] for name, value in expected.items()})
    skxlmr.set_feature_cache()


@every_estimator
def test_outputs_of_equal_rows_are_equal(estimator, fitted):
    for value in outputs(fitted[repr(estimator)], TEXTS).values():
        np.testing.assert_array_equal(value[0], value[9])  # rows 0 and 9 have the same text


@every_estimator
def test_outputs_with_other_columns_than_in_fit_raise(estimator, fitted):
    model = clone(estimator).fit(pd.Series(TEXTS, name="text").to_frame(), y_for(estimator))
    with pytest.raises(ValueError, match="feature names"):
        outputs(model, pd.DataFrame({"body": TEXTS}))
    pairs = pd.DataFrame({"a": TEXTS, "b": TEXTS})
    if isinstance(estimator, XLMRXLTagger | XLMRXLLanguageModel):  # take one column only
        return
    with pytest.raises(ValueError, match="features"):
        outputs(fitted[repr(estimator)], pairs.to_numpy())
    assert clone(estimator).fit(pairs, y_for(estimator)).n_features_in_ == 2


# -- inside scikit-learn ------------------------------------------------------------------------------------------


def step_of(estimator):
    if not isinstance(estimator, XLMRXLEmbedder):
        return make_pipeline(estimator)
    return make_pipeline(estimator, LogisticRegression())


@every_estimator
def test_cross_val_score_of_pipeline_is_finite(estimator):
    pipeline = step_of(clone(estimator))
    scores = cross_val_score(pipeline, np.array(TEXTS, object), y_for(estimator), cv=2)
    assert len(scores) == 2
    assert np.isfinite(scores).all()
    assert pipeline.fit(TEXTS, y_for(estimator)).predict(TEXTS).shape == (len(TEXTS),)


def test_grid_search_over_tuning_sets_its_parameters():
    clf = XLMRXLClassifier(model="nano", tuning=LoRA(), max_epochs=1, random_state=0)
    search = GridSearchCV(clf, {"tuning__rank": [2, 4], "learning_rate": [1e-3]}, cv=2).fit(TEXTS, LABELS)
    assert search.best_estimator_.tuning.rank in (2, 4)
    search = GridSearchCV(clf, {"tuning": ["head", Head(), LoRA(rank=1)]}, cv=2).fit(TEXTS, LABELS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_embedder_in_column_transformer_and_feature_union_names_its_columns():
    df = pd.DataFrame({"title": TEXTS, "body": TEXTS[::-1], "stars": range(len(TEXTS))})
    embedder = XLMRXLEmbedder(model="nano")
    columns = ColumnTransformer(
        [("title", embedder, "title"), ("both", embedder, ["title", "body"]), ("rest", "passthrough", ["stars"])]
    )
    assert columns.fit_transform(df).shape == (len(df), 192 + 192 + 1)
    assert columns.get_feature_names_out()[0] == "title__title_0"
    union = FeatureUnion([("mean", embedder), ("max", clone(embedder).set_params(pooling="max"))])
    assert union.fit_transform(df.title).shape == (len(df), 384)
    frame = clone(embedder).set_output(transform="pandas").fit_transform(df.title)
    assert list(frame.columns[:2]) == ["title_0", "title_1"]
    assert (frame.index == df.index).all()
    assert (frame.dtypes == "float32").all()


@pytest.mark.parametrize("in_pipeline", [False, pytest.param(True, marks=routes_weights_of_scores)])
def test_sample_weight_with_metadata_routing_reaches_fit(in_pipeline):
    class Spy(XLMRXLClassifier):
        def fit(self, X, y, sample_weight=None):
            assert sample_weight is not None
            return super().fit(X, y, sample_weight)

    weights = np.linspace(0.5, 1.5, len(TEXTS))
    with sklearn.config_context(enable_metadata_routing=True):
        spy = Spy(model="nano", tuning="head", max_epochs=1).set_fit_request(sample_weight=True)
        spy.set_score_request(sample_weight=True)
        estimator = Pipeline([("clf", spy)]) if in_pipeline else spy
        cross_val_score(estimator, TEXTS, LABELS, cv=2, params={"sample_weight": weights})
