"""Regression: one or several numbers per row."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.special import logit
from torch import Tensor
from typing_extensions import Self

from skxlmr.columns import TextColumn
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.heads import Head
from skxlmr.runtime.plan import WindowPlan
from skxlmr.system.schema import POSITIVE, one_of, vector
from skxlmr.tasks.base import not_found
from skxlmr.tasks.exports import Export, Serving
from skxlmr.tasks.pooled import PooledTask
from skxlmr.tasks.probes import LinearStart, direction_start, ridge_start
from skxlmr.tasks.targets import Target, is_vector, read_target, refuse_y_as_text
from skxlmr.training.rows import Rows

# The loss of a difference to the target, in standard deviations of the target.
REGRESSION_LOSSES: dict[str, Callable[..., Tensor]] = {
    "squared_error": F.mse_loss,
    "absolute_error": F.l1_loss,
    "huber": F.huber_loss,
}

CERTAIN = 1e-6  # how near to the ends of its range an activation comes


class Activation(NamedTuple):
    """What becomes of the outputs of a head, and which output a number comes from."""

    apply: Callable[[Tensor], Tensor]
    inverse: Callable[[np.ndarray], np.ndarray]


# By the names of torch's classes. Only a CrossEncoder of sentence-transformers has another than "Identity".
ACTIVATIONS: dict[str, Activation] = {
    "Identity": Activation(lambda x: x, lambda y: y),
    "Sigmoid": Activation(torch.sigmoid, lambda y: logit(y.clip(CERTAIN, 1 - CERTAIN))),
    "Tanh": Activation(torch.tanh, lambda y: np.arctanh(y.clip(CERTAIN - 1, 1 - CERTAIN))),
    "ReLU": Activation(torch.relu, lambda y: y.clip(0)),
    "Softplus": Activation(F.softplus, lambda y: np.log(np.expm1(y.clip(CERTAIN)))),
}

# Of the learning rate "auto" for pairs that are read separately: the share per row, and the largest share.
RATE_PER_ROW, LARGEST_RATE = 1 / 5000, 0.1


@dataclass(frozen=True, eq=False)
class Regression(PooledTask):
    """Numbers; targets are standardised by `mean` and `scale`, (n_outputs,) each.

    `activation` is a key of `ACTIVATIONS`; it comes before `mean` and `scale`.
    """

    loss: str = "squared_error"
    mean: np.ndarray = field(default_factory=not_found)
    scale: np.ndarray = field(default_factory=not_found)
    one_dimensional: bool = True
    activation: str = "Identity"

    found: ClassVar[dict[str, str]] = PooledTask.found | {
        "target_mean_": "mean",
        "target_scale_": "scale",
        "n_outputs_": "n_outputs",
        "_one_dimensional": "one_dimensional",
    }
    found_lately: ClassVar[dict[str, str]] = PooledTask.found_lately | {"_activation": "activation"}
    found_types: ClassVar[dict[str, Any]] = PooledTask.found_types | {
        "target_mean_": vector("f", "finite numbers"),
        "target_scale_": vector("f", "finite numbers"),
        "n_outputs_": POSITIVE,
        "_one_dimensional": bool,
        "_activation": one_of(*ACTIVATIONS),
    }

    def check_found(self, n_features: int | None) -> None:
        super().check_found(n_features)
        if self.mean.shape != self.scale.shape or not (self.scale > 0).all():
            raise ValueError("its target_scale_ is not a positive number for each element of target_mean_")
        if self.one_dimensional and self.n_outputs != 1:
            raise ValueError(f"y was of one dimension, but target_mean_ has {self.n_outputs} elements")

    def find(self, y: Any, column: TextColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        target = read_numbers(y, column)
        values, used = target.values.reshape(len(weights), -1), np.flatnonzero(weights)
        if values.shape[1] == 1:
            refuse_y_as_text(column, values[:, 0])
        mean, scale = _mean_and_spread(values[used], weights[used])
        task = replace(self, mean=mean, scale=scale, one_dimensional=target.values.ndim == 1)
        return task, (values - mean) / scale

    def of_outputs(self, config: XLMRobertaXLConfig, classes: list[Any] | None) -> tuple[Self, None]:
        """As other tasks; the numbers are those that the head computes."""
        n = config.num_labels
        return replace(self, mean=np.zeros(n), scale=np.ones(n), one_dimensional=n == 1), None

    def targets(self, y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
        values = check_numbers(y, column, name)
        if values.shape[1] != self.n_outputs:
            raise ValueError(f"{name} has {values.shape[1]} columns, but {self.n_outputs} are needed.")
        return (values - self.mean) / self.scale

    def as_y(self, targets: np.ndarray) -> np.ndarray:
        values = targets * self.scale + self.mean
        return values[:, 0] if self.one_dimensional else values

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
        return ACTIVATIONS[self.activation].inverse(np.average(rows.targets, axis=0, weights=rows.weights))

    def row_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        numbers = ACTIVATIONS[self.activation].apply(outputs)
        return REGRESSION_LOSSES[self.loss](numbers, targets.to(outputs), reduction="none").mean(1)

    def per_row(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """Average the outputs of windows, and apply the activation."""
        return ACTIVATIONS[self.activation].apply(torch.from_numpy(super().per_row(outputs, plan))).numpy()

    def row_score(self, results: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        from sklearn.metrics import r2_score

        return float(r2_score(targets, results, sample_weight=weights)) if len(targets) > 1 else float("nan")

    def continued(self, earlier: Self) -> Self:
        """Keep the earlier mean, scale and activation: the weights of the head are relative to them."""
        if (self.n_outputs, self.one_dimensional) != (earlier.n_outputs, earlier.one_dimensional):
            raise ValueError(
                f"y asks for {self.n_outputs} outputs, but the earlier fit learned {earlier.n_outputs}, or its y had "
                f"another number of dimensions: training can continue with the same only."
            )
        kept = {name: getattr(earlier, name) for name in ("mean", "scale", "activation")}
        return replace(self.read_as_before(earlier), **kept)

    @property
    def export_config(self) -> dict[str, Any]:
        names = {i: f"LABEL_{i}" for i in range(self.n_outputs)}
        return {"id2label": names, "problem_type": "regression"}

    @property
    def export(self) -> Export:
        """As of other tasks; the outputs of the head that is written are in the unit of the targets."""
        return replace(super().export, activation=self.activation, written=self._in_unit_of_targets)

    @torch.no_grad()
    def _in_unit_of_targets(self, head: Head) -> Head:
        """Let a head map its outputs back from standardised targets; with another activation these are not in use."""
        scale, mean = (torch.from_numpy(values)[:, None] for values in (self.scale, self.mean))
        head.last.weight.copy_(head.last.weight.double() * scale)
        head.last.bias.copy_(head.last.bias.double() * scale[:, 0] + mean[:, 0])
        return head

    @property
    def serving(self) -> Serving:
        """Return the numbers, as `predict`, in float32."""
        scale, mean = (torch.tensor(values, dtype=torch.float32) for values in (self.scale, self.mean))

        def finish(outputs: Tensor) -> Tensor:
            numbers = ACTIVATIONS[self.activation].apply(outputs) * scale + mean
            return numbers[:, 0] if self.one_dimensional else numbers

        return self.served("regression", "predictions", finish, {})


def _mean_and_spread(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation, or 1 if that is 0, of columns of numbers: (n_rows, n) -> (n,) twice.

    Numbers are divided by a power of 2 before they are squared, which is exact: neither squares nor sums overflow.
    """
    unit = np.ldexp(1.0, np.frexp(np.abs(values).max(axis=0))[1] - 1)
    unit = np.where(unit > 0, unit, 1.0)
    mean = np.average(values / unit, axis=0, weights=weights)
    spread = values / unit - mean
    unit_of_spread = np.ldexp(1.0, np.frexp(np.abs(spread).max(axis=0))[1] - 1)
    unit_of_spread = np.where(unit_of_spread > 0, unit_of_spread, 1.0)
    scale = np.sqrt(np.average((spread / unit_of_spread) ** 2, axis=0, weights=weights)) * unit_of_spread * unit
    return mean * unit, np.where(scale > 0, scale, 1.0)


