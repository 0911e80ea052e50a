"""What classifiers predict, and the labels that this is compared with; each text is read by the model once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MultiLabelBinarizer
from typing_extensions import Self

from skxlmr.columns import TextColumn, as_objects
from skxlmr.estimators.classifier import XLMRXLClassifier
from skxlmr.inspection.arguments import distinct, unwrapped
from skxlmr.tasks.labels import read_labels

# The methods `predict` that return the most probable class of `predict_proba`, or the labels above 1/2.
FROM_PROBABILITIES = (XLMRXLClassifier.predict, CalibratedClassifierCV.predict)


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a classifier predicts of rows, as it returns it.

    Attributes
    ----------
    labels : ndarray of shape (n_rows,) or (n_rows, n_classes)
        What `predict` returns: a label per row, an indicator of 0 and 1, or tuples of labels.
    probabilities : ndarray of shape (n_rows, n_classes), or None
        None if the classifier has no `predict_proba`.
    classes : ndarray of shape (n_classes,)
    form : {"indicator", "lists"} or None
        How there are several labels per row; None if there is one.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    classes: np.ndarray
    form: str | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """True labels beside predicted ones, as numbers of classes.

    Attributes
    ----------
    classes : list
        All classes that the estimator knows or y has.
    true, predicted : ndarray of shape (n_rows,), or of shape (n_rows, n_classes) if there are several labels per row
        Numbers of classes; of several labels an indicator of 0 and 1.
    probabilities : ndarray of shape (n_rows, n_classes), or None
        0 for classes that the estimator does not know.
    """

    classes: list[Any]
    true: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None

    @property
    def is_multilabel(self) -> bool:
        """Whether there are several labels per row."""
        return self.true.ndim == 2

    @classmethod
    def of(cls, outputs: Outputs, y: Any, column: TextColumn, name: str = "y") -> Self:
        """Read y as the classifier returns labels; raises an error that names the row."""
        labels = read_labels(y, column, name, form=outputs.form)
        if labels.kind == "probabilities":
            raise ValueError(f"{name} has probabilities of classes, but labels are needed to compare predictions with.")
        known = outputs.classes.tolist()
        if labels.kind == "indicator":
            true, predicted = labels.numbers(outputs.classes).astype(np.int64), outputs.labels
            return cls(known, true, np.asarray(predicted, np.int64), outputs.probabilities)
        if labels.kind == "lists":
            seen = {label for row in labels.values for label in row}
        else:
            seen = set(labels.values.tolist())
            check_same_kind(labels.values, outputs.classes, (name, "the classes of estimator"))
        classes = distinct(seen | set(known))
        place = {label: i for i, label in enumerate(classes)}
        probabilities = outputs.probabilities
        if probabilities is not None:
            probabilities = np.zeros((len(column.texts), len(classes)), np.float64)
            probabilities[:, [place[label] for label in known]] = outputs.probabilities
        if labels.kind == "lists":
            binarizer = MultiLabelBinarizer(classes=as_objects(classes)).fit([])
            true, predicted = (binarizer.transform(rows) for rows in (labels.values, outputs.labels))
        else:
            true, predicted = (
                np.array([place[label] for label in rows.tolist()], np.int64)
                for rows in (labels.values, np.asarray(outputs.labels))
            )
        return cls(classes, true, predicted, probabilities)

    @property
    def right(self) -> np.ndarray:
        """Whether a row is predicted correctly, (n_rows,); of several labels all of them."""
        same = self.true == self.predicted
        return same if same.ndim == 1 else same.all(axis=1)

    @property
    def confidence(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Probabilities, and whether what they are of is true, (n,) each; None without probabilities.

        Of one label per row the probability of the predicted class; of several labels that of each label of each row.
        """
        if self.probabilities is None:
            return None
        if self.is_multilabel:
            return self.probabilities.ravel(), self.true.ravel()
        return self.probabilities[np.arange(len(self.predicted)), self.predicted], self.right.astype(np.int64)

    def take(self, rows: np.ndarray) -> Self:
        """Select rows."""
        probabilities = None if self.probabilities is None else self.probabilities[rows]
        return replace(self, true=self.true[rows], predicted=self.predicted[rows], probabilities=probabilities)


def run_classifier(estimator: Any, X: Any) -> Outputs:
    """Predict labels and probabilities of X.

    The first steps of a pipeline transform X once. `predict` is not called where its results follow from
    `predict_proba`.
    """
    estimator = unwrapped(estimator)
    while isinstance(estimator, Pipeline):
        if len(estimator.steps) > 1:
            X = estimator[:-1].transform(X)
        estimator = unwrapped(estimator.steps[-1][1])
    several = isinstance(estimator.classes_, list)  # one array of classes for each label
    classes = np.arange(len(estimator.classes_)) if several else np.asarray(estimator.classes_)
    probabilities = _stacked(estimator.predict_proba(X)) if hasattr(estimator, "predict_proba") else None
    form = estimator.multilabel_ if isinstance(estimator, XLMRXLClassifier) else None
    follows = any(type(estimator).predict is method for method in FROM_PROBABILITIES)
    if probabilities is not None and follows and form is not None:
        chosen = probabilities > 0.5
        labels = as_objects([tuple(classes[row].tolist()) for row in chosen])
        return Outputs(chosen.astype(np.int64) if form == "indicator" else labels, probabilities, classes, form)
    if probabilities is not None and follows:
        return Outputs(classes[probabilities.argmax(axis=1)], probabilities, classes, None)
    labels = np.asarray(estimator.predict(X))
    if labels.ndim == 2 and form is None:  # several labels per row, of an estimator of scikit-learn
        return Outputs(labels, probabilities, np.arange(labels.shape[1]), "indicator")
    return Outputs(labels, probabilities, classes, form)


def _stacked(probabilities: Any) -> np.ndarray:
    """Return a table of probabilities; some estimators return one for each label, with the columns "no" and "yes"."""
    if isinstance(probabilities, list):
        return np.stack([of_label[:, -1] for of_label in probabilities], axis=1)
    return np.asarray(probabilities)


def check_same_kind(one: np.ndarray, other: np.ndarray, names: tuple[str, str]) -> None:
    """Raise a ValueError if one has texts and the other numbers."""
    kinds = [{isinstance(value, str) for value in values.tolist()} for values in (one, other)]
    if len(one) and len(other) and kinds[0] != kinds[1]:
        raise ValueError(
            f"{names[0]} has labels such as {one.tolist()[0]!r}, but {names[1]} such as {other.tolist()[0]!r}: texts "
            f"and numbers are never equal."
        )
