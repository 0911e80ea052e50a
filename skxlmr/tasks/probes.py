"""Linear models of frozen features, from which the heads of tasks start (linear probing, then fine-tuning).

Fine-tuning from a random head distorts the features of a pretrained model while the head is still poor; starting from
the optimum of the head alone avoids that (Kumar et al., arXiv:2202.10054).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skxlmr.sklearn_defaults import sklearn_defaults

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

# Inverse strengths of the L2 penalty of vectors whose mean square length is 1, the strongest first. On the study's data
# 1 was as good with few rows only, and 100, which the likelihood always preferred, never (benchmarks/NOTES.md).
STRENGTHS = (3.0, 10.0, 30.0)
N_FOLDS = 3
MAX_ROWS_OF_SEARCH = 1000  # of cross-validation; with more rows the strength hardly matters
MAX_ITER = 1000
RIDGE_ALPHAS = tuple(np.logspace(-3, 5, 17))


@dataclass(frozen=True)
class LinearStart:
    """A linear map from the features of a head's last layer to its outputs."""

    weight: np.ndarray  # (n_outputs, n_features)
    bias: np.ndarray  # (n_outputs,)


@dataclass(frozen=True)
class Centering:
    """Features minus their mean, over the root mean square of what remains, so that penalties do not depend on units.

    All features share one factor: that of each feature by itself made results across languages slightly worse.
    """

    mean: np.ndarray  # (n_features,)
    factor: float

    @classmethod
    def fit(cls, features: np.ndarray, weights: np.ndarray) -> Centering:
        """Compute mean and scale of features, (n, n_features)."""
        mean = np.average(features, axis=0, weights=weights)
        length = np.sqrt(np.average(((features - mean) ** 2).sum(axis=1), weights=weights))
        return cls(mean, 1 / length if length > 1e-6 * np.linalg.norm(mean) else 1.0)

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Centre and scale features."""
        return (features - self.mean) * self.factor

    def fold(self, coef: np.ndarray, intercept: np.ndarray) -> LinearStart:
        """Return a linear model of the transformed features as one of the features themselves."""
        weight = coef * self.factor
        return LinearStart(weight, intercept - weight @ self.mean)


@sklearn_defaults()
def logistic_start(
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    n_classes: int,
    groups: np.ndarray | None = None,
) -> LinearStart:
    """Fit a logistic regression of classes, with the strength of its penalty chosen by cross-validation.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
    targets : ndarray of shape (n,) of int, or (n, n_classes)
        Classes, or their probabilities.
    weights : ndarray of shape (n,)
    n_classes : int
        Classes that no row has get the bias of a count of one half.
    groups : ndarray of shape (n,), default=None
        Rows of one group are in the same fold of the cross-validation.
    """
    if targets.ndim == 2:  # a row for each of its likely classes
        rows, classes = np.nonzero(targets > 0.01)
        return logistic_start(features[rows], classes, weights[rows] * targets[rows, classes], n_classes, rows)
    used = weights > 0
    features, targets, weights = features[used], targets[used], weights[used]
    scaler = Centering.fit(features, weights)
    x = scaler.transform(features)
    present = np.unique(targets)
    if len(present) < 2:
        return constant_start(log_priors(targets, weights, n_classes), features.shape[1])
    strength = _search_strength(x, targets, weights, None if groups is None else groups[used])
    model = _fit_logistic(strength, x, targets, weights)
    coef, intercept = model.coef_, model.intercept_
    if len(present) == 2:  # two outputs, as softmax takes them
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weight, bias = np.zeros((n_classes, x.shape[1])), log_priors(targets, weights, n_classes)
    weight[present], bias[present] = coef, intercept
    missing = np.setdiff1d(np.arange(n_classes), present)
    bias[missing] += intercept.mean() - log_priors(targets, weights, n_classes)[present].mean()
    return scaler.fold(weight, bias)


def _fit_logistic(strength: float, x: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=MAX_ITER).fit(x, targets, weights)


def one_vs_rest_start(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> LinearStart:
    """Fit one logistic regression per label; targets, which are 0 or 1, and weights are (n, n_labels)."""
    n_features = features.shape[1]
    weight, bias = np.zeros((targets.shape[1], n_features)), np.zeros(targets.shape[1])
    for label in np.flatnonzero(weights.any(axis=0)):
        start = logistic_start(features, targets[:, label].astype(np.int64), weights[:, label], 2)
        weight[label] = start.weight[1] - start.weight[0]
        bias[label] = start.bias[1] - start.bias[0]
    return LinearStart(weight, bias)


@sklearn_defaults()
def ridge_start(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> LinearStart:
    """Fit ridge regressions of numbers, (n, n_outputs), each with the strength of the least leave-one-out error."""
    from sklearn.linear_model import RidgeCV

    n_outputs = targets.shape[1]
    scaler = Centering.fit(features, weights)
    x = scaler.transform(features)
    if len(x) < 2:
        return constant_start(np.average(targets, axis=0, weights=weights), features.shape[1])
    model = RidgeCV(RIDGE_ALPHAS, alpha_per_target=n_outputs > 1).fit(x, targets, weights)
    return scaler.fold(model.coef_.reshape(n_outputs, -1), np.broadcast_to(model.intercept_, (n_outputs,)))


def direction_start(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, direction: np.ndarray
) -> LinearStart:
    """Fit lines through numbers, (n, n_outputs), along one predictor: `features @ direction`, (n,)."""
    mean, center = (np.average(values, axis=0, weights=weights) for values in (targets, features))
    predictor = (features - center) @ direction
    slope = (weights * predictor) @ targets / max((weights * predictor**2).sum(), 1e-12)
    weight = slope[:, None] * direction
    return LinearStart(weight, mean - weight @ center)


def constant_start(bias: np.ndarray, n_features: int) -> LinearStart:
    """Return the start whose outputs do not depend on the features."""
    return LinearStart(np.zeros((len(bias), n_features)), bias)


def log_priors(targets: np.ndarray, weights: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the logarithms of the shares of classes, (n_classes,), with half a count added to each."""
    counts = np.bincount(targets, weights, n_classes) + 0.5
    return np.log(counts / counts.sum())


def _search_strength(x: np.ndarray, targets: np.ndarray, weights: np.ndarray, groups: np.ndarray | None) -> float:
    """Choose the C of the fewest cross-validated errors, the least of several, on at most `MAX_ROWS_OF_SEARCH` rows.

    Classes with fewer rows than folds are left out of the search, since a fold would lack them.
    """
    counts = np.bincount(targets)
    some = np.flatnonzero(counts[targets] >= N_FOLDS)
    if len(some) > MAX_ROWS_OF_SEARCH:
        some = np.random.RandomState(0).choice(some, MAX_ROWS_OF_SEARCH, replace=False)
        some = some[np.bincount(targets[some])[targets[some]] >= N_FOLDS]
    if len(np.unique(targets[some])) < 2:
        return STRENGTHS[1]
    x, targets, weights = x[some], targets[some], weights[some]
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    errors = np.zeros(len(STRENGTHS))
    folds = (StratifiedKFold if groups is None else StratifiedGroupKFold)(N_FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(x, targets, None if groups is None else groups[some]):
        for i, strength in enumerate(STRENGTHS):
            model = _fit_logistic(strength, x[train], targets[train], weights[train])
            errors[i] += weights[test] @ (model.predict(x[test]) != targets[test])
    return STRENGTHS[int(np.argmin(errors))]
