"""Reliability diagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from typing_extensions import Self

from skxlmr.columns import TextColumn, warn_of_other_order
from skxlmr.inspection.arguments import check_fitted
from skxlmr.inspection.axes import make_panels
from skxlmr.inspection.calibration import calibration_table, expected_calibration_error
from skxlmr.inspection.predictions import Comparison, Outputs, run_classifier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


class ReliabilityDisplay:
    """Show how often predictions of some confidence are right, for any number of classes.

    `sklearn.calibration.CalibrationDisplay` takes two classes. Here the confidence is the highest probability of each
    row, and an event is that its class is the true one; or the probability of one class, `pos_label`. The lower panel
    shows how many rows are in each bin. Use `from_estimator` or `from_predictions` to create one.

    Parameters
    ----------
    table : DataFrame
        One row per bin: its ends lower and upper, the number n of its values, and the means of their confidence and
        accuracy.
    name : str, default=None
        Name in the legend.
    pos_label : object, default=None
        The class whose probabilities they are; None if they are those of the most probable class.

    Attributes
    ----------
    ax_ : Axes
        The diagram.
    axes_ : list of Axes
        The diagram, and the counts below it. Pass them as `ax` to draw another classifier into the same picture.
    figure_ : Figure
    line_ : Line2D
    expected_calibration_error : float
        Mean distance of confidence and accuracy, weighted by the counts of the bins (arXiv:1706.04599).

    See Also
    --------
    sklearn.calibration.CalibratedClassifierCV : Probabilities that are calibrated on further rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skxlmr.inspection import ReliabilityDisplay
    >>> y_true = ["a", "b", "c", "c"]
    >>> y_proba = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.7, 0.1, 0.2], [0.1, 0.2, 0.7]])
    >>> display = ReliabilityDisplay.from_predictions(y_true, y_proba, classes=["a", "b", "c"], n_bins=5)
    >>> display.table.round(2)
       lower  upper  n  confidence  accuracy
    0    0.6    0.8  2         0.7       0.5
    1    0.8    1.0  2         0.9       1.0
    >>> round(display.expected_calibration_error, 2)
    0.15
    """

    ax_: Axes
    axes_: list[Axes]
    figure_: Figure
    line_: Line2D

    def __init__(self, table: pd.DataFrame, *, name: str | None = None, pos_label: Any = None) -> None:
        self.table = table
        self.name = name
        self.pos_label = pos_label
        self.expected_calibration_error = expected_calibration_error(table)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        n_bins: int = 10,
        strategy: str = "uniform",
        pos_label: Any = None,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the diagram of a fitted classifier.

        Parameters
        ----------
        estimator : classifier
            Fitted, with `predict_proba`: of skxlmr or of scikit-learn, a pipeline or a search.
        X : text column of shape (n_samples,), or what the estimator takes
        y : array-like of shape (n_samples,)
            True labels; with several labels per row as `fit` takes them.
        n_bins, strategy, pos_label
            As in `from_predictions`.
        name : str, default=None
            Name in the legend; None is the class of the estimator.
        ax : Axes or sequence of Axes, default=None
            As in `from_predictions`.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        TypeError, ValueError
            If the estimator has no `predict_proba`, or as `from_predictions`.
        """
        check_fitted(estimator, "predict_proba")
        warn_of_other_order(X, y)
        outputs = run_classifier(estimator, X)
        name = type(estimator).__name__ if name is None else name
        return cls._compare(outputs, y, "y", n_bins, strategy, pos_label, name).plot(ax=ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_proba: Any,
        *,
        classes: Any = None,
        n_bins: int = 10,
        strategy: str = "uniform",
        pos_label: Any = None,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the diagram of probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,), or indicator of shape (n_samples, n_classes)
            True labels; an indicator of 0 and 1 if there are several per row: then the probability of each label of
            each row counts as one value.
        y_proba : array-like of shape (n_samples, n_classes), or of shape (n_samples,)
            What `predict_proba` returned; of two classes also the probabilities of the second one alone.
        classes : array-like of shape (n_classes,), default=None
            The classes in the order of the columns, `classes_` of a classifier. None are the labels of y_true, sorted.
        n_bins : int, default=10
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width, or with equal numbers of rows.
        pos_label : object, default=None
            Show the probabilities of this class alone. None shows those of the most probable class of each row.
        name : str, default=None
            Name in the legend.
        ax : Axes or sequence of Axes, default=None
            An Axes whose place is divided, or two Axes, for the diagram and for the counts. None makes a new figure.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            If lengths differ, probabilities are not from 0 to 1, or an argument has another value than these.
        """
        try:
            table = np.asarray(y_proba, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"y_proba must be an array of probabilities: {error}.") from error
        table = np.stack([1 - table, table], axis=1) if table.ndim == 1 else table
        if table.ndim != 2 or not ((table >= 0) & (table <= 1 + 1e-6)).all():
            raise ValueError(
                "y_proba must have a probability from 0 to 1 for each row and class, (n_samples, n_classes), as "
                "predict_proba returns it."
            )
        true = np.asarray(y_true)
        several = true.ndim == 2 and true.shape[1] > 1
        if classes is None:
            classes = np.arange(table.shape[1]) if several else np.unique(true)
        classes = np.asarray(classes)
        if len(classes) != table.shape[1]:
            raise ValueError(
                f"classes has {len(classes)} labels, but y_proba {table.shape[1]} columns. Pass classes=, the classes_ "
                f"of the classifier."
            )
        if len(true) != len(table):
            raise ValueError(f"y_true has {len(true)} rows, but y_proba {len(table)}.")
        outputs = Outputs(table > 0.5 if several else classes[table.argmax(axis=1)], table, classes, None)
        outputs = Outputs(outputs.labels, table, classes, "indicator") if several else outputs
        return cls._compare(outputs, true, "y_true", n_bins, strategy, pos_label, name).plot(ax=ax)

    @classmethod
    def _compare(
        cls, outputs: Outputs, y: Any, what: str, n_bins: int, strategy: str, pos_label: Any, name: str | None
    ) -> Self:
        """Compare probabilities with true labels, which messages call `what`."""
        rows = TextColumn([""] * len(outputs.labels), None, None, 1)
        compared = Comparison.of(outputs, y, rows, what)
        values = compared.confidence
        assert values is not None
        assert compared.probabilities is not None
        if pos_label is not None:
            if pos_label not in outputs.classes.tolist():
                raise ValueError(f"pos_label={pos_label!r} is not one of the classes {outputs.classes.tolist()[:10]}.")
            number = compared.classes.index(pos_label)
            true = compared.true[:, number] if compared.is_multilabel else compared.true == number
            values = compared.probabilities[:, number], true
        return cls(calibration_table(*values, n_bins, strategy), name=name, pos_label=pos_label)

    def plot(self, *, name: str | None = None, ax: Any = None) -> Self:
        """Draw the diagram.

        Parameters
        ----------
        name : str, default=None
            Name in the legend; None is that of the display.
        ax : Axes or sequence of Axes, default=None
            As in `from_predictions`.

        Returns
        -------
        ReliabilityDisplay
        """
        self.figure_, self.axes_ = make_panels(
            ax, 2, type(self).__name__, n_cols=1, size=(4.2, 2.5), heights=(3, 1), sharex=True
        )
        self.ax_, counts = self.axes_
        name = self.name if name is None else name
        error = f"error {self.expected_calibration_error:.3f}"
        label = error if name is None else f"{name} ({error})"
        if not any(line.get_label() == "calibrated" for line in self.ax_.lines):
            self.ax_.plot([0, 1], [0, 1], ":", color="black", label="calibrated")
        table = self.table
        (self.line_,) = self.ax_.plot(table["confidence"], table["accuracy"], "o-", markersize=4.5, label=label)
        widths = table["upper"] - table["lower"]
        counts.bar(table["lower"], table["n"], widths, align="edge", alpha=0.5, color=self.line_.get_color())
        if self.pos_label is None:
            what, happens = "Confidence", "Accuracy"
        else:
            what, happens = f"Probability of {self.pos_label}", f"Share of {self.pos_label}"
        self.ax_.set(ylabel=happens, ylim=(-0.03, 1.03), xlim=(-0.03, 1.03))
        self.ax_.tick_params(labelbottom=False)
        self.ax_.legend(loc="upper left", fontsize="small")
        self.ax_.grid(alpha=0.3)
        counts.set(xlabel=what, ylabel="Rows", xlim=(-0.03, 1.03))
        return self
