"""Gradients of optimiser steps, accumulated over micro-batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from skxlmr.runtime.plan import WindowPlan
from skxlmr.training.gradients import BatchLosses, NotFiniteError, accumulate_gradients, clip_gradients


def make_plan(windows_per_row):
    owner = np.repeat(np.arange(len(windows_per_row)), windows_per_row)
    windows = [np.arange(3 + i % 4, dtype=np.int32) for i in range(len(owner))]
    return WindowPlan(windows, owner, np.arange(len(windows_per_row)))


def test_accumulate_gradients_in_micro_batches_gives_the_same_gradient():
    plan = make_plan([1, 3, 1, 2, 1])
    weights = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    targets = torch.randn(len(plan.windows), dtype=torch.float64)
    gradients = []
    for budget in (1, 7, 1000):
        parameter = torch.zeros(len(plan.windows), dtype=torch.float64, requires_grad=True)

        def losses(windows, rows, recompute, parameter=parameter):
            assert (plan.text_of_window[windows] == rows).all()
            return (parameter[windows] - targets[windows]) ** 2

        loss = accumulate_gradients(losses, plan, np.arange(5), weights, budget)
        gradients.append((parameter.grad, *loss.read()))
    of_row = np.array([targets.numpy()[plan.text_of_window == row].__pow__(2).mean() for row in range(5)])
    for gradient, loss in gradients:
        torch.testing.assert_close(gradient, gradients[0][0], rtol=0, atol=1e-12)
        assert loss == pytest.approx((of_row * weights).sum() / weights.sum(), abs=1e-12)


def test_clip_gradients_with_loss_scale_returns_norm_before_clipping():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([30.0, 40.0])
    assert clip_gradients([parameter], 1.0, loss_scale=10.0).item() == pytest.approx(5)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))
    assert clip_gradients([parameter], None).item() == pytest.approx(1)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))


def test_not_finite_error_describes_rows_by_numbers_of_user():
    numbers = np.arange(10, 20)
    assert NotFiniteError("It failed", np.array([], int)).describe(numbers) == "It failed"
    assert NotFiniteError("It failed", np.array([3, 3])).describe(numbers) == "It failed at row 13 of X"
    many = NotFiniteError("It failed", np.array([5, 3, 0])).describe(numbers, n_shown=2)
    assert many == "It failed at rows 10, 13, ... of X"


def test_accumulate_gradients_of_batch_losses_does_not_depend_on_micro_batches():
    plan = replace(make_plan([1, 3, 1, 2, 1]), texts_are_whole=True)
    weights, rows = np.array([1.0, 2.0, 0.5, 1.0, 3.0]), np.array([4, 0, 3, 1, 2])
    features = torch.randn(len(plan.windows), 3, dtype=torch.float64)
    gradients, n_encoded = [], []
    for budget in (1, 12, 1000):
        matrix = torch.eye(3, dtype=torch.float64, requires_grad=True)
        calls = []

        def encode(windows, of_rows, recompute, matrix=matrix, calls=calls):
            calls.append(len(windows))
            starts = np.flatnonzero(np.diff(of_rows, prepend=-1))
            assert (plan.text_of_window[windows] == of_rows).all()
            return torch.stack(
                [part.mean(0) for part in (features[windows] @ matrix).tensor_split(starts[1:].tolist())]
            )

        def compare(vectors, of_rows):
            return (vectors @ vectors.T).logsumexp(1) * torch.from_numpy(of_rows + 1.0)

        losses = BatchLosses(encode, compare, torch.device("cpu"))
        loss = accumulate_gradients(losses, plan, rows, weights[rows], budget)
        gradients.append((matrix.grad, *loss.read()))
        n_encoded.append(len(calls))
    assert n_encoded == [10, n_encoded[1], 1]  # each of several micro-batches runs again in the backward pass
    for gradient, loss in gradients:
        torch.testing.assert_close(gradient, gradients[0][0], rtol=0, atol=1e-12)
        assert loss == pytest.approx(gradients[0][1], abs=1e-12)


def test_accumulate_gradients_of_batch_losses_repeats_dropout_in_backward_pass():
    plan = replace(make_plan([1, 1, 1]), texts_are_whole=True)
    weight = torch.ones(3, 50, requires_grad=True)
    kept = []

    def encode(windows, of_rows, recompute):
        vectors = torch.nn.functional.dropout(weight[windows], 0.5)
        kept.append((windows[0], vectors.detach().clone()))
        return vectors

    losses = BatchLosses(encode, lambda vectors, of_rows: vectors.sum(1), torch.device("cpu"))
    accumulate_gradients(losses, plan, np.arange(3), np.ones(3), batch_tokens=1)
    assert len(kept) == 3
    for window, vectors in kept:
        torch.testing.assert_close(weight.grad[window], vectors[0] / 3)
