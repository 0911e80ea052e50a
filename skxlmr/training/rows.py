"""The rows of a training, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import WindowPlan
from skxlmr.training.optimizers import OptimizerState


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to train on, or to score."""

    plan: WindowPlan
    targets: np.ndarray  # (n_rows, ...)
    weights: np.ndarray  # (n_rows,)
    numbers: np.ndarray  # (n_rows,), the user's numbers of the rows, for messages

    def take(self, rows: np.ndarray) -> Rows:
        """Return some of the rows."""
        return Rows(self.plan.take(rows), self.targets[rows], self.weights[rows], self.numbers[rows])

    def identity(self) -> list[np.ndarray]:
        """Return all that the result of a training depends on."""
        plan, targets = self.plan, [self.targets]
        if self.targets.dtype == object:  # one array per row, of as many targets as it has tokens
            targets = [np.concatenate(self.targets), np.fromiter(map(len, self.targets), np.int64)]
        tokens = np.concatenate(plan.windows)
        return [tokens, plan.lengths, plan.text_of_window, plan.text_of_row, *targets, self.weights]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a training."""

    finetuned: Finetuned  # in evaluation mode
    history: pd.DataFrame  # one row per epoch
    validation_scores: list[float] | None
    optimizer_state: OptimizerState
    start_metrics: dict[str, float] | None  # of the linear model that training started from, if there was one

    @property
    def best_score(self) -> float | None:
        """The highest validation score, that of the start included; None if there is none."""
        start = (self.start_metrics or {}).get("validation_score")
        return max([*(self.validation_scores or ()), *([] if start is None else [start])], default=None)
