"""Bins of confidence, compared with scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.calibration import calibration_curve

from skxlmr.inspection.calibration import calibration_table, expected_calibration_error


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("n_bins", [1, 4, 10])
def test_table_equals_calibration_curve(strategy: str, n_bins: int):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=300) ** 2
    correct = (rng.uniform(size=300) < confidence).astype(int)
    table = calibration_table(confidence, correct, n_bins, strategy)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=n_bins, strategy=strategy)
    assert_allclose(table["accuracy"], accuracy)
    assert_allclose(table["confidence"], mean)
    assert table["n"].sum() == 300


def test_table_of_probabilities_0_and_1_is_in_the_outer_bins():
    table = calibration_table(np.array([0.0, 1.0]), np.array([0, 1]), n_bins=5)
    assert table[["lower", "upper"]].to_numpy().round(1).tolist() == [[0.0, 0.2], [0.8, 1.0]]
    assert expected_calibration_error(table) == 0


def test_expected_calibration_error_is_weighted_by_rows():
    table = calibration_table(np.array([0.9, 0.9, 0.9, 0.6]), np.array([1, 1, 0, 0]), n_bins=2)
    table_of_4 = calibration_table(np.array([0.9, 0.9, 0.9, 0.6]), np.array([1, 1, 0, 0]), n_bins=4)
    assert expected_calibration_error(table) == pytest.approx(abs(2 / 4 - 3.3 / 4))
    assert expected_calibration_error(table_of_4) == pytest.approx((3 * (0.9 - 2 / 3) + 0.6) / 4)


def test_table_without_rows_is_empty():
    table = calibration_table(np.empty(0), np.empty(0), strategy="quantile")
    assert len(table) == 0
    assert expected_calibration_error(table) == 0


@pytest.mark.parametrize("arguments", [{"n_bins": 0}, {"n_bins": 2.5}, {"strategy": "equal"}])
def test_wrong_arguments_are_named(arguments: dict):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        calibration_table(np.array([0.5]), np.array([1]), **arguments)
