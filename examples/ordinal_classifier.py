"""A new estimator: classes that have an order, such as star ratings.

The task learns, for each class but the first, whether a text is at least of that class (Cao et al., arXiv:1901.07884,
without weight sharing).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch.nn.functional as F
from scipy.special import expit
from sklearn.base import ClassifierMixin

from skxlmr.estimators.learner import XLMRXLLearner, requires_y
from skxlmr.estimators.parameters import FeatureMemory, Vocabulary
from skxlmr.model.heads import ClassificationHead
from skxlmr.runtime.plan import Truncation, Windows
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tasks.base import Task, not_found
from skxlmr.tasks.labels import check_labels


@dataclass(frozen=True)
class OrdinalClassification(Task):
    """Ordered classes; targets are their ranks, from 0."""

    order: tuple | None = None
    classes: np.ndarray = field(default_factory=not_found)

    found = {"classes_": "classes"}

    def find(self, y, column, weights):
        labels = check_labels(y, column)
        classes = np.unique(labels) if self.order is None else np.array(self.order)
        task = replace(self, classes=classes)
        return task, task.targets(y, column)

    def targets(self, y, column, name="y"):
        labels, ranks = check_labels(y, column, name), {label: i for i, label in enumerate(self.classes.tolist())}
        unknown = sorted(set(labels.tolist()) - ranks.keys())
        if unknown:
            raise ValueError(f"{name} has labels that are not in the order of classes: {unknown[:5]}.")
        return np.array([ranks[label] for label in labels.tolist()])

    def strata(self, targets):
        return targets

    def head(self, config, files=None):
        return ClassificationHead(config, len(self.classes) - 1)

    def row_losses(self, outputs, targets):
        is_at_least = targets[:, None] > targets.new_tensor(range(outputs.shape[1]))  # (n, n_classes - 1)
        return F.binary_cross_entropy_with_logits(outputs, is_at_least.to(outputs), reduction="none").mean(1)

    def row_score(self, results, targets, weights):
        return -float(np.average(abs((results > 0).sum(axis=1) - targets), weights=weights))


@declare_parameters
class XLMRXLOrdinalClassifier(ClassifierMixin, Truncation, Vocabulary, FeatureMemory, XLMRXLLearner):
    """Predict ordered classes of texts.

    Parameters
    ----------
    order : sequence or None
        The classes, from lowest to highest; None sorts the labels of y.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        In their order.
    $history
    """

    order: Sequence | None = parameter(default=None, valid=["array-like", None])

    def _new_task(self):
        windows = Windows(self.max_length, self.stride, self.truncation)
        return OrdinalClassification(windows, None if self.order is None else tuple(self.order))

    def predict(self, X):
        """Return the class of each text, (n_samples,)."""
        return self.classes_[(self._outputs(X) > 0).sum(axis=1)]

    def predict_proba(self, X):
        """Return the probability of each class, (n_samples, n_classes)."""
        at_least = np.minimum.accumulate(expit(self._outputs(X)), axis=1)
        return -np.diff(at_least, axis=1, prepend=1.0, append=0.0)

    @requires_y
    def score(self, X, y, sample_weight=None):
        """Return minus the mean absolute difference of ranks."""
        return self._score(X, y, sample_weight)


if __name__ == "__main__":
    texts = ["dreadful, never again", "not good", "it was fine", "good", "wonderful, a delight"] * 6
    stars = ["*", "**", "***", "****", "*****"] * 6
    clf = XLMRXLOrdinalClassifier("nano", learning_rate=5e-3, random_state=0).fit(texts, stars)
    print("fitted classes:", clf.classes_.tolist())
    print("predictions:", clf.predict(["a wonderful delight", "dreadful"]).tolist())
    print(f"mean difference of ranks on the training texts: {-clf.score(texts, stars):.2f}")
