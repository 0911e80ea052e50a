"""Losses of the tasks whose rows have one output each."""

import numpy as np
import torch

from skxlmr.tasks.base import Multilabel, Regression


def test_multilabel_losses_equal_mean_over_labels():
    outputs, targets = torch.randn(3, 4, dtype=torch.float64), torch.randint(0, 2, (3, 4)).double()
    task = Multilabel(np.arange(4), "indicator", label_smoothing=0.2)
    smooth = targets * 0.8 + 0.1
    expected = -(smooth * outputs.sigmoid().log() + (1 - smooth) * (-outputs).sigmoid().log()).mean(1)
    torch.testing.assert_close(task.losses(outputs, targets), expected)


def test_regression_losses_equal_mean_over_standardised_targets():
    task = Regression(np.array([3.0]), np.array([2.0]), True, "squared_error")
    losses = task.losses(torch.tensor([[0.5], [1.0]]), torch.tensor([[0.5], [-1.0]], dtype=torch.float64))
    assert losses.tolist() == [0.0, 4.0]
    assert Regression(np.zeros(2), np.ones(2), False, "absolute_error").losses(
        torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])
    ).tolist() == [2.0]
