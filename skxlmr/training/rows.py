"""Rows to learn from, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import WindowPlan


@dataclass(frozen=True)
class Rows:
    """Rows to learn from, or to score.

    Attributes
    ----------
    plan : WindowPlan
    targets : ndarray of shape (n_rows, ...)
    weights : ndarray of shape (n_rows,)
    numbers : ndarray of shape (n_rows,)
        What the user calls them.
    """

    plan: WindowPlan
    targets: np.ndarray
    weights: np.ndarray
    numbers: np.ndarray

    def take(self, rows: np.ndarray) -> Rows:
        """Some of them."""
        return Rows(self.plan.take(rows), self.targets[rows], self.weights[rows], self.numbers[rows])

    def identity(self) -> list[np.ndarray]:
        """All that a training could depend on."""
        plan, targets = self.plan, [self.targets]
        if self.targets.dtype == object:  # as many for each row as it has tokens
            targets = [np.concatenate(self.targets), np.fromiter(map(len, self.targets), np.int64)]
        tokens = np.concatenate(plan.windows)
        return [tokens, plan.lengths, plan.text_of_window, plan.text_of_row, *targets, self.weights]


@dataclass(frozen=True)
class Outcome:
    """What a training gave.

    Attributes
    ----------
    finetuned : Finetuned
        Ready to predict.
    history : DataFrame
    validation_scores : list of float or None
    optimizer_state : tuple of dicts
    """

    finetuned: Finetuned
    history: pd.DataFrame
    validation_scores: list[float] | None
    optimizer_state: tuple[dict, dict]
