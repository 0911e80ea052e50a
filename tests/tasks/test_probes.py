"""Linear models that heads start from."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeCV

from skxlmr.tasks.probes import (
    RIDGE_ALPHAS,
    Centering,
    direction_start,
    log_priors,
    logistic_start,
    one_vs_rest_start,
    ridge_start,
)


@pytest.fixture
def random():
    return np.random.RandomState(0)


def blobs(random, n=60, n_classes=3, n_features=8, spread=0.3):
    targets = np.arange(n) % n_classes
    return random.randn(n_classes, n_features)[targets] + spread * random.randn(n, n_features) + 5.0, targets


def outputs_of(start, features):
    return features @ start.weight.T + start.bias


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logistic_start_equals_logistic_regression_on_centred_features(n_classes, random, monkeypatch):
    monkeypatch.setattr("skxlmr.tasks.probes.STRENGTHS", (10.0,))
    features, targets = blobs(random, n_classes=n_classes)
    weights = random.rand(len(targets)) + 0.5
    start = logistic_start(features, targets, weights, n_classes)
    x = features - np.average(features, axis=0, weights=weights)
    x /= np.sqrt(np.average((x**2).sum(axis=1), weights=weights))
    expected = LogisticRegression(C=10.0, max_iter=1000).fit(x, targets, weights)
    outputs = outputs_of(start, features)
    proba = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(proba, expected.predict_proba(x), atol=1e-6)


def test_logistic_start_takes_the_strength_of_the_fewest_errors(random, monkeypatch):
    monkeypatch.setattr("skxlmr.tasks.probes.STRENGTHS", (0.01, 100.0))
    features, targets = blobs(random, n=90, spread=0.5)
    targets[targets == 2] = 1  # two thirds are of class 1, which a strong penalty predicts for all
    weak = np.linalg.norm(logistic_start(features, targets, np.ones(90), 2).weight)
    noise = np.linalg.norm(logistic_start(random.randn(90, 8), targets, np.ones(90), 2).weight)
    assert weak > 20 * noise
    monkeypatch.setattr("skxlmr.tasks.probes.STRENGTHS", (100.0,))
    same = np.linalg.norm(logistic_start(features, targets, np.ones(90), 2).weight)
    assert weak == pytest.approx(same)


def test_logistic_start_ignores_rows_of_weight_zero(random):
    features, targets = blobs(random)
    kept = np.arange(len(targets)) < 30
    start = logistic_start(features, targets, kept.astype(float), 3)
    expected = logistic_start(features[kept], targets[kept], np.ones(30), 3)
    np.testing.assert_allclose(start.weight, expected.weight)
    np.testing.assert_allclose(start.bias, expected.bias)


def test_logistic_start_without_rows_of_a_class_makes_it_unlikely(random):
    features, targets = blobs(random)
    outputs = outputs_of(logistic_start(features, targets, np.ones(len(targets)), 5), features)
    assert outputs.shape == (60, 5)
    assert np.isfinite(outputs).all()
    assert (outputs.argmax(axis=1) == targets).mean() > 0.95


def test_logistic_start_with_one_class_or_one_row_per_class_is_finite(random):
    features, targets = blobs(random, n=3)
    one = logistic_start(features, np.zeros(3, int), np.ones(3), 2)
    np.testing.assert_array_equal(one.weight, 0)
    assert one.bias[0] > one.bias[1]
    outputs = outputs_of(logistic_start(features, targets, np.ones(3), 3), features)
    np.testing.assert_array_equal(outputs.argmax(axis=1), targets)


def test_logistic_start_of_probabilities_follows_them(random):
    features, targets = blobs(random, n=300)
    soft = np.full((300, 3), 0.15)
    soft[np.arange(300), targets] = 0.7
    outputs = outputs_of(logistic_start(features, soft, np.ones(300), 3), features)
    proba = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(proba.mean(axis=0), soft.mean(axis=0), atol=0.02)
    assert abs(proba[np.arange(300), targets].mean() - 0.7) < 0.05


def test_one_vs_rest_start_equals_binary_starts(random):
    features, targets = blobs(random)
    labels = np.stack([targets == 0, targets > 0, targets >= 0], axis=1).astype(float)
    weights = np.ones(labels.shape)
    start = one_vs_rest_start(features, labels, weights)
    outputs = outputs_of(start, features)
    np.testing.assert_array_equal(outputs[:, 0] > 0, targets == 0)
    assert (outputs[:, 2] > 0).all()  # a label that all rows have


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_ridge_start_equals_ridge_cv(n_outputs, random):
    features, weights = random.randn(40, 6) * 3 + 7, random.rand(40) + 0.5
    targets = features[:, :n_outputs] + 0.1 * random.randn(40, n_outputs)
    start = ridge_start(features, targets, weights)
    centred = Centering.fit(features, weights)
    x = centred.transform(features)
    model = RidgeCV(RIDGE_ALPHAS, alpha_per_target=n_outputs > 1).fit(x, targets, weights)
    np.testing.assert_allclose(outputs_of(start, features), model.predict(x).reshape(40, -1), atol=1e-6)


def test_direction_start_is_a_line_along_one_predictor(random):
    features, weights, direction = random.randn(30, 5), random.rand(30) + 0.5, np.array([0.0, 1.0, 0.0, 2.0, 0.0])
    targets = np.column_stack([3 * features @ direction + 1 + 0.1 * random.randn(30), random.randn(30)])
    predictor = (features @ direction)[:, None]
    expected = LinearRegression().fit(predictor, targets, weights).predict(predictor)
    start = direction_start(features, targets, weights, direction)
    np.testing.assert_allclose(outputs_of(start, features), expected, atol=1e-9)


def test_ridge_start_of_one_row_is_its_target():
    start = ridge_start(np.ones((1, 4)), np.array([[3.0]]), np.ones(1))
    np.testing.assert_allclose(outputs_of(start, np.ones((1, 4))), [[3.0]])


def test_log_priors_are_shares_with_half_a_count_added():
    np.testing.assert_allclose(np.exp(log_priors(np.array([0, 0, 1]), np.ones(3), 3)), np.array([2.5, 1.5, 0.5]) / 4.5)
