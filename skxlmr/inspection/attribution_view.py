"""Words coloured by what they contribute to a prediction."""

from __future__ import annotations

from typing import Any

import numpy as np

from skxlmr.inspection.attributions import Explained, explain
from skxlmr.inspection.html import MARK, QUIET, STRONG, Html, Mark, View, element, marked_text, rgba

FOR, AGAINST = (0, 114, 178), (213, 94, 0)  # blue and orange, which most colour-blind people can tell apart
DARKEST = 0.6
LEAST_SHADE = 0.1  # share of the largest attribution of a text; words below it are not coloured
WORDS_IN_TEXT = 5


class AttributionView(View):
    """Texts whose words are coloured by their attributions; `show_attributions` makes it.

    Attributes
    ----------
    attributions : list of DataFrame
        What `token_attributions` returns.
    targets : list
        The class of each row that was explained; for a regressor the number of the output.
    """

    def __init__(self, explained: Explained) -> None:
        self._explained = explained
        self.attributions = explained.attributions
        self.targets = explained.targets

    def __len__(self) -> int:
        return len(self._explained.texts)

    def _legend(self) -> list[Html]:
        parts = ["for the prediction", "against it"]
        if self._explained.most_probable is not None:
            parts = ["for the class", "against it"]
        marks = [element("mark", part, style=_style(sign)) for part, sign in zip(parts, (1.0, -1.0), strict=True)]
        note = element("span", "darkest: the largest of each text", style=QUIET)
        return [marks[0], Html(" "), marks[1], Html(" "), note]

    def _row_html(self, row: int) -> Html:
        name, value, note = self._prediction(row)
        heading = element("div", element("bdi", name, style=STRONG), f" {value}", element("span", note, style=QUIET))
        return Html(heading + marked_text(self._explained.texts[row], self._marks(row), f"row {row}"))

    def _row_text(self, row: int) -> str:
        name, value, note = self._prediction(row)
        words = self.attributions[row]
        largest = words.loc[words.attribution.abs().sort_values(ascending=False, kind="stable").index[:WORDS_IN_TEXT]]
        listed = [f"{word} {value:+.2f}" for word, value in zip(largest.word, largest.attribution, strict=True)]
        return f"{row}: {name} {value}{note}: {', '.join(listed)}"

    def _prediction(self, row: int) -> tuple[str, str, str]:
        """Return the target of a row, its probability or number, and what is predicted if it is something else."""
        explained, target = self._explained, self.targets[row]
        value = explained.predictions[row]
        if explained.most_probable is None:
            return "prediction" if target == 0 else f"output {target}", f"{value:.4g}", ""
        predicted = explained.most_probable[row]
        return str(target), f"{value:.3f}", "" if predicted == target else f" (most probable: {predicted})"

    def _marks(self, row: int) -> list[Mark]:
        words = self.attributions[row]
        largest = np.abs(words.attribution).max()
        share = words.attribution / largest if largest > 0 else words.attribution
        columns: Any = zip(words.start, words.end, words.attribution, share, strict=True)
        return [
            Mark(start, end, _style(part), title=f"{value:+.3f}")
            for start, end, value, part in columns
            if abs(part) >= LEAST_SHADE
        ]


def _style(share: float) -> str:
    """Return the style of a word; its line says whether it is for or against, where colours cannot be seen."""
    color, line = (FOR, "solid") if share > 0 else (AGAINST, "dashed")
    return f"{MARK};background:{rgba(color, DARKEST * abs(share))};border-bottom:2px {line} {rgba(color, abs(share))}"


def show_attributions(clf: Any, X: Any, target: Any = None) -> AttributionView:
    """Show texts with words coloured by how much they speak for a class, as `token_attributions` computes it.

    Parameters
    ----------
    clf : fitted classifier or regressor
    X : text column of shape (n_samples,)
    target : label, or array-like of shape (n_samples,), default=None
        The class that is explained; None is the most probable class of each row.

    Returns
    -------
    AttributionView
        Rendered by notebooks; `to_html()` returns its HTML. Blue words speak for the class, orange ones against it.

    Examples
    --------
    >>> from skxlmr import XLMRXLClassifier
    >>> from skxlmr.inspection import show_attributions
    >>> texts, labels = ["a lovely film", "a dull film"] * 8, ["good", "bad"] * 8
    >>> clf = XLMRXLClassifier("nano", learning_rate=5e-3, random_state=0).fit(texts, labels)
    >>> view = show_attributions(clf, ["what a lovely film"])
    >>> view.targets
    ['good']
    """
    return AttributionView(explain(clf, X, target))
