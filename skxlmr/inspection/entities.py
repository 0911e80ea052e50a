"""Entities highlighted in their texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from skxlmr.columns import check_one_text
from skxlmr.inspection.arguments import check_fitted
from skxlmr.inspection.html import (
    MARK,
    NAME,
    QUIET,
    Html,
    Mark,
    View,
    bracketed_text,
    check_marks,
    colors_of,
    element,
    marked_text,
    rgba,
)
from skxlmr.tasks.tagging.sentences import check_token_column

SHADE = 0.3


class EntityView(View):
    """Texts with highlighted spans; `show_entities` makes it of predictions.

    Parameters
    ----------
    texts : text column of shape (n_samples,)
    spans : sequence of shape (n_samples,) of lists of (start, end, label)
        In characters; spans of one text must not overlap.

    Raises
    ------
    ValueError
        If spans overlap, are empty or not within their text; the message names the row.

    Examples
    --------
    >>> from skxlmr.inspection import EntityView
    >>> EntityView(["Ada lives in Rome."], [[(0, 3, "PER"), (13, 17, "LOC")]])
    0: [Ada PER] lives in [Rome LOC].
    """

    def __init__(self, texts: Any, spans: Sequence[Iterable[tuple[int, int, str]]]) -> None:
        self.texts = check_one_text(texts).texts
        if len(spans) != len(self.texts):
            raise ValueError(f"There are spans of {len(spans)} rows, but {len(self.texts)} texts.")
        labels = Counter(str(label) for of_text in spans for _, _, label in of_text)
        self._labels = {label: labels[label] for label in sorted(labels)}
        colors = colors_of(list(self._labels))
        self._styles = {label: f"{MARK};background:{rgba(color, SHADE)}" for label, color in colors.items()}
        self._marks = []
        for row, (text, of_text) in enumerate(zip(self.texts, spans, strict=True)):
            marks = [Mark(int(start), int(end), self._styles[str(label)], str(label)) for start, end, label in of_text]
            self._marks.append(check_marks(marks, text, f"row {row}"))

    def __len__(self) -> int:
        return len(self.texts)

    def to_displacy(self) -> list[dict[str, Any]]:
        """Return what ``spacy.displacy.render(..., style="ent", manual=True)`` takes.

        Returns
        -------
        list of dict
            For each text: text, ents (dicts of start, end and label), title.
        """
        return [
            {
                "text": text,
                "ents": [{"start": mark.start, "end": mark.end, "label": mark.name} for mark in marks],
                "title": None,
            }
            for text, marks in zip(self.texts, self._marks, strict=True)
        ]

    def _legend(self) -> list[Html]:
        legend = []
        for label, count in self._labels.items():
            name = element("bdi", label, style=NAME)
            legend += [element("mark", name, f" {count}", style=self._styles[label]), Html(" ")]
        return legend or [element("span", "no entities", style=QUIET)]

    def _row_html(self, row: int) -> Html:
        return marked_text(self.texts[row], self._marks[row])

    def _row_text(self, row: int) -> str:
        return f"{row}: {bracketed_text(self.texts[row], self._marks[row])}"


def show_entities(tagger: Any, X: Any) -> EntityView:
    """Show texts with the entities that a tagger finds in them.

    Parameters
    ----------
    tagger : fitted XLMRXLTagger
    X : column of strings or of token lists, of shape (n_samples,)
        Token lists are shown with spaces between the tokens.

    Returns
    -------
    EntityView
        Rendered by notebooks; `to_html()` returns its HTML, `to_displacy()` the spans in the format of spaCy. If the
        tags have no scheme, such as parts of speech, each token with another tag than O is shown.

    Raises
    ------
    TypeError
        If `tagger` has no `predict_spans`.
    NotFittedError
        If it is not fitted.

    Examples
    --------
    >>> from skxlmr import XLMRXLTagger
    >>> from skxlmr.inspection import show_entities
    >>> sentences = ["Ada lives in Rome", "Rome is old", "I saw Ada"] * 4
    >>> tags = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O", "O"], ["O", "O", "B-PER"]] * 4
    >>> tagger = XLMRXLTagger("nano", learning_rate=5e-3, random_state=0).fit(sentences, tags)
    >>> show_entities(tagger, ["Ada is old"])
    0: [Ada PER] is old
    """
    check_fitted(tagger, "predict_spans", "tagger")
    found = tagger.predict_spans(X)
    column = check_token_column(X, tokenizer=tagger.tokenizer)
    spans: list[list[tuple[int, int, str]]] = [[] for _ in column.texts]
    texts, begins = column.sources, None
    if texts is None:
        texts = [" ".join(tokens) for tokens in column.texts]
        begins = [_begins(tokens) for tokens in column.texts]
    for row, start, end, label in zip(found.row, found.start, found.end, found.label, strict=True):
        if begins is not None:  # the spans count tokens
            start, end = begins[row][start], begins[row][end - 1] + len(column.texts[row][end - 1])
        spans[row].append((start, end, label))
    return EntityView(texts, spans)


def _begins(tokens: Sequence[str]) -> list[int]:
    """Return where each token begins in the text of the tokens with spaces between them."""
    begins, position = [], 0
    for token in tokens:
        begins.append(position)
        position += len(token) + 1
    return begins