def check_numbers(y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
    """Read finite numbers, (n_rows, n_outputs) float64; errors name the row."""
    values = read_numbers(y, column, name).values
    return values.reshape(len(values), -1)


def read_numbers(y: Any, column: TextColumn, name: str = "y") -> Target:
    """Read finite numbers, float64: (n_rows,), or (n_rows, n_outputs) of a table or a column of vectors."""
    target = read_target(y, column, name)
    values = target.values
    if target.has_vectors:
        values = _stack(target)
    elif target.is_column:
        values = values[:, None]
    values = _as_floats(values, target)
    if not values.size:
        raise ValueError(f"{name} has shape {values.shape}: there is nothing to learn.")
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{target.where(bad[0])}: {values[bad[0]].tolist()} is NaN or infinity ({len(bad)} rows in all). Leave "
            f"these rows out of X and y."
        )
    return replace(target, values=values)


def _stack(target: Target) -> np.ndarray:
    """Return a column of vectors of numbers as a table."""
    table = target.stack()
    if table is not None:
        return table
    rows = target.values
    width = len(next(filter(is_vector, rows)))
    for i, row in enumerate(rows):
        if not is_vector(row) or isinstance(row, Set) or len(row) != width:
            raise ValueError(f"{target.where(i)}: {row!r:.60} is not a vector of {width} numbers, as other rows have.")
    return np.array([list(row) for row in rows], object)


def _as_floats(values: np.ndarray, target: Target) -> np.ndarray:
    if np.iscomplexobj(values):
        raise ValueError(f"{target.name} holds complex numbers. Give their real and imaginary parts as two columns.")
    if values.dtype.kind in "mM":
        raise ValueError(f"{target.name} holds {values.dtype}, not numbers. Convert it to a number of days or seconds.")
    if values.dtype == object:
        values = np.where(pd.isna(values), np.nan, values)
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        for i, row in enumerate(values):
            try:
                np.asarray(row, np.float64)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(
                    f"{target.where(i)}: {row!r:.60} is not a number. Make it one, or leave its row out; for classes "
                    f"use XLMRXLClassifier."
                ) from None
        raise ValueError(
            f"{target.name} holds something that is not a number: {error}. Use y.astype(float)."
        ) from error
