"""The course of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from typing_extensions import Self

from skxlmr.inspection.arguments import check_fitted, steps_of
from skxlmr.inspection.axes import import_pyplot, make_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PANELS = {  # title of each panel: its columns of history_ and their line styles
    "Loss": {"loss": "-", "validation_loss": "--"},
    "Validation score": {"validation_score": "-"},
    "Learning rate": {"learning_rate": "-"},
}
NAMES = {"loss": "training", "validation_loss": "validation"}


class TrainingCurveDisplay:
    """Show loss, validation score and learning rate of each epoch.

    Use `from_estimator` to create one.

    Parameters
    ----------
    histories : dict of str to DataFrame
        Name of each fit, and its `history_`: one row per epoch, with the columns epoch, loss and learning_rate, and
        with validation_score and validation_loss if there were validation rows.

    Attributes
    ----------
    ax_ : Axes
        The first panel, that of the loss.
    axes_ : list of Axes
        All panels: the loss, the validation score if there is one, the learning rate.
    figure_ : Figure
    lines_ : dict of str to list of Line2D
        The lines of each fit.

    See Also
    --------
    sklearn.model_selection.LearningCurveDisplay : Scores by the number of training rows.

    Examples
    --------
    >>> from skxlmr import XLMRXLClassifier
    >>> from skxlmr.inspection import TrainingCurveDisplay
    >>> texts, labels = ["good", "great", "bad", "awful"] * 4, ["yes", "yes", "no", "no"] * 4
    >>> clf = XLMRXLClassifier("nano", max_epochs=2, random_state=0).fit(texts, labels, X_val=texts, y_val=labels)
    >>> display = TrainingCurveDisplay.from_estimator(clf)
    >>> [ax.get_title() for ax in display.axes_]
    ['Loss', 'Validation score', 'Learning rate']
    """

    ax_: Axes
    axes_: list[Axes]
    figure_: Figure
    lines_: dict[str, list[Line2D]]

    def __init__(self, histories: Mapping[str, pd.DataFrame]) -> None:
        self.histories = dict(histories)

    @classmethod
    def from_estimator(cls, estimator: Any, *, name: str | None = None, ax: Any = None) -> Self:
        """Draw the training of a fitted estimator, or of several.

        Parameters
        ----------
        estimator : estimator, list of estimators, or dict of str to estimator
            Fitted; the keys of a dict are the names in the legend. Of a pipeline the step that was trained is shown, of
            a search its best estimator.
        name : str, default=None
            Name of a single estimator in the legend; None is its class.
        ax : Axes or sequence of Axes, default=None
            An Axes whose place is divided among the panels, or one Axes for each panel. None makes a new figure.

        Returns
        -------
        TrainingCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If an estimator is not fitted.
        TypeError, ValueError
            If an estimator has no history, as an embedder without an objective, or a model that was not trained here.
        """
        return cls({key: _history(one, where) for key, one, where in _named(estimator, name)}).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the curves.

        The epoch 0 is the model that training started from, if the fit has computed its validation score.

        Parameters
        ----------
        ax : Axes or sequence of Axes, default=None
            As in `from_estimator`.

        Returns
        -------
        TrainingCurveDisplay
        """
        import_pyplot(type(self).__name__)
        from matplotlib.ticker import MaxNLocator

        shown = {
            title: styles
            for title, styles in PANELS.items()
            if any(column in history for history in self.histories.values() for column in styles)
        }
        self.figure_, self.axes_ = make_panels(ax, len(shown), type(self).__name__, size=(3.6, 3.2))
        self.ax_, self.lines_ = self.axes_[0], {key: [] for key in self.histories}
        several = len(self.histories) > 1
        for panel, (title, styles) in zip(self.axes_, shown.items(), strict=True):
            for number, (key, history) in enumerate(self.histories.items()):
                for column, style in styles.items():
                    if column not in history:
                        continue
                    parts = [key] if several else []
                    parts += [NAMES[column]] if column in NAMES else []
                    points = history[["epoch", column]].dropna()
                    color = f"C{number if several else int(style != '-')}"
                    label = ", ".join(parts) or None
                    self.lines_[key] += panel.plot(
                        points["epoch"], points[column], style, marker="o", markersize=3.5, color=color, label=label
                    )
            panel.set(title=title, xlabel="Epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.grid(alpha=0.3)
            if several or title == "Loss":
                panel.legend(fontsize="small")
        return self


def _named(estimator: Any, name: str | None) -> list[tuple[str, Any, str]]:
    """Return name, estimator and what messages call it, for one estimator or several."""
    if isinstance(estimator, Mapping):
        found = [(str(key), one, f"estimator[{key!r}]") for key, one in estimator.items()]
    elif isinstance(estimator, Sequence) and not isinstance(estimator, str):
        found = [(f"fit {i + 1}", one, f"estimator[{i}]") for i, one in enumerate(estimator)]
    else:
        return [(type(estimator).__name__ if name is None else name, estimator, "estimator")]
    if not found:
        raise ValueError("estimator is empty: give one fitted estimator at least.")
    if name is not None:
        raise ValueError("name is for a single estimator. For several, give a dict of name and estimator.")
    return found


def _history(estimator: Any, where: str) -> pd.DataFrame:
    """Return the history of a fit, after the scores of the start as epoch 0."""
    check_fitted(estimator, "get_params", where)
    trained = [step for step in steps_of(estimator) if hasattr(step, "history_")]
    if not trained:
        raise TypeError(
            f"{where} has no history_: this {type(estimator).__name__} was not trained in epochs. An XLMRXLEmbedder is "
            f"trained if it has an objective."
        )
    history, start = trained[-1].history_, getattr(trained[-1], "start_metrics_", None)
    if not len(history):
        raise ValueError(f"{where} has an empty history_: its weights were loaded, not trained here. Call fit.")
    history = history[[column for styles in PANELS.values() for column in styles if column in history]].assign(
        epoch=history["epoch"]
    )
    if start is None:
        return history
    # Not the loss: that of the start is without dropout, and those of the epochs are with it.
    of_start = {column: value for column, value in start.items() if column in history and column != "loss"}
    if not of_start:
        return history
    return pd.concat([pd.DataFrame([{"epoch": 0, **of_start}]), history], ignore_index=True)
