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


@dataclass(frozen=True)
class Quality:
    """How well a model does on some rows that it was trained on.

    Attributes
    ----------
    loss : float
        Mean loss after training.
    constant_loss : float
        That of the best model that gives the same outputs for all rows.
    start_loss : float or None
        That of the linear model that training started from; None if it started from random weights.
    most_predicted : tuple of float or None
        Of the class that is predicted most often, the share of the predictions and of the labels.
    """

    loss: float
    constant_loss: float
    start_loss: float | None = None
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
        if self.start_loss is not None and self.loss > self.start_loss + MARGIN_TO_START * constant:
            return (
                f"the training loss is {self.loss:.3g} at its end, but was {self.start_loss:.3g} with the linear model "
                f"that training started from"
            )
        return None


def warn_of_failure(quality: Quality, learning_rate: float, n_epochs: int, early_stopping: bool) -> None:
    """Warn, with a ConvergenceWarning, of a model that has not learned, and name the remedy."""
    problem = quality.problem()
    if problem is None:
        return
    remedies = [f"lower learning_rate (it was {learning_rate:g})"]
    if quality.start_loss is None or quality.loss <= quality.start_loss:
        remedies.append(f"raise max_epochs (it was {n_epochs})")
    if not early_stopping:
        remedies.append("set early_stopping=True, which keeps the best epoch")
    warn(f"The model did not learn well: {problem}. Try to {', to '.join(remedies)}.", ConvergenceWarning)
