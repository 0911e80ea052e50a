"""Answers highlighted in their contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skxlmr.inspection.arguments import check_fitted
from skxlmr.inspection.html import (
    MARK,
    QUIET,
    STRONG,
    TEXT,
    Html,
    Mark,
    View,
    bracketed_text,
    element,
    marked_text,
    rgba,
)
from skxlmr.tasks.questions import check_questions

COLOR, SHADE = (0, 158, 115), 0.35  # green
CHARACTERS_AROUND = 100  # of an answer, where no HTML is shown


@dataclass(frozen=True)
class Answer:
    """The best answer to a question: where it is in the context, its score, and whether it is predicted."""

    start: int
    end: int
    score: float
    no_answer_score: float
    is_answered: bool


class AnswerView(View):
    """Contexts with highlighted answers; `show_answers` makes it.

    An answer of None is one of which there is nothing to show, since the context is empty.
    """

    def __init__(self, questions: list[str], contexts: list[str], answers: list[Answer | None]) -> None:
        self._questions, self._contexts, self._answers = questions, contexts, answers

    def __len__(self) -> int:
        return len(self._questions)

    def _row_html(self, row: int) -> Html:
        answer, context = self._answers[row], self._contexts[row]
        score = element("bdi", self._score(row), style=QUIET)
        question = element(
            "div", element("span", self._questions[row], style=STRONG), " ", score, dir="auto", style=TEXT
        )
        return Html(question + marked_text(context, self._marks(answer), f"row {row}"))

    def _row_text(self, row: int) -> str:
        answer, context = self._answers[row], self._contexts[row]
        lines = [f"{row}: {self._questions[row]}", f"   {self._score(row)}"]
        if answer is not None and answer.is_answered:
            left, right = max(answer.start - CHARACTERS_AROUND, 0), answer.end + CHARACTERS_AROUND
            marks = [Mark(answer.start - left, answer.end - left, "")]
            part = bracketed_text(context[left:right], marks)
            lines.append(f"   {'...' if left else ''}{part}{'...' if right < len(context) else ''}")
        return "\n".join(lines)

    def _score(self, row: int) -> str:
        answer = self._answers[row]
        if answer is None:
            return "no answer"
        if not answer.is_answered:
            best = self._contexts[row][answer.start : answer.end]
            return f"no answer, {answer.no_answer_score:.3f}; best with {answer.score:.3f}: {best}"
        return f"score {answer.score:.3f}"

    def _marks(self, answer: Answer | None) -> list[Mark]:
        if answer is None or not answer.is_answered:
            return []
        style = f"{MARK};background:{rgba(COLOR, SHADE)}"
        return [Mark(answer.start, answer.end, style, title=f"{answer.score:.3f}")]


def show_answers(qa: Any, X: Any) -> AnswerView:
    """Show contexts with the answers that an estimator finds in them.

    Parameters
    ----------
    qa : fitted XLMRXLQA
    X : two columns, question and context

    Returns
    -------
    AnswerView
        Rendered by notebooks; `to_html()` returns its HTML. The scores are those of `predict_answers` with
        ``top_k=3``: probabilities among the best answers and "no answer".

    Raises
    ------
    TypeError
        If `qa` has no `predict_answers`.
    NotFittedError
        If it is not fitted.

    Examples
    --------
    >>> import pandas as pd
    >>> from skxlmr import XLMRXLQA
    >>> from skxlmr.inspection import show_answers
    >>> X = pd.DataFrame({"question": ["Who wrote it?"], "context": ["Ada wrote it."]})
    >>> qa = XLMRXLQA("nano", learning_rate=5e-3, random_state=0).fit(pd.concat([X] * 8), ["Ada"] * 8)
    >>> print(str(show_answers(qa, X)).splitlines()[-1].strip())
    [Ada] wrote it.
    """
    check_fitted(qa, "predict_answers", "qa")
    best = qa.predict_answers(X).drop_duplicates("row")
    column = check_questions(X)
    answers: list[Answer | None] = [None] * len(column.texts)
    columns = [best[name].tolist() for name in ("row", "start", "end", "score", "no_answer_score", "is_answered")]
    for row, *values in zip(*columns, strict=True):
        answers[row] = Answer(*values) if values[0] < values[1] else None
    return AnswerView(column.texts, column.pairs or [], answers)
