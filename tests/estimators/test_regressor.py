"""Losses, outputs, weights and targets of the regressor."""

import collections
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
import transformers
from containers import COLUMNS_OF_VECTORS, TABLES
from sklearn.metrics import r2_score

import skxlmr
from skxlmr import Full, XLMRXLRegressor
from skxlmr.runtime.backbone import get_backbone

WORDS = {"dreadful": 1.0, "dull": 2.0, "fair": 3.0, "good": 4.0, "superb": 5.0}
TEXTS = [f"{word} {thing}" for word in WORDS for thing in ("film", "book", "meal", "play")]
STARS = [WORDS[text.split()[0]] for text in TEXTS]


def regressor(**parameters):
    return XLMRXLRegressor(
        **{"model": "nano", "random_state": 0, "max_epochs": 30, "learning_rate": 5e-3, **parameters}
    )


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
def test_fit_with_each_loss_learns_targets(loss):
    reg = regressor(loss=loss).fit(TEXTS, STARS)
    assert reg.score(TEXTS, STARS) > 0.9
    assert reg.score(TEXTS, STARS) == pytest.approx(r2_score(STARS, reg.predict(TEXTS)))
    assert reg.predict(TEXTS).dtype == np.float64
    order = reg.predict([f"{word} song" for word in WORDS])
    assert (np.diff(order) > 0).sum() >= 3


def test_fit_with_rescaled_targets_rescales_predictions():
    small = regressor(max_epochs=2).fit(TEXTS, STARS).predict(TEXTS)
    large = regressor(max_epochs=2).fit(TEXTS, np.array(STARS) * 1e6 - 3e7).predict(TEXTS)
    np.testing.assert_allclose(large, small * 1e6 - 3e7, rtol=1e-5)


def test_fit_with_several_outputs_predicts_matrix():
    y = np.column_stack([STARS, -100 * np.array(STARS)])
    reg = regressor(tuning=Full(), learning_rate=1e-3).fit(TEXTS, y)
    assert reg.predict(TEXTS).shape == (len(TEXTS), 2)
    assert reg.n_outputs_ == 2
    assert reg.score(TEXTS, y) > 0.9
    one_column = regressor(max_epochs=1).fit(TEXTS, y[:, :1])
    assert one_column.predict(TEXTS).shape == (len(TEXTS), 1)


def test_fit_with_constant_target_predicts_it():
    np.testing.assert_allclose(regressor(max_epochs=20).fit(TEXTS, [7.0] * len(TEXTS)).predict(TEXTS), 7.0, atol=0.5)


def test_fit_with_sample_weight_weights_mean_scale_and_score():
    weights = np.where(np.array(STARS) > 3, 1.0, 0.0)
    reg = regressor(max_epochs=5).fit(TEXTS, STARS, sample_weight=weights)
    assert reg.target_mean_.tolist() == [4.5]
    assert reg.target_scale_.tolist() == [0.5]
    expected = r2_score(STARS, reg.predict(TEXTS), sample_weight=weights)
    assert reg.score(TEXTS, STARS, sample_weight=weights) == pytest.approx(expected)
    with pytest.raises(ValueError, match="zero"):
        reg.fit(TEXTS, STARS, sample_weight=np.zeros(len(TEXTS)))


def test_validation_score_equals_r2():
    reg = regressor(early_stopping=True, validation_fraction=0.25, max_epochs=5).fit(TEXTS, STARS)
    assert len(reg.validation_scores_) == reg.n_iter_
    given = regressor(max_epochs=2).fit(TEXTS, STARS, X_val=TEXTS, y_val=STARS)
    assert given.validation_scores_[-1] == pytest.approx(given.score(TEXTS, STARS), abs=1e-6)


