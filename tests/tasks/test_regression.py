"""Regression: losses of standardised targets, and what a warm start keeps."""

import numpy as np
import pytest
import torch

from skxlmr.columns import check_text_column
from skxlmr.runtime.plan import Windows
from skxlmr.tasks.regression import ACTIVATIONS, Regression


def test_regression_losses_equal_mean_over_standardised_targets():
    task = Regression(Windows(), "squared_error", mean=np.array([3.0]), scale=np.array([2.0]))
    losses = task.row_losses(torch.tensor([[0.5], [1.0]]), torch.tensor([[0.5], [-1.0]], dtype=torch.float64))
    assert losses.tolist() == [0.0, 4.0]
    of_two = Regression(Windows(), "absolute_error", mean=np.zeros(2), scale=np.ones(2), one_dimensional=False)
    assert of_two.row_losses(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])).tolist() == [2.0]


def test_regression_continued_keeps_earlier_mean_and_scale():
    column = check_text_column(["a", "b"])
    earlier, targets = Regression(Windows()).find([0.0, 2.0], column, np.ones(2))
    assert targets[:, 0].tolist() == [-1.0, 1.0]
    later, _ = Regression(Windows()).find([10.0, 20.0], column, np.ones(2))
    continued = later.continued(earlier)
    assert (continued.mean.tolist(), continued.scale.tolist()) == ([1.0], [1.0])
    assert continued.targets([10.0, 20.0], column)[:, 0].tolist() == [9.0, 19.0]


def test_regression_continued_with_other_number_of_outputs_raises():
    column = check_text_column(["a", "b"])
    earlier, _ = Regression(Windows()).find([0.0, 2.0], column, np.ones(2))
    later, _ = Regression(Windows()).find([[0.0, 1.0], [2.0, 3.0]], column, np.ones(2))
    with pytest.raises(ValueError, match="asks for 2 outputs"):
        later.continued(earlier)


def test_learning_rate_of_separate_pairs_grows_with_the_rows():
    task = Regression(Windows(), pairs="separate")
    assert [task.learning_rate_factor(n) for n in (50, 500, 5000)] == [0.01, 0.1, 0.1]
    assert Regression(Windows(), pairs="joint").learning_rate_factor(50) == 1.0


@pytest.mark.parametrize("unit", [1e-310, 1e-200, 1.0, 1e300, 1e307])
def test_targets_in_any_unit_are_standardised_alike(unit):
    column, values = check_text_column(list("abcd")), np.array([1.0, 2.0, 4.0, 9.0])
    with np.errstate(all="raise", under="ignore"):
        task, targets = Regression(Windows()).find(values * unit, column, np.ones(4))
    np.testing.assert_allclose(targets[:, 0], (values - 4) / np.sqrt(9.5), rtol=1e-12)
    np.testing.assert_allclose(task.as_y(targets), values * unit, rtol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_inverse_of_an_activation_gives_the_output_of_a_number(name):
    numbers = np.array([0.02, 0.5, 0.9])
    activation = ACTIVATIONS[name]
    outputs = torch.from_numpy(activation.inverse(numbers))
    np.testing.assert_allclose(activation.apply(outputs).numpy(), numbers, atol=1e-12)
    assert np.isfinite(activation.inverse(np.array([-2.0, 0.0, 1.0]))).all()
