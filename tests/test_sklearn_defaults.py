"""Global settings of scikit-learn apply to what a user calls, and not to the scikit-learn estimators inside."""

from __future__ import annotations

import sys
import threading
import types
from contextlib import contextmanager

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from polars_support import takes_polars
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder, XLMRXLRegressor
from skxlmr.sklearn_defaults import sklearn_defaults

TEXTS = [f"text number {i} about {'cats' if i % 2 else 'ships and the sea'}" for i in range(8)]
INDICES = {
    "shuffled": [6, 2, 1, 7, 3, 0, 5, 4],
    "strings": list("hgfedcba"),
    "repeated": [0, 0, 1, 1, 2, 2, 3, 3],
}
GLOBAL = {"transform_output": "pandas", "enable_metadata_routing": True, "assume_finite": True}


def embedder(**parameters):
    return XLMRXLEmbedder("nano", n_components=2, random_state=0, **parameters)


def columns(**parameters):
    return ColumnTransformer([("text", embedder(**parameters), "text"), ("n", "passthrough", ["n"])])


def test_defaults_are_set_inside_and_the_settings_of_the_user_are_back_outside():
    with sklearn.config_context(**GLOBAL):
        before = sklearn.get_config()
        with sklearn_defaults():
            inside = sklearn.get_config()
            assert isinstance(PCA(1).fit_transform(np.eye(3)), np.ndarray)
        assert sklearn.get_config() == before
    assert {name: inside[name] for name in GLOBAL} == {
        "transform_output": "default",
        "enable_metadata_routing": False,
        "assume_finite": False,
    }


class Autologging(types.ModuleType):
    """What MLflow has: `mlflow.autolog()` logs every fit of scikit-learn while the switch is not off."""

    _AUTOLOGGING_GLOBALLY_DISABLED = False

    @contextmanager
    def disable_autologging(self):
        self._AUTOLOGGING_GLOBALLY_DISABLED = True
        try:
            yield
        finally:
            self._AUTOLOGGING_GLOBALLY_DISABLED = False


@pytest.fixture
def mlflow(monkeypatch):
    module = Autologging("mlflow.utils.autologging_utils")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_mlflow_does_not_log_the_fits_inside_of_a_fit(mlflow, monkeypatch):
    logged, fit = [], LogisticRegression.fit
    monkeypatch.setattr(
        LogisticRegression,
        "fit",
        lambda self, *args: logged.append(not mlflow._AUTOLOGGING_GLOBALLY_DISABLED) or fit(self, *args),
    )
    XLMRXLClassifier("nano", tuning="head", random_state=0).fit(TEXTS, ["cats", "ships"] * 4)
    assert logged
    assert not any(logged)
    assert not mlflow._AUTOLOGGING_GLOBALLY_DISABLED
    with pytest.raises(ZeroDivisionError), sklearn_defaults():
        raise ZeroDivisionError
    assert not mlflow._AUTOLOGGING_GLOBALLY_DISABLED


def test_mlflow_that_the_user_turned_off_stays_off(mlflow):
    with mlflow.disable_autologging():
        with sklearn_defaults():
            pass
        assert mlflow._AUTOLOGGING_GLOBALLY_DISABLED


def test_mlflow_stays_off_until_the_last_thread_is_done(mlflow):
    inside, may_leave = threading.Event(), threading.Event()

    def stay():
        with sklearn_defaults():
            inside.set()
            may_leave.wait(30)

    thread = threading.Thread(target=stay)
    with sklearn_defaults():
        thread.start()
        assert inside.wait(30)
    assert mlflow._AUTOLOGGING_GLOBALLY_DISABLED
    may_leave.set()
    thread.join(30)
    assert not mlflow._AUTOLOGGING_GLOBALLY_DISABLED


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("index", INDICES)
def test_embedder_with_pca_and_global_pandas_output_keeps_rows_and_index(index, normalize):
    df = pd.DataFrame({"text": TEXTS, "n": range(8)}, index=INDICES[index])
    expected = embedder(normalize=normalize).fit_transform(TEXTS)
    with sklearn.config_context(transform_output="pandas"):
        model = embedder(normalize=normalize)
        outputs = [model.fit_transform(df["text"]), model.fit_transform(df[["text"]]), model.transform(df[["text"]])]
    assert isinstance(model.pca_.transform(np.zeros((1, 192))), np.ndarray)
    for frame in outputs:
        assert frame.index.tolist() == INDICES[index]
        assert frame.columns.tolist() == ["text_0", "text_1"]
        np.testing.assert_allclose(frame.to_numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("index", ["shuffled", "strings"])
@pytest.mark.parametrize("normalize", [False, True])
def test_column_transformer_with_global_pandas_output_gives_each_row_its_own_vector(index, normalize):
    df = pd.DataFrame({"text": TEXTS, "n": range(8)}, index=INDICES[index])
    expected = columns(normalize=normalize).fit_transform(df)
    with sklearn.config_context(transform_output="pandas"):
        by_global = columns(normalize=normalize).fit_transform(df)
    by_estimator = columns(normalize=normalize).set_output(transform="pandas").fit_transform(df)
    for frame in (by_global, by_estimator):
        assert frame.index.tolist() == INDICES[index]
        np.testing.assert_allclose(frame.to_numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_embedder_with_pca_and_global_polars_output_returns_a_frame_of_polars(normalize):
    expected = embedder(normalize=normalize).fit_transform(TEXTS)
    with sklearn.config_context(transform_output="polars"):
        frame = embedder(normalize=normalize).fit_transform(pl.Series("text", TEXTS))
    assert isinstance(frame, pl.DataFrame)
    assert frame.columns == ["text_0", "text_1"]
    np.testing.assert_allclose(frame.to_numpy(), expected, atol=1e-6)


@takes_polars
def test_column_transformer_with_global_polars_output_gives_each_row_its_own_vector():
    df = pl.DataFrame({"text": TEXTS, "n": range(8)})
    with sklearn.config_context(transform_output="polars"):
        frame = columns().fit_transform(df)
    np.testing.assert_allclose(frame.to_numpy(), columns().fit_transform(df.to_pandas()), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "y"),
    [
        (XLMRXLClassifier, [0, 1] * 4),
        (XLMRXLClassifier, [[0, 1], [1, 1], [1, 0], [0, 0]] * 2),
        (XLMRXLRegressor, [0.5, 1.5] * 4),
    ],
    ids=["classes", "labels", "numbers"],
)
def test_fit_of_a_started_head_with_global_settings_equals_that_without(make, y):
    def predict():
        model = make("nano", tuning="head", max_epochs=1, early_stopping=True, validation_fraction=0.25, random_state=0)
        y_val = None if np.ndim(y) == 2 else y
        X_val = None if y_val is None else TEXTS
        return model.fit(TEXTS, y, X_val=X_val, y_val=y_val).predict(TEXTS)

    expected = predict()
    with sklearn.config_context(**GLOBAL):
        np.testing.assert_array_equal(predict(), expected)
