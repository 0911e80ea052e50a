"""Confusion matrices of several groups, such as languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score
from sklearn.utils.multiclass import unique_labels
from typing_extensions import Self

from skxlmr.columns import warn_of_other_order
from skxlmr.inspection.arguments import check_choice, check_count, check_fitted, check_groups, rows_by
from skxlmr.inspection.axes import make_panels
from skxlmr.inspection.predictions import check_same_kind
from skxlmr.inspection.tables import count_confusion
from skxlmr.tasks.label_values import check_single
from skxlmr.tasks.targets import read_target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORMALIZATIONS = ("true", "pred", "all", None)


class LanguageConfusionDisplay:
    """Show a confusion matrix for each group of rows, such as each language, all with one scale of colours.

    Use `from_estimator` or `from_predictions` to create one.

    Parameters
    ----------
    confusion_matrices : dict of object to ndarray of shape (n_classes, n_classes)
        The matrix of each group; rows are true classes, columns predicted ones.
    display_labels : sequence of shape (n_classes,), default=None
        Names of the classes; None numbers them.
    normalize : {"true", "pred", "all"} or None, default=None
        What the matrices were divided by: values are then shares, and the scale of colours goes from 0 to 1.
    titles : dict of object to str, default=None
        Titles of the matrices; None are the names of the groups.

    Attributes
    ----------
    ax_ : Axes
        The first matrix.
    axes_ : list of Axes
        All matrices, in the order of the groups.
    figure_ : Figure
    displays_ : list of sklearn.metrics.ConfusionMatrixDisplay

    See Also
    --------
    sklearn.metrics.ConfusionMatrixDisplay : One matrix of all rows.
    report : Scores of each group.

    Examples
    --------
    >>> from skxlmr.inspection import LanguageConfusionDisplay
    >>> y_true, y_pred = ["good", "bad", "good", "bad"], ["good", "bad", "bad", "bad"]
    >>> display = LanguageConfusionDisplay.from_predictions(y_true, y_pred, groups=["en", "en", "zh", "zh"])
    >>> display.confusion_matrices["zh"].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    >>> [ax.get_title() for ax in display.axes_]
    ['en\\naccuracy 1.00, n = 2', 'zh\\naccuracy 0.50, n = 2']
    """

    ax_: Axes
    axes_: list[Axes]
    figure_: Figure
    displays_: list[ConfusionMatrixDisplay]

    def __init__(
        self,
        confusion_matrices: Mapping[Any, np.ndarray],
        *,
        display_labels: Sequence[Any] | np.ndarray | None = None,
        normalize: str | None = None,
        titles: Mapping[Any, str] | None = None,
    ) -> None:
        self.confusion_matrices = dict(confusion_matrices)
        self.display_labels = display_labels
        self.normalize = normalize
        self.titles = titles

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        groups: Any = None,
        labels: Any = None,
        display_labels: Sequence[Any] | None = None,
        normalize: str | None = "true",
        cmap: Any = "Blues",
        n_cols: int | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the matrices of a fitted classifier.

        Parameters
        ----------
        estimator : classifier
            Fitted; any classifier of scikit-learn, a pipeline or a search.
        X : text column of shape (n_samples,), or what the estimator takes
        y : array-like of shape (n_samples,)
            One true label per row.
        groups, labels, display_labels, normalize, cmap, n_cols, ax
            As in `from_predictions`.

        Returns
        -------
        LanguageConfusionDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        TypeError, ValueError
            As `from_predictions`.
        """
        check_fitted(estimator, "predict")
        true = _one_label(y, "y")
        for name, values in (("y", y), ("groups", groups)):
            warn_of_other_order(X, values, name)
        check_groups(groups, len(true), rows_of="y")  # before minutes of predictions
        display = cls._compare(
            true,
            estimator.predict(X),
            groups,
            labels,
            display_labels,
            normalize,
            names=("y", "the predictions of estimator"),
        )
        return display.plot(cmap=cmap, n_cols=n_cols, ax=ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        *,
        groups: Any = None,
        labels: Any = None,
        display_labels: Sequence[Any] | None = None,
        normalize: str | None = "true",
        cmap: Any = "Blues",
        n_cols: int | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the matrices of predictions.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n_samples,)
            One true and one predicted label per row.
        groups : array-like of shape (n_samples,), default=None
            The group of each row, such as its language; missing values are the group "(missing)". None makes one matrix
            of all rows.
        labels : array-like of shape (n_classes,), default=None
            The classes to show, in this order. None shows all that occur, sorted; they are the same in each matrix.
        display_labels : sequence of shape (n_classes,), default=None
            Names of the classes in the picture; None are the classes.
        normalize : {"true", "pred", "all"} or None, default="true"
            Show shares of the true class (rows), of the predicted class (columns) or of all rows of the group; None
            shows counts.
        cmap : str or Colormap, default="Blues"
        n_cols : int, default=None
            Matrices side by side; None is 4 at most.
        ax : Axes or sequence of Axes, default=None
            An Axes whose place is divided among the matrices, or one Axes for each group. None makes a new figure.

        Returns
        -------
        LanguageConfusionDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            If lengths differ, there are several labels per row, or an argument has another value than these.
        """
        display = cls._compare(y_true, y_pred, groups, labels, display_labels, normalize, names=("y_true", "y_pred"))
        return display.plot(cmap=cmap, n_cols=n_cols, ax=ax)

    @classmethod
    def _compare(
        cls,
        y_true: Any,
        y_pred: Any,
        groups: Any,
        labels: Any,
        display_labels: Sequence[Any] | None,
        normalize: str | None,
        names: tuple[str, str],
    ) -> Self:
        """Compute the matrices; `names` are what messages call the first two arguments."""
        check_choice(normalize, NORMALIZATIONS, "normalize")
        true, predicted = _one_label(y_true, names[0]), _one_label(y_pred, names[1])
        if len(true) != len(predicted):
            raise ValueError(f"{names[0]} has {len(true)} labels, but {names[1]} {len(predicted)}.")
        check_same_kind(true, predicted, names)
        of_row = check_groups(groups, len(true), rows_of=names[0])
        parts = {"all rows": np.arange(len(true))} if of_row is None else rows_by(of_row)
        classes = unique_labels(true, predicted) if labels is None else np.asarray(labels)
        if display_labels is not None and len(display_labels) != len(classes):
            raise ValueError(f"display_labels has {len(display_labels)} names for {len(classes)} classes.")
        matrices, titles = {}, {}
        for group, rows in parts.items():
            if not np.isin(true[rows], classes).any():
                raise ValueError(f"labels has none of the labels of group {group!r}.")
            matrices[group] = count_confusion(true[rows], predicted[rows], classes, normalize)
            titles[group] = f"{group}\naccuracy {accuracy_score(true[rows], predicted[rows]):.2f}, n = {len(rows):,}"
        shown = classes if display_labels is None else display_labels
        return cls(matrices, display_labels=shown, normalize=normalize, titles=titles)

    def plot(
        self,
        *,
        cmap: Any = "Blues",
        values_format: str | None = None,
        xticks_rotation: str | float = "horizontal",
        colorbar: bool = True,
        n_cols: int | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the matrices.

        Parameters
        ----------
        cmap : str or Colormap, default="Blues"
        values_format : str, default=None
            Format of the numbers; None is ".2f" for shares and "d" for counts.
        xticks_rotation : {"horizontal", "vertical"} or float, default="horizontal"
        colorbar : bool, default=True
            Draw the scale of colours, one for all matrices.
        n_cols, ax
            As in `from_predictions`.

        Returns
        -------
        LanguageConfusionDisplay
        """
        if n_cols is not None:
            check_count(n_cols, "n_cols")
        n = len(self.confusion_matrices)
        figure, axes = make_panels(ax, n, type(self).__name__, n_cols=4 if n_cols is None else n_cols, size=(3.8, 3.4))
        highest = 1.0 if self.normalize else max(max(m.max() for m in self.confusion_matrices.values()), 1)
        self.figure_, self.axes_, self.ax_, self.displays_ = figure, axes, axes[0], []
        for panel, (group, matrix) in zip(axes, self.confusion_matrices.items(), strict=True):
            display = ConfusionMatrixDisplay(matrix, display_labels=self.display_labels)
            display.plot(
                ax=panel,
                cmap=cmap,
                colorbar=False,
                values_format=values_format or (".2f" if self.normalize else "d"),
                xticks_rotation=xticks_rotation,
                im_kw={"vmin": 0, "vmax": highest},
            )
            for value, text in zip(matrix.ravel(), display.text_.ravel(), strict=True):  # by the scale of all matrices
                text.set_color(display.im_.cmap(0.0 if value > highest / 2 else 1.0))
            panel.set_title(str(group) if self.titles is None else self.titles[group], fontsize="medium")
            panel.label_outer(remove_inner_ticks=False)
            self.displays_.append(display)
        if colorbar:
            label = {"true": "share of the true class", "pred": "share of the predicted class", "all": "share of rows"}
            figure.colorbar(self.displays_[0].im_, ax=axes, label=label.get(self.normalize or "", "rows"))
        return self


def _one_label(y: Any, name: str) -> np.ndarray:
    """Return labels, (n_rows,); raises an error if there are several per row, or none."""
    target = read_target(y, None, name)
    if target.values.ndim != 1 or target.has_vectors:
        raise ValueError(
            f"{name} must have one label per row to make a confusion matrix, but has several. "
            f"skxlmr.inspection.report counts the errors of each label."
        )
    if not len(target.values):
        raise ValueError(f"{name} has no label: give one row at least.")
    return check_single(target)
