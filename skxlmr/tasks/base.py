"""What the numbers of a head mean: their loss, their score, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch.nn.functional as F
from sklearn.metrics import r2_score
from torch import Tensor

from skxlmr.tasks.tagging.schemes import decode, tag_score


class Task(Protocol):
    """What a fit has found out about y before it trains."""

    @property
    def n_outputs(self) -> int:
        """Outputs of the head."""

    @property
    def attributes(self) -> dict[str, Any]:
        """What of it the fitted estimator shows or needs."""

    def strata(self, targets: np.ndarray) -> np.ndarray | None:
        """What validation rows are to have in the same shares as the others."""


class RowTask(Task, Protocol):
    """A task whose rows have one output each; of others the estimator knows the loss and the score itself."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss for each row: (n, n_outputs), (n, ...) -> (n,)."""

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """How good outputs are; higher is better."""


@dataclass(frozen=True)
class Classification:
    """One of several classes; targets are their numbers.

    Attributes
    ----------
    classes : ndarray
    label_smoothing : float
    """

    classes: np.ndarray
    label_smoothing: float = 0.0

    @property
    def n_outputs(self) -> int:
        return len(self.classes)

    @property
    def attributes(self) -> dict[str, Any]:
        return {"classes_": self.classes, "multilabel_": None}

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.label_smoothing)

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        return float(np.average(outputs.argmax(axis=1) == targets, weights=weights))

    def strata(self, targets: np.ndarray) -> np.ndarray:
        return targets


@dataclass(frozen=True)
class Multilabel:
    """Any number of labels; targets are 0 and 1 for each.

    Attributes
    ----------
    classes : ndarray
    form : {"indicator", "lists"}
        How y was given, and how it is predicted.
    label_smoothing : float
    """

    classes: np.ndarray
    form: str
    label_smoothing: float = 0.0

    @property
    def n_outputs(self) -> int:
        return len(self.classes)

    @property
    def attributes(self) -> dict[str, Any]:
        return {"classes_": self.classes, "multilabel_": self.form}

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, smooth.to(outputs), reduction="none").mean(1)

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        return float(np.average(((outputs > 0) == targets).all(axis=1), weights=weights))

    def strata(self, targets: np.ndarray) -> None:
        return None


# The loss of a difference to the target, in standard deviations of the target.
REGRESSION_LOSSES = {
    "squared_error": F.mse_loss,
    "absolute_error": F.l1_loss,
    "huber": F.huber_loss,
}


@dataclass(frozen=True)
class Regression:
    """Numbers; targets are standardised.

    Attributes
    ----------
    mean, scale : ndarray of shape (n_outputs,)
    one_dimensional : bool
        Whether y has one dimension.
    loss : {"squared_error", "absolute_error", "huber"}
    """

    mean: np.ndarray
    scale: np.ndarray
    one_dimensional: bool
    loss: str

    @property
    def n_outputs(self) -> int:
        return len(self.mean)

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "target_mean_": self.mean,
            "target_scale_": self.scale,
            "n_outputs_": self.n_outputs,
            "_one_dimensional": self.one_dimensional,
        }

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return REGRESSION_LOSSES[self.loss](outputs, targets.to(outputs), reduction="none").mean(1)

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        return float(r2_score(targets, outputs, sample_weight=weights)) if len(targets) > 1 else float("nan")

    def strata(self, targets: np.ndarray) -> None:
        return None


@dataclass(frozen=True)
class Tagging:
    """A tag for each token; targets are their numbers, an array for each row.

    Attributes
    ----------
    classes : ndarray of str
    scheme : {"BIO", "BIOES", "IO", "plain"}
    tag_weights : ndarray of shape (n_tags,)
        In the loss.
    """

    classes: np.ndarray
    scheme: str
    tag_weights: np.ndarray

    @property
    def n_outputs(self) -> int:
        return len(self.classes)

    @property
    def attributes(self) -> dict[str, Any]:
        return {"classes_": self.classes, "scheme_": self.scheme}

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        tags = [self.classes[row].tolist() for row in decode(outputs, self.classes.tolist(), self.scheme)]
        return tag_score([self.classes[row].tolist() for row in targets], tags, self.scheme, weights)

    def strata(self, targets: np.ndarray) -> None:
        return None


@dataclass(frozen=True)
class Choosing:
    """One of a row's choices; targets are their indices.

    Attributes
    ----------
    form : {"index", "choice"}
        How y was given, and how it is predicted.
    """

    form: str
    n_outputs = 1

    @property
    def attributes(self) -> dict[str, Any]:
        return {"target_form_": self.form}

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        return float(np.average(outputs.argmax(axis=1) == targets, weights=weights))

    def strata(self, targets: np.ndarray) -> None:
        return None


@dataclass(frozen=True)
class Answering:
    """A part of a context; targets are characters where answers start and end, an array for each row.

    Attributes
    ----------
    has_unanswerable : bool
        Whether there are questions without an answer.
    """

    has_unanswerable: bool
    n_outputs = 2

    @property
    def attributes(self) -> dict[str, Any]:
        return {"has_unanswerable_": self.has_unanswerable}

    def strata(self, targets: np.ndarray) -> None:
        return None
