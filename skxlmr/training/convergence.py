"""Warnings of a training that learned nothing, or that made its start worse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skxlmr.system.warn import warn

N_ROWS = 256  # that are run again after a training, to judge it
NEARLY_ALL = 0.99  # share of the rows
# Differences of losses that count, relative to the loss of a constant model: to that model, and to the start.
MARGIN_TO_CONSTANT = 0.02
MARGIN_TO_START = 0.1
MARGIN_OF_SCORES = 0.1


@dataclass(frozen=True)
class Quality:
    """How well a model does on some rows that it was trained on.

    Attributes
    ----------
    loss : float
        Mean loss after training.
    constant_loss : float
        That of the best model that gives the same outputs for all rows.
    score : float or None
        Higher is better; None for tasks whose start is judged by its loss.
    start : Quality or None
        That of the linear model that training started from; None if it started from random weights.
    most_predicted : tuple of float or None
        Of the class that is predicted most often, the share of the predictions and of the labels.
    """

    loss: float
    constant_loss: float
    score: float | None = None
    start: Quality | None = None
    most_predicted: tuple[float, float] | None = None

    def problem(self) -> str | None:
        """Say what went wrong; None if nothing did."""
        constant = self.constant_loss
        if not np.isfinite(self.loss) or self.loss > constant + MARGIN_TO_CONSTANT * constant:
            return (
                f"the training loss is {self.loss:.3g} at its end, while predicting the same for all rows would give "
                f"{self.constant_loss:.3g}"
            )
        if self.most_predicted is not None:
            predicted, true = self.most_predicted
            if predicted >= NEARLY_ALL > true:
                return f"one class is predicted for {predicted:.0%} of the training rows, but only {true:.0%} have it"
        if self.worse_than_start:
            name = "loss" if self.score is None else "score"
            return (
                f"the training {name} is {getattr(self, name):.3g} at its end, but was "
                f"{getattr(self.start, name):.3g} with the linear model that training started from"
            )
        return None

    @property
    def worse_than_start(self) -> bool:
        """Whether training made its start worse: by the score where there is one, else by the loss.

        The loss of a classifier rises although nothing is lost, since its start is softened; see `SoftStart`.
        """
        if self.start is None:
            return False
        if self.score is not None and self.start.score is not None:
            return self.score < self.start.score - MARGIN_OF_SCORES
        return self.loss > self.start.loss + MARGIN_TO_START * self.constant_loss


def warn_of_failure(quality: Quality, learning_rate: float, n_epochs: int, early_stopping: bool) -> None:
    """Warn, with a ConvergenceWarning, of a model that has not learned, and name the remedy."""
    problem = quality.problem()
    if problem is None:
        return
    remedies = [f"lower learning_rate (it was {learning_rate:g})"]
    if not quality.worse_than_start:
        remedies.append(f"raise max_epochs (it was {n_epochs})")
    if not early_stopping:
        remedies.append("set early_stopping=True, which keeps the best epoch")
    warn(f"The model did not learn well: {problem}. Try to {', to '.join(remedies)}.", ConvergenceWarning)
