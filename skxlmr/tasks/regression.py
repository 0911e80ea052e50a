"""Regression: one or several numbers per row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch.nn.functional as F
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_consistent_length
from torch import Tensor
from typing_extensions import Self

from skxlmr.columns import TextColumn, name_row
from skxlmr.tasks.base import not_found
from skxlmr.tasks.pooled import PooledTask
from skxlmr.tasks.probes import LinearStart, direction_start, ridge_start
from skxlmr.training.rows import Rows

# The loss of a difference to the target, in standard deviations of the target.
REGRESSION_LOSSES: dict[str, Callable[..., Tensor]] = {
    "squared_error": F.mse_loss,
    "absolute_error": F.l1_loss,
    "huber": F.huber_loss,
}

# Of the learning rate "auto" for pairs that are read separately: the share per row, and the largest share.
RATE_PER_ROW, LARGEST_RATE = 1 / 5000, 0.1


@dataclass(frozen=True, eq=False)
class Regression(PooledTask):
    """Numbers; targets are standardised by `mean` and `scale`, (n_outputs,) each."""

    loss: str = "squared_error"
    mean: np.ndarray = field(default_factory=not_found)
    scale: np.ndarray = field(default_factory=not_found)
    one_dimensional: bool = True

    found: ClassVar[dict[str, str]] = PooledTask.found | {
        "target_mean_": "mean",
        "target_scale_": "scale",
        "n_outputs_": "n_outputs",
        "_one_dimensional": "one_dimensional",
    }

    def find(self, y: Any, column: TextColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        values = check_numbers(y, column)
        mean = np.average(values, axis=0, weights=weights)
        scale = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
        scale = np.where(scale > 0, scale, 1.0)
        task = replace(self, mean=mean, scale=scale, one_dimensional=np.asarray(y).ndim == 1)
        return task, (values - mean) / scale

    def targets(self, y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
        values = check_numbers(y, column, name)
        if values.shape[1] != self.n_outputs:
            raise ValueError(f"{name} has {values.shape[1]} columns, but {self.n_outputs} are needed.")
        return (values - self.mean) / self.scale

    @property
    def n_outputs(self) -> int:
        """Number of columns of y."""
        return len(self.mean)

    def start(self, features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> LinearStart:
        """Fit a ridge regression; or a line along the cosine, of pairs that are read separately.

        A ridge regression on their features is better in the language of the training, worse in others, and made a
        worse start for fine-tuning in both (benchmarks/NOTES.md).
        """
        if self.pairs != "separate":
            return ridge_start(features, targets, weights)
        width = features.shape[1] // 4  # the last quarter of the features is the product of both vectors
        return direction_start(features, targets, weights, np.repeat([0.0, 1 / width], [3 * width, width]))

    def learning_rate_factor(self, n_rows: int) -> float:
        """Return less than 1 for pairs that are read separately: their cosine is a good start, which is soon lost.

        On JSICK, the full rate made the start worse with 50 and 500 pairs, and with 4,500 in the language that was not
        trained (benchmarks/NOTES.md).
        """
        return min(LARGEST_RATE, n_rows * RATE_PER_ROW) if self.pairs == "separate" else 1.0

    def constant(self, rows: Rows) -> np.ndarray:
        """Return the mean of the standardised targets; their median is not far from it."""
        return np.average(rows.targets, axis=0, weights=rows.weights)

    def row_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return REGRESSION_LOSSES[self.loss](outputs, targets.to(outputs), reduction="none").mean(1)

    def row_score(self, results: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        return float(r2_score(targets, results, sample_weight=weights)) if len(targets) > 1 else float("nan")

    def restore(self, attributes: dict[str, Any]) -> Self:
        names = {attribute: name for attribute, name in self.found.items() if name != "n_outputs"}
        return replace(self, **{name: attributes[attribute] for attribute, name in names.items()})

    def continued(self, earlier: Self) -> Self:
        """Keep the earlier mean and scale: the weights of the head are relative to them."""
        if (self.n_outputs, self.one_dimensional) != (earlier.n_outputs, earlier.one_dimensional):
            raise ValueError(
                f"y asks for {self.n_outputs} outputs, but the earlier fit learned {earlier.n_outputs}, or its y had "
                f"another number of dimensions: training can continue with the same only."
            )
        return replace(self.read_as_before(earlier), mean=earlier.mean, scale=earlier.scale)

    @property
    def export_config(self) -> dict[str, Any]:
        names = {i: f"LABEL_{i}" for i in range(self.n_outputs)}
        return {"id2label": names, "problem_type": "regression"}


def check_numbers(y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
    """Read finite numbers, (n_rows, n_outputs) float64; errors name the row."""
    index = y.index if isinstance(y, pd.Series | pd.DataFrame) else None
    check_consistent_length(column.texts, y)
    values = _as_floats(y, name, index)
    if values.ndim not in (1, 2):
        raise ValueError(f"{name} has {values.ndim} dimensions; numbers in one or two are needed.")
    if not values.size:
        raise ValueError(f"{name} has shape {values.shape}: there is nothing to learn.")
    values = values.reshape(len(values), -1)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name}, {name_row(bad[0], index)}: {values[bad[0]].tolist()} is NaN or infinity ({len(bad)} rows in "
            f"all). Leave these rows out of X and y."
        )
    return values


def _as_floats(y: Any, name: str, index: pd.Index | None) -> np.ndarray:
    if hasattr(y, "dtype") and np.iscomplexobj(y):
        raise ValueError(f"{name} holds complex numbers. Give their real and imaginary parts as two columns.")
    try:
        return np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        for i, row in enumerate(y.to_numpy() if isinstance(y, pd.DataFrame) else y):
            try:
                np.asarray(row, np.float64)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(
                    f"{name}, {name_row(i, index)}: {row!r:.60} is not a number. Make it one, or leave its row out."
                ) from error
        raise ValueError(f"{name} holds something that is not a number: {error}. Use y.astype(float).") from error
