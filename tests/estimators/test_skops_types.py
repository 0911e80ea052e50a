"""Files of skops, and of MLflow, that hold fitted estimators."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io as sio
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skops.io.exceptions import UntrustedTypesFoundException

import skxlmr
from skxlmr import (
    XLMRXLQA,
    Bias,
    Full,
    Int8,
    LoRA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.estimators.base import estimators
from skxlmr.training import MLflowLogger, ProgressBar, TensorBoardLogger

TEXTS = ["good", "bad", "fine", "poor"]
LABELS = ["yes", "no"] * 2
HEAD = {"model": "nano", "tuning": "head", "max_epochs": 1, "random_state": 0}
LOWER = {**HEAD, "tuning": LoRA(rank=2)}
PAIRS = pd.DataFrame({"question": ["who", "where"] * 2, "context": ["a b", "c d"] * 2})

# Estimators, with X and y.
CASES = {
    "classifier": (XLMRXLClassifier(**HEAD), TEXTS, LABELS),
    "classifier of numbers": (XLMRXLClassifier(**HEAD), pd.DataFrame({"text": TEXTS}), [3, 1, 3, 1]),
    "classifier of labels": (XLMRXLClassifier(**LOWER), TEXTS, [["a"], ["b"], ["a", "b"], []]),
    "classifier of pairs": (XLMRXLClassifier(**HEAD), PAIRS, LABELS),
    "all weights": (XLMRXLClassifier(**HEAD | {"tuning": Full(layers=1)}), TEXTS, LABELS),
    "biases": (XLMRXLClassifier(**HEAD | {"tuning": Bias()}), TEXTS, LABELS),
    "8 bits": (XLMRXLClassifier(load_in_8bit=Int8(threshold=5.0), **HEAD), TEXTS, LABELS),
    "trimmed": (XLMRXLClassifier(vocabulary="trim", **LOWER), TEXTS, LABELS),
    "other parameters": (
        XLMRXLClassifier(
            class_weight={"yes": 1.0, "no": 2.0}, early_stopping=True, validation_fraction=0.5, scoring="accuracy",
            **LOWER | {"random_state": np.random.RandomState(0)}
        ),
        TEXTS,
        LABELS,
    ),
    "regressor": (XLMRXLRegressor(**LOWER), TEXTS, [1.0, 2.0, 3.0, 4.0]),
    "regressor of a frame": (XLMRXLRegressor(**HEAD), TEXTS, pd.DataFrame({"a": range(4), "b": [1.0, 0.5, 0.0, 3.0]})),
    "tagger": (XLMRXLTagger(**LOWER), [["a", "b"]] * 4, [["O", "B-X"]] * 4),
    "qa": (XLMRXLQA(**LOWER), PAIRS, ["a", "c"] * 2),
    "multiple choice": (XLMRXLMultipleChoice(**LOWER), [["why", "a", "b"]] * 4, [0, 1] * 2),
    "masked lm": (XLMRXLMaskedLM(**LOWER), TEXTS, None),
    "generator": (XLMRXLGenerator(**LOWER), TEXTS, None),
    "embedder": (XLMRXLEmbedder("nano"), pd.Series(TEXTS, name="text"), None),
    "embedder with PCA": (XLMRXLEmbedder("nano", n_components=2), TEXTS, None),
    "trained embedder": (XLMRXLEmbedder(objective="classes", **LOWER), TEXTS, LABELS),
}  # fmt: skip


def outputs(model, X):
    names = ["predict", "predict_proba", "decision_function", "transform", "pseudo_log_likelihood", "log_likelihood"]
    return {name: getattr(model, name)(X) for name in names if hasattr(model, name)}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    assert expected
    for name, value in expected.items():
        if isinstance(value, list) or value.dtype == object:
            assert all(np.array_equal(a, b) for a, b in zip(got[name], value, strict=True)), name
        else:
            np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_cases_cover_all_public_estimators():
    public = {getattr(skxlmr, name) for name in skxlmr.__all__ if name.startswith("XLMRXL")}
    assert {type(estimator) for estimator, _, _ in CASES.values()} == public


@pytest.mark.parametrize("name", CASES)
def test_skops_restores_fitted_estimator_with_the_listed_types(name):
    estimator, X, y = CASES[name]
    model = clone(estimator).fit(X, y)
    data = sio.dumps(model)
    assert set(sio.get_untrusted_types(data=data)) <= set(skxlmr.skops_types())
    again = sio.loads(data, trusted=skxlmr.skops_types())
    assert type(again) is type(model)
    assert_same(outputs(again, X), outputs(model, X))
    params, of_again = model.get_params(), again.get_params()
    if isinstance(params["random_state"], np.random.RandomState):
        assert params.pop("random_state").randint(1000) == of_again.pop("random_state").randint(1000)
    assert repr(of_again) == repr(params)
    missing = {name for name in vars(model) if name not in vars(again)}
    assert missing <= {"_optimizer_state"}
    if hasattr(model, "history_"):
        pd.testing.assert_frame_equal(again.history_, model.history_)
    assert_same(outputs(sio.loads(sio.dumps(again), trusted=skxlmr.skops_types()), X), outputs(model, X))


def test_skops_restores_callbacks_of_this_library(tmp_path):
    callbacks = [ProgressBar(), TensorBoardLogger(tmp_path), MLflowLogger(run_name="mine")]
    clf = XLMRXLClassifier(callbacks=callbacks, checkpoint_dir=tmp_path)
    again = sio.loads(sio.dumps(clf), trusted=skxlmr.skops_types())
    assert [type(callback) for callback in again.callbacks] == [type(callback) for callback in callbacks]
    assert (again.callbacks[1].log_dir, again.callbacks[2].run_name) == (tmp_path, "mine")
    fitted = clone(clf).set_params(callbacks=callbacks[:1], **HEAD).fit(TEXTS, LABELS)
    sio.loads(sio.dumps(fitted), trusted=skxlmr.skops_types())


@pytest.mark.parametrize("name", ["classifier", "embedder"])
def test_skops_restores_estimator_that_is_not_fitted(name):
    estimator = clone(CASES[name][0]).set_params(model=Path("nano"))
    again = sio.loads(sio.dumps(estimator), trusted=skxlmr.skops_types())
    assert repr(again.get_params()) == repr(estimator.get_params())


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(XLMRXLClassifier(**HEAD)),
        make_pipeline(XLMRXLEmbedder(objective="classes", **LOWER), LogisticRegression()),
        make_pipeline(
            ColumnTransformer([("text", XLMRXLEmbedder("nano", n_components=2), "text")]), LogisticRegression()
        ),
        GridSearchCV(XLMRXLClassifier(**HEAD), {"batch_size": [2, 4]}, cv=2),
    ],
    ids=["pipeline", "embedder", "columns", "search"],
)
def test_skops_restores_what_is_built_around_an_estimator(model):
    X = pd.DataFrame({"text": TEXTS})
    model = clone(model).fit(X, LABELS)
    data = sio.dumps(model)
    of_sklearn = [name for name in sio.get_untrusted_types(data=data) if name.startswith("sklearn.")]
    again = sio.loads(data, trusted=[*skxlmr.skops_types(), *of_sklearn])
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_metadata_requests_are_kept_in_pickles_and_not_in_files_of_skops():
    with sklearn.config_context(enable_metadata_routing=True):
        clf = XLMRXLClassifier(**HEAD).set_fit_request(sample_weight=True).fit(TEXTS, LABELS)
        again = sio.loads(sio.dumps(clf), trusted=skxlmr.skops_types())
        assert again.get_metadata_routing().fit.requests["sample_weight"] is None
        again = pickle.loads(pickle.dumps(clf))
        assert again.get_metadata_routing().fit.requests["sample_weight"] is True


def test_skops_refuses_functions_that_are_not_listed():
    clf = XLMRXLClassifier(**HEAD).fit(TEXTS, LABELS).set_params(scoring=f1_score)
    data = sio.dumps(clf)
    with pytest.raises(UntrustedTypesFoundException, match="f1_score"):
        sio.loads(data, trusted=skxlmr.skops_types())
    assert sio.loads(data, trusted=[*skxlmr.skops_types(), *sio.get_untrusted_types(data=data)]).scoring is f1_score


def test_memory_is_not_read_from_files_of_skops(tmp_path):
    embedder = XLMRXLEmbedder("nano", memory=str(tmp_path)).fit(TEXTS)
    path = tmp_path / "model.skops"
    sio.dump(embedder, path)
    assert sio.load(path, trusted=skxlmr.skops_types()).memory is None
    with zipfile.ZipFile(path) as file:
        schema = json.loads(file.read("schema.json"))
    memory = schema["content"]["content"]["memory"]
    assert memory["content"] == "null"
    memory["content"] = json.dumps(str(tmp_path))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("schema.json", json.dumps(schema))
    assert sio.load(path, trusted=skxlmr.skops_types()).memory is None


def test_types_are_those_of_this_library_and_of_their_parameters():
    foreign = [name for name in skxlmr.skops_types() if not name.startswith("skxlmr.")]
    of_tests = {f"{cls.__module__}.{cls.__qualname__}" for cls in estimators().values()}
    assert {name.partition(".")[0] for name in set(foreign) - of_tests} == {"pathlib"}


@pytest.mark.filterwarnings("ignore")  # those of MLflow
def test_mlflow_saves_and_loads_in_its_default_format(tmp_path):
    mlflow = pytest.importorskip("mlflow.sklearn", reason="MLflow is not installed")
    clf = make_pipeline(XLMRXLClassifier(**HEAD)).fit(TEXTS, LABELS)
    mlflow.save_model(clf, str(tmp_path / "model"), skops_trusted_types=skxlmr.skops_types(), pip_requirements=[])
    assert (tmp_path / "model" / "model.skops").is_file()
    again = mlflow.load_model(str(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(TEXTS), clf.predict_proba(TEXTS))