def test_fit_on_frame_of_text_pairs_keeps_feature_names():
    df = pd.DataFrame({"a": TEXTS, "b": TEXTS[::-1]})
    reg = regressor(max_epochs=1).fit(df, pd.Series(STARS))
    assert reg.predict(df).shape == (len(df),)
    assert reg.feature_names_in_.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([*STARS[:-1], np.nan], "y, row 19: .* is NaN or infinity"),
        ([*STARS[:-1], "five"], "y, row 19: 'five' is not a number"),
        (pd.Series([*STARS[:-1], pd.NA], index=range(5, 25)), r"y, row 19 \(index 24\): nan is NaN or infinity"),
        ([10**400, *STARS[1:]], "y, row 0: 1000.* is not a number"),
        ([[star] for star in STARS[:-1]] + [[1, 2]], r"y, row 19: \[1, 2\] is not a vector of 1 numbers"),
        (np.array(STARS) * 1j, "y holds complex numbers"),
        (STARS[:-1], "inconsistent"),
        (None, "requires y"),
        (np.ones((20, 2, 2)), "3 dimensions"),
        (np.ones((20, 0)), r"shape \(20, 0\): there is nothing to learn"),
    ],
)
def test_fit_with_invalid_targets_raises_and_names_row(y, message):
    with pytest.raises(ValueError, match=message):
        regressor().fit(TEXTS, y)


def test_regressor_survives_pickle_save_and_export(tmp_path):
    y = np.column_stack([STARS, STARS])
    reg = regressor(max_epochs=1, pooling="cls").fit(TEXTS, y)
    expected = reg.predict(TEXTS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reg)).predict(TEXTS), expected)
    reg.save(tmp_path / "saved")
    np.testing.assert_array_equal(skxlmr.load(tmp_path / "saved").predict(TEXTS), expected)
    reg.export_pretrained(tmp_path / "exported")
    model = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path / "exported").eval()
    assert model.config.problem_type == "regression"
    batch = get_backbone("nano").tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()
    np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_warm_start_with_other_number_of_outputs_raises():
    reg = regressor(max_epochs=1, warm_start=True).fit(TEXTS, STARS)
    with pytest.raises(ValueError, match="asks for 2 outputs"):
        reg.fit(TEXTS, np.column_stack([STARS, STARS]))


@pytest.mark.parametrize("container", COLUMNS_OF_VECTORS | TABLES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_vectors_are_several_outputs_in_every_container(container):
    make = (COLUMNS_OF_VECTORS | TABLES)[container]
    rows = [[star, star**2, -1.5] for star in STARS]
    settings = {"tuning": "head", "max_epochs": 2, "scoring": "neg_mean_absolute_error"}
    reg = regressor(**settings).fit(TEXTS, make(rows), X_val=TEXTS[:9], y_val=make(rows[:9]))
    expected = regressor(**settings).fit(TEXTS, np.array(rows), X_val=TEXTS[:9], y_val=np.array(rows)[:9])
    np.testing.assert_array_equal(reg.predict(TEXTS), expected.predict(TEXTS))
    assert reg.predict(TEXTS).shape == (20, 3)
    assert reg.score(TEXTS, make(rows)) == expected.score(TEXTS, np.array(rows))
    assert expected.score(TEXTS, np.array(rows)) == pytest.approx(r2_score(rows, reg.predict(TEXTS)), abs=1e-6)
    assert reg.validation_scores_ == pytest.approx(expected.validation_scores_)


@pytest.mark.parametrize(
    "make",
    [
        lambda y: pd.Series(y, dtype="Float64"),
        lambda y: pd.Series(y, dtype=pd.ArrowDtype(pa.float64())),
        lambda y: np.array(y, object),
        lambda y: np.array(y, np.float32),
        lambda y: np.array(y, int),
        pl.Series,
        pa.array,
        collections.deque,
    ],
    ids=["Float64", "Arrow", "objects", "float32", "int", "polars", "pyarrow", "deque"],
)
def test_numbers_of_every_dtype_work(make):
    reg = regressor(tuning="head", scoring="r2").fit(TEXTS, make(STARS), X_val=TEXTS, y_val=make(STARS))
    np.testing.assert_array_equal(reg.predict(TEXTS), regressor(tuning="head").fit(TEXTS, STARS).predict(TEXTS))
    assert reg.predict(TEXTS).ndim == 1
    assert reg.score(TEXTS, make(STARS)) == pytest.approx(r2_score(STARS, reg.predict(TEXTS)))


def test_column_of_dates_is_refused():
    with pytest.raises(ValueError, match=r"y holds datetime64.*not numbers"):
        regressor().fit(TEXTS, pd.Series(pd.date_range("2020", periods=20)))
