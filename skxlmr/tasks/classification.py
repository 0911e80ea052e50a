"""Classification: one class per row, or several labels per row."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import sparse
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_consistent_length, column_or_1d
from torch import Tensor
from typing_extensions import Self

from skxlmr.columns import TextColumn, as_pandas, name_row
from skxlmr.tasks.base import not_found
from skxlmr.tasks.pooled import PooledTask
from skxlmr.tasks.probes import LinearStart, log_priors, logistic_start, one_vs_rest_start
from skxlmr.training.rows import Rows

LABELS = (list, tuple, set, frozenset, np.ndarray)  # what may hold the labels of one row


@dataclass(frozen=True, eq=False)
class Classification(PooledTask):
    """Classes of texts: one per row, or several labels per row.

    Targets are numbers of classes, (n_rows,); probabilities of classes, (n_rows, n_classes); or, for several labels per
    row, a matrix of 0 and 1, (n_rows, n_classes). `form` says how y gives several labels per row: "indicator", "lists",
    or None for one class per row. `class_weights` are those of classes in the loss, (n_classes,), or of the negatives
    and the positives of each label, (2, n_classes); None for no weights.
    """

    # Of the study's factors from 0.05 to 1 (benchmarks/NOTES.md).
    start_factor: ClassVar[float] = 0.1

    label_smoothing: float = 0.0
    class_weight: dict | str | None = None
    classes: np.ndarray = field(default_factory=not_found)
    form: str | None = None
    class_weights: np.ndarray | None = None

    found: ClassVar[dict[str, str]] = PooledTask.found | {"classes_": "classes", "multilabel_": "form"}

    def find(self, y: Any, column: TextColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        if is_probabilities(y):
            task = replace(self, classes=classes_of_columns(y), form=None)
            targets = task.targets(y, column)
            return task.weighted(targets, weights), targets
        form = multilabel_form(y)
        if form is not None:
            task = replace(self, classes=find_labels(y, column, form), form=form)
            targets = task.targets(y, column)
            return task.weighted(targets, weights), targets
        classes, targets = np.unique(check_labels(y, column), return_inverse=True)
        task = replace(self, classes=classes, form=None).weighted(targets, weights)
        used = np.unique(targets[weights * task.loss_weights(targets) > 0])
        if len(used) == 1:
            label = classes.tolist()[used[0]]
            raise ValueError(f"A classifier needs at least 2 classes to tell apart, but y has 1 class: {label!r}.")
        return task, targets

    def targets(self, y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
        if self.form is not None:
            return check_multilabel(y, column, self.classes, self.form, name)
        if is_probabilities(y):
            return check_probabilities(y, column, self.classes, name)
        y = check_labels(y, column, name)
        unknown = sorted(set(y.tolist()) - set(self.classes.tolist()))
        if unknown:
            known = "y" if name == "y_val" else "classes"
            raise ValueError(f"{name} has labels that {known} has not: {unknown[:5]}.")
        return np.searchsorted(self.classes, y)

    def loss_weights(self, targets: np.ndarray) -> np.ndarray | float:
        if self.class_weights is None or self.form is not None:  # those of labels are in `row_losses`
            return 1.0
        return targets @ self.class_weights if targets.ndim == 2 else self.class_weights[targets]

    def weighted(self, targets: np.ndarray, weights: np.ndarray) -> Self:
        """Return this task with `class_weights`, which depend on targets and sample weights if they are balanced."""
        if self.class_weight is None:
            return self
        if self.form is None and targets.ndim == 2:
            if self.class_weight == "balanced":
                raise ValueError("class_weight='balanced' needs labels, but y has probabilities; use sample_weight.")
            of_classes = check_class_weight(self.class_weight, self.classes, self.classes)
        elif self.form is None:
            of_classes = check_class_weight(self.class_weight, self.classes, self.classes[targets], weights)
        elif self.class_weight == "balanced":
            labels = targets.T.astype(np.int64)
            of_classes = np.transpose([check_class_weight("balanced", np.arange(2), t, weights) for t in labels])
        else:
            of_positives = check_class_weight(self.class_weight, self.classes, self.classes)
            of_classes = np.stack([np.ones(len(self.classes)), of_positives])
        return replace(self, class_weights=of_classes)

    def _entry_weights(self, targets: np.ndarray) -> np.ndarray:
        """Return the weights of the entries of a matrix of labels in the loss, (n_rows, n_classes)."""
        if self.class_weights is None:
            return np.ones(targets.shape)
        return np.where(targets > 0, self.class_weights[1], self.class_weights[0])

    def strata(self, targets: np.ndarray) -> np.ndarray | None:
        return most_likely(targets) if self.form is None else None

    @property
    def n_outputs(self) -> int:
        return len(self.classes)

    def start(self, features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> LinearStart:
        """Fit a logistic regression, or one for each of several labels per row."""
        if self.form is None:
            return logistic_start(features, targets, weights, self.n_outputs)
        return one_vs_rest_start(features, targets, weights[:, None] * self._entry_weights(targets))

    def constant(self, rows: Rows) -> np.ndarray:
        """Return the logarithms of the shares of classes, or the log-odds of each label."""
        if self.form is None:
            if rows.targets.ndim == 2:
                return np.log(np.average(rows.targets, axis=0, weights=rows.weights) + 1e-9)
            return log_priors(rows.targets, rows.weights, self.n_outputs)
        weights = rows.weights[:, None] * self._entry_weights(rows.targets)
        labels = zip(rows.targets.T.astype(np.int64), weights.T, strict=True)
        return np.array([np.diff(log_priors(of_label, w, 2))[0] for of_label, w in labels])

    def most_predicted(self, outputs: np.ndarray, rows: Rows) -> tuple[float, float] | None:
        if self.form is not None:
            return None
        predicted = np.bincount(self.per_row(outputs, rows.plan).argmax(axis=1), rows.weights, self.n_outputs)
        true = np.bincount(most_likely(rows.targets), rows.weights, self.n_outputs)
        most, total = predicted.argmax(), rows.weights.sum()
        return float(predicted[most] / total), float(true[most] / total)

    def row_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.form is None:
            targets = targets.to(outputs) if targets.ndim == 2 else targets
            return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.label_smoothing)
        smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        each = F.binary_cross_entropy_with_logits(outputs, smooth.to(outputs), reduction="none")
        if self.class_weights is not None:
            of_negatives, of_positives = torch.from_numpy(self.class_weights).to(outputs)
            each = each * torch.where(targets > 0, of_positives, of_negatives)
        return each.mean(1)

    def row_score(self, results: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """Compute the accuracy; of several labels per row all must be right."""
        if self.form is None:
            right = results.argmax(axis=1) == most_likely(targets)
        else:
            right = ((results > 0) == targets).all(axis=1)
        return float(np.average(right, weights=weights))

    @property
    def export_config(self) -> dict[str, Any]:
        kind = "single" if self.form is None else "multi"
        names = {i: str(label) for i, label in enumerate(self.classes)}
        return {"id2label": names, "problem_type": f"{kind}_label_classification"}


def check_labels(y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
    """Read one label per row, (n_rows,).

    Raises ValueError if labels are missing, are not classes or are not as many as the texts; TypeError if they cannot
    be sorted together.
    """
    index = y.index if isinstance(y, pd.Series) else None
    check_consistent_length(column.texts, y)
    y = column_or_1d(np.asarray(y), warn=True)
    if y.dtype.kind == "T":  # NumPy's strings of variable width, of which scikit-learn knows nothing
        y = y.astype(object)
    missing = np.flatnonzero(pd.isna(y))
    if len(missing):
        raise ValueError(
            f"{name}, {name_row(missing[0], index)}: {y[missing[0]]} is not a label (NaN or missing; {len(missing)} in "
            f"all). Leave these rows out of X and y."
        )
    if y.dtype == object:
        y = _infer_labels(y, name)
    if y.dtype.kind in "fc":
        assert_all_finite(y, input_name=name)
    check_classification_targets(y)
    return y


def is_probabilities(y: Any) -> bool:
    """Whether y has a probability for each class, (n_rows, n_classes): rows of fractions that sum to 1."""
    y = as_pandas(y)
    if getattr(y, "ndim", 1) != 2 or y.shape[1] < 2 or sparse.issparse(y):
        return False
    values = y.to_numpy() if isinstance(y, pd.DataFrame) else np.asarray(y)
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        return False
    inside, whole = (values >= 0).all() and (values <= 1 + 1e-3).all(), np.isin(values, [0, 1]).all()
    return bool(inside and not whole and np.allclose(values.sum(axis=1), 1, atol=1e-3))


def classes_of_columns(y: Any) -> np.ndarray:
    """Return the classes of probabilities: the names of the columns, sorted, or their numbers."""
    y = as_pandas(y)
    return (
        np.unique(_infer_labels(y.columns.to_numpy(object))) if isinstance(y, pd.DataFrame) else np.arange(y.shape[1])
    )


def check_probabilities(y: Any, column: TextColumn, classes: np.ndarray, name: str = "y") -> np.ndarray:
    """Read the probabilities of classes, (n_rows, n_classes) float64, in the order of the classes."""
    y = as_pandas(y)
    check_consistent_length(column.texts, y)
    if isinstance(y, pd.DataFrame):
        names = y.columns.tolist()
        if sorted(map(str, names)) != sorted(map(str, classes.tolist())):
            raise ValueError(f"{name} has the columns {names[:5]}, but the classes are {classes.tolist()[:5]}.")
        y = y[classes.tolist()]
    values = np.asarray(y, np.float64)
    if values.shape[1] != len(classes):
        raise ValueError(
            f"{name} has {values.shape[1]} columns of probabilities, but there are {len(classes)} classes."
        )
    return values / values.sum(axis=1, keepdims=True)


def most_likely(targets: np.ndarray) -> np.ndarray:
    """Return the numbers of classes, (n_rows,), from these or from probabilities, (n_rows, n_classes)."""
    return targets.argmax(axis=1) if targets.ndim == 2 else targets


def check_classes(classes: Any, form: str | None) -> np.ndarray:
    """Read all classes that `partial_fit` will ever see: sorted, those of an indicator in the order of its columns."""
    # As objects: an array of strings and numbers would make strings of all.
    classes = np.array(list(classes), object)
    if classes.ndim != 1 or pd.isna(classes).any():
        raise ValueError(f"classes must be a list of labels, none of them missing, got {classes.tolist()[:5]}.")
    if form == "indicator":
        return classes
    classes = np.unique(_infer_labels(classes, "classes")) if len(classes) else classes
    if form is None and len(classes) < 2:
        raise ValueError(f"classes must have at least 2 labels to tell apart, got {classes.tolist()}.")
    return classes


def multilabel_form(y: Any) -> str | None:
    """Return how y gives several labels per row: "indicator" (two dimensions), "lists", or None for one per row."""
    y = as_pandas(y)
    if getattr(y, "ndim", 1) == 2:
        return "indicator" if y.shape[1] > 1 else None
    if isinstance(y, str | bytes) or y is None or not np.iterable(y):
        return None
    if not any(isinstance(row, LABELS) for row in y):
        return None
    is_table = isinstance(y, list | tuple) and all(isinstance(row, list | tuple | np.ndarray) for row in y)
    lengths = {len(row) for row in y} if is_table else set()
    if len(lengths) != 1 or min(lengths) < 2:
        return "lists"
    values = [value for row in y for value in row]
    numbers = all(isinstance(value, bool | int | float | np.number) for value in values)
    return "indicator" if numbers and set(values) <= {0, 1} else "lists"


def _label_lists(y: Any, column: TextColumn, name: str) -> list[list]:
    index = y.index if isinstance(y, pd.Series) else None
    check_consistent_length(column.texts, y)
    labels: Any
    label: Any
    for i, labels in enumerate(y):
        where = f"{name}, {name_row(i, index)}"
        if not isinstance(labels, LABELS):
            raise ValueError(f"{where}: {labels!r} is not a list of labels, as other rows have.")
        for label in labels:
            missing = pd.api.types.is_scalar(label) and pd.isna(label)
            if not pd.api.types.is_hashable(label):
                raise TypeError(
                    f"{where}: the label {label!r:.60} is a {type(label).__name__}; labels must be hashable."
                )
            if missing:
                raise ValueError(f"{where}: {label} is not a label (NaN or missing). Leave it out of its list.")
    return [[str(label) if isinstance(label, str) else label for label in labels] for labels in y]


def find_labels(y: Any, column: TextColumn, form: str) -> np.ndarray:
    """Return the labels of a y with several per row: the columns of an indicator, or those of all lists, sorted."""
    y = as_pandas(y)
    if form == "indicator":
        if isinstance(y, pd.DataFrame):
            return np.array(y.columns.tolist(), object)
        return np.arange(np.shape(y)[1])
    labels = {label for row in _label_lists(y, column, "y") for label in row}
    if not labels:
        raise ValueError("y has no label in any row.")
    return np.unique(_infer_labels(np.array(list(labels), object)))


def check_multilabel(y: Any, column: TextColumn, classes: np.ndarray, form: str, name: str = "y") -> np.ndarray:
    """Read several labels per row as a matrix of 0 and 1, (n_rows, n_classes) float64; errors name the row."""
    y = as_pandas(y)
    index = y.index if isinstance(y, pd.Series | pd.DataFrame) else None
    check_consistent_length(column.texts, y)
    if form == "indicator":
        values = y.toarray() if sparse.issparse(y) else np.asarray(y)
        if values.dtype == object:
            values = np.where(pd.isna(values), np.nan, values)  # with pandas' NA nothing can be compared
        if values.ndim != 2 or values.shape[1] != len(classes):
            raise ValueError(f"{name} has shape {values.shape}, but {len(classes)} columns of labels are needed.")
        named = isinstance(y, pd.DataFrame) and classes.dtype == object
        if named and y.columns.tolist() != classes.tolist():
            raise ValueError(
                f"{name} has the columns {y.columns.tolist()[:5]}, but the labels are {classes.tolist()[:5]}, in this "
                f"order."
            )
        bad = np.argwhere(~np.isin(values, [0, 1]))
        if len(bad):
            row, label = bad[0]
            raise ValueError(
                f"{name}, {name_row(row, index)}: {values[row, label]} for the label {classes.tolist()[label]!r} is "
                f"neither 0 nor 1."
            )
        return values.astype(np.float64)
    place = {label: i for i, label in enumerate(classes.tolist())}
    targets = np.zeros((len(column.texts), len(classes)))
    for i, labels in enumerate(_label_lists(y, column, name)):
        unknown = [label for label in labels if label not in place]
        if unknown:
            raise ValueError(
                f"{name}, {name_row(i, index)}: the label {unknown[0]!r} is not one of those that fit was given."
            )
        targets[i, [place[label] for label in labels]] = 1
    return targets


def check_class_weight(
    class_weight: dict | str | None, classes: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None
) -> np.ndarray:
    """Return the weights of the classes, as scikit-learn computes them; 1 for those that no row of a weight has."""
    if class_weight == "balanced":
        counts = np.bincount(np.searchsorted(classes, y), sample_weight, len(classes))
        used = counts > 0
        return np.where(used, counts.sum() / (max(used.sum(), 1) * np.where(used, counts, 1.0)), 1.0)
    weights = compute_class_weight(class_weight, classes=classes, y=y)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"class_weight must give finite weights that are not negative, got {class_weight}.")
    return weights


def _infer_labels(y: np.ndarray, name: str = "y") -> np.ndarray:
    """Give labels that came as objects their own dtype; strings stay objects."""
    types = set(map(type, y))
    if len(types) > 1 and not all(issubclass(t, int | float | np.number) for t in types):
        names = " and ".join(sorted(t.__name__ for t in types))
        raise TypeError(
            f"{name} holds labels of several types ({names}), which cannot be sorted. Make all of them strings: "
            f"y.astype(str)."
        )
    return y if str in types else np.array(y.tolist())
