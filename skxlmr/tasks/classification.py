"""Classification: one class per row, or several labels per row."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from typing_extensions import Self

from skxlmr.columns import TextColumn, warn_of_same_texts
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.transfer import upload_one
from skxlmr.system.schema import one_of, shown, vector
from skxlmr.system.warn import warn
from skxlmr.tasks.base import not_found
from skxlmr.tasks.exports import Export, Serving, as_json_labels
from skxlmr.tasks.labels import read_labels
from skxlmr.tasks.pooled import PooledTask
from skxlmr.tasks.pretrained import check_length, labels_of
from skxlmr.tasks.probes import LinearStart, log_priors, logistic_start, one_vs_rest_start
from skxlmr.tasks.targets import refuse_y_as_text, warn_of_swapped, warn_of_y_in_other_words
from skxlmr.training.rows import Rows


@dataclass(frozen=True, eq=False)
class Classification(PooledTask):
    """Classes of texts: one per row, or several labels per row.

    Targets are numbers of classes, (n_rows,); probabilities of classes, (n_rows, n_classes); or, for several labels per
    row, a matrix of 0 and 1, (n_rows, n_classes). `form` says how y gives several labels per row: "indicator", "lists",
    or None for one class per row. `class_weights` are those of classes in the loss, (n_classes,), or of the negatives
    and the positives of each label, (2, n_classes); None for no weights.
    """

    label_smoothing: float = 0.0
    class_weight: dict | str | None = None
    classes: np.ndarray = field(default_factory=not_found)
    form: str | None = None
    class_weights: np.ndarray | None = None

    found: ClassVar[dict[str, str]] = PooledTask.found | {"classes_": "classes", "multilabel_": "form"}
    found_types: ClassVar[dict[str, Any]] = PooledTask.found_types | {
        "classes_": vector("biufUOmM", "labels"),
        "multilabel_": one_of("indicator", "lists") | None,
    }

    def check_found(self, n_features: int | None) -> None:
        super().check_found(n_features)
        check_distinct(self.classes)

    def find(self, y: Any, column: TextColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        labels, used = read_labels(y, column), np.flatnonzero(weights)
        labels.warn_of_column()
        classes = labels.classes(used)
        targets = labels.numbers(classes, unknown=0)  # of rows of weight zero
        task = replace(self, classes=classes, form=labels.form).weighted(targets, weights)
        if labels.form is not None:
            _refuse_same_labels(targets[used], classes)
        warn_of_similar_labels(classes)
        if labels.kind == "single":
            warn_of_joined_labels(classes)
            refuse_y_as_text(column, labels.values)
            warn_of_y_in_other_words(column, targets)
            warn_of_swapped(column, labels.values)
            used = np.unique(targets[weights * task.loss_weights(targets) > 0])
            if len(used) == 1:
                label = classes.tolist()[used[0]]
                raise ValueError(f"A classifier needs at least 2 classes to tell apart, but y has 1 class: {label!r}.")
            warn_of_same_texts(column.keys)
        return task, targets

    def of_outputs(self, config: XLMRobertaXLConfig, classes: list[Any] | None) -> tuple[Self, np.ndarray | None]:
        labels = labels_of(config) if classes is None else classes
        check_length(labels, "its classes")
        if config.problem_type == "multi_label_classification":
            return replace(self, classes=np.array(labels, object), form="indicator"), None
        order = np.argsort(labels)
        return replace(self, classes=np.array(labels)[order]), order

    def targets(self, y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
        return read_labels(y, column, name, form=self.form).numbers(self.classes)

    def targets_of_score(self, y: Any, column: TextColumn) -> np.ndarray:
        labels = read_labels(y, column, form=self.form)
        targets = labels.numbers(self.classes, unknown=-1)
        if (targets == -1).all():
            values = labels.values[0]
            warn(
                f"No row of y has a label that fit saw, so the score is the worst. y has {values!s:.60}, for example, "
                f"but the classes are such as {self.classes.tolist()[:3]}."
            )
        return targets

    def as_y(self, targets: np.ndarray) -> np.ndarray | None:
        if self.form == "indicator":
            return targets.astype(np.int64)
        return None if targets.ndim == 2 else self.classes[targets]

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
        return self.classes[most_likely(targets)] if self.form is None else None

    def continued(self, earlier: Self) -> Self:
        """As other tasks; but the columns of an indicator without names are those of the earlier fit."""
        unnamed = self.form == earlier.form == "indicator" and self.classes.dtype.kind == "i"
        if unnamed and len(self.classes) == len(earlier.classes):
            return super(Classification, replace(self, classes=earlier.classes)).continued(earlier)
        return super().continued(earlier)

    @property
    def n_outputs(self) -> int:
        return len(self.classes)

    def start_factor(self, targets: np.ndarray) -> float:
        """Return 0.1, the best of a study (benchmarks/NOTES.md), or 1 for probabilities, which separate no classes."""
        return 1.0 if self.form is None and targets.ndim == 2 else 0.1

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
            of_negatives, of_positives = upload_one(self.class_weights, outputs.device).to(outputs.dtype)
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

    @property
    def export(self) -> Export:
        return replace(super().export, classes=as_json_labels(self.classes))

    @property
    def serving(self) -> Serving:
        """Return the probabilities of the classes, as `predict_proba`."""
        several = self.form is not None
        entries = {"classes": as_json_labels(self.classes), "multilabel": several}
        finish = torch.sigmoid if several else partial(torch.softmax, dim=-1)
        return self.served("classification", "probabilities", finish, entries)


def check_distinct(classes: np.ndarray) -> None:
    """Raise a ValueError unless classes that were read from a file differ."""
    if len(set(classes.tolist())) < len(classes):
        raise ValueError(f"its classes are not distinct: {shown(classes.tolist())}")


def most_likely(targets: np.ndarray) -> np.ndarray:
    """Return the numbers of classes, (n_rows,), from these or from probabilities, (n_rows, n_classes)."""
    return targets.argmax(axis=1) if targets.ndim == 2 else targets


def _refuse_same_labels(targets: np.ndarray, classes: np.ndarray) -> None:
    """Raise a ValueError if all rows of a matrix of labels, of several, are the same."""
    if len(targets) > 1 and (targets == targets[0]).all():
        same = classes[targets[0] > 0].tolist()
        raise ValueError(
            f"All {len(targets)} rows of y have the same labels, {same[:5]}, so there is nothing to tell apart. If "
            f"each row has one label, give a text or a number, not a list."
        )


def warn_of_joined_labels(classes: np.ndarray) -> None:
    """Warn if a class such as "a,b" joins the names of others, as a CSV file holds several labels.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_of_joined_labels(np.array(["a,b", "b"]))
    >>> "y.str.split(',')" in str(caught[0].message)
    True
    """
    known = set(classes.tolist())
    for label in known if classes.dtype.kind in "OU" else ():
        for separator in ",;|":
            parts = [part.strip() for part in label.split(separator)] if isinstance(label, str) else []
            if len(parts) > 1 and known.intersection(parts):
                warn(
                    f"y has the class {label!r:.60}, which joins several names of classes, but is read as one class. "
                    f"If rows have several labels, split them: y.str.split({separator!r})."
                )
                return


def warn_of_similar_labels(classes: np.ndarray) -> None:
    """Warn if two labels differ only in white space, in case, or in how their characters are encoded.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_of_similar_labels(np.array(["neg", "pos", "pos "]))
    >>> "y.str.strip()" in str(caught[0].message)
    True
    """
    seen: dict[str, str] = {}
    for label in classes.tolist() if classes.dtype.kind in "OU" else ():
        if not isinstance(label, str):
            continue
        plain = unicodedata.normalize("NFC", " ".join(label.split()))
        earlier = seen.setdefault(plain.casefold() if len(plain) > 1 else plain, label)
        if earlier != label:
            warn(
                f"y has the classes {earlier!r:.40} and {label!r:.40}, which differ only in white space, in case or in "
                f"how characters are encoded, but are two classes. If they are one, y.str.strip(), y.str.lower() or "
                f"y.str.normalize('NFC') make them equal."
            )
            return


def check_class_weight(
    class_weight: dict | str | None, classes: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None
) -> np.ndarray:
    """Return the weights of the classes, as scikit-learn computes them; 1 for those that no row of a weight has."""
    if class_weight == "balanced":
        counts = np.bincount(np.searchsorted(classes, y), sample_weight, len(classes))
        used = counts > 0
        return np.where(used, counts.sum() / (max(used.sum(), 1) * np.where(used, counts, 1.0)), 1.0)
    if isinstance(class_weight, dict):
        known = classes.tolist()
        unknown = [label for label in class_weight if label not in known]
        unweighted = [label for label in known if label not in class_weight]
        if unknown and unweighted:
            raise ValueError(
                f"class_weight has {unknown[:5]}, which are not classes of y, and the classes {unweighted[:5]} are not "
                f"in class_weight. Its keys are the labels as y has them."
            )
        for label, weight in class_weight.items():
            if not isinstance(weight, Real):
                raise ValueError(f"class_weight must give numbers, but that of {label!r} is {weight!r:.40}.")
    weights = compute_class_weight(class_weight, classes=classes, y=y)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"class_weight must give finite weights that are not negative, got {class_weight}.")
    return weights
