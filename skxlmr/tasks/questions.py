"""Extractive question answering: an answer is a span of its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import narwhals as nw
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.columns import TextColumn, as_objects, check_text_column, feature_names
from skxlmr.metrics import language_code, squad_scores
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForQuestionAnswering, XLMRobertaXLTokenizer
from skxlmr.model.heads import SpanHead
from skxlmr.model.segments import segment_logsumexp
from skxlmr.model.transfer import upload, upload_one
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.plan import WindowPlan
from skxlmr.tasks.answers import check_answers, first_span
from skxlmr.tasks.base import LossesOfOutputs, Task
from skxlmr.tasks.exports import Export
from skxlmr.tasks.spans import QuestionPlan, Span, best_spans, target_units, warn_of_cut_words
from skxlmr.training.rows import Rows

COLUMNS = ("question", "context")


def select_questions(X: Any) -> Any:
    """Select the columns `question` and `context`, in this order, of a frame that has both; return anything else.

    The names are compared without case. Of two columns, one of such a name says which the other is.

    Raises
    ------
    ValueError
        If a frame has more than two columns, and not both of these, or two of the same name.
    """
    feature_names(X)
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        return X
    columns = list(frame.columns)
    named = {str(column).strip().lower(): column for column in reversed(columns)}
    if set(COLUMNS) <= set(named):
        return frame.select([named[name] for name in COLUMNS]).to_native()
    if len(columns) == 2 and (named.get("context") == columns[0] or named.get("question") == columns[1]):
        return frame.select(columns[::-1]).to_native()
    if len(columns) > 2:
        raise ValueError(
            f"X has {len(columns)} columns, {', '.join(map(repr, columns))}, but not both 'question' and 'context'. "
            f"Select two, in this order: df[['question', 'context']]."
        )
    return X


def check_questions(X: Any) -> TextColumn:
    """Read questions (the texts) and contexts (the pairs): columns of these names, or two columns in this order."""
    column = check_text_column(select_questions(X))
    if column.pairs is None:
        raise ValueError("X has 1 column; questions need two, df[['question', 'context']].")
    return column


def mean_f1(
    predicted: Sequence[str], true: Sequence[list[str]], weights: np.ndarray, language: str | None = None
) -> float:
    """Compute the weighted mean F1 of predicted answers against the true answers of each row."""
    pairs = zip(predicted, true, strict=True)
    scores = [squad_scores([answer], [answers], language)["f1"] for answer, answers in pairs]
    return float(np.average(scores, weights=weights))


@dataclass(frozen=True, eq=False)
class Answering(Task[TextColumn]):
    """Answers of questions; targets are a list per row of texts with their starts in the context, see `Answer`."""

    max_answer_length: int = 30
    null_threshold: float | None = None
    has_unanswerable: bool = False
    language: str | None = None
    align_to_words: bool = False
    errors: str = "raise"

    found: ClassVar[dict[str, str]] = {"has_unanswerable_": "has_unanswerable"}
    found_types: ClassVar[dict[str, Any]] = {"has_unanswerable_": bool}

    def check_found(self, n_features: int | None) -> None:
        if n_features not in (2, None):
            raise ValueError(f"X had {n_features} columns, but questions and contexts are two")

    def read(self, X: Any) -> TextColumn:
        return check_questions(X)

    def select(self, X: Any) -> Any:
        return select_questions(X)

    def plan(self, backbone: Backbone, column: TextColumn) -> QuestionPlan:
        max_length, stride = self.windows.resolve(backbone)
        return plan_questions(backbone.tokenizer, column, max_length=max_length, stride=stride)

    def find(self, y: Any, column: TextColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        if self.language is not None:
            language_code(self.language)  # raises if it is none
        answers = check_answers(y, column, errors=self.errors)
        if self.align_to_words:
            warn_of_cut_words(answers, column.pairs or [])
        given = [of_row for of_row, weight in zip(answers, weights, strict=True) if weight]
        if not any(first_span(of_row) for of_row in given):
            raise ValueError("y has no answer in any row: there is nothing to learn from.")
        return replace(self, has_unanswerable=not all(given)), as_objects(answers)

    def pretrained(self, config: XLMRobertaXLConfig) -> tuple[Self, None]:
        """As other tasks; the config does not tell whether there were questions without an answer."""
        return self, None

    def continued(self, earlier: Self) -> Self:
        """Remember unanswerable questions of the earlier fit, too."""
        return replace(self, has_unanswerable=True) if earlier.has_unanswerable > self.has_unanswerable else self

    def targets(self, y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
        return as_objects(check_answers(y, column, name, errors="keep"))

    def loss_weights(self, targets: np.ndarray) -> np.ndarray:
        """Return 0 for rows whose answers do not stand in their contexts, so that they are not learned, else 1."""
        return np.array([1.0 if not of_row or first_span(of_row) else 0.0 for of_row in targets])

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> SpanHead:
        return SpanHead(config)

    def constant(self, rows: Rows) -> np.ndarray:
        """Return the same scores for all positions."""
        return np.zeros(2)

    def losses(self, rows: Rows, device: torch.device) -> LossesOfOutputs:
        """Return the mean of the cross-entropies of start and end over the positions of a window."""
        plan = rows.plan
        assert isinstance(plan, QuestionPlan)
        answers: list[tuple[int, int] | None] = [None] * len(plan.contexts)
        for text, of_row in zip(plan.text_of_row, rows.targets, strict=True):
            answers[text] = first_span(of_row)
        units, counts = upload_one(target_units(plan, answers), device), plan.counts

        def losses(outputs: Tensor, windows: np.ndarray, of_rows: np.ndarray) -> Tensor:
            n, of_windows = upload([counts[windows], windows], device)
            first = n.cumsum(0) - n
            true = outputs.gather(0, first[:, None] + units[of_windows])
            return (segment_logsumexp(outputs, n) - true).mean(1)

        return losses

    def per_row(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """Return the best answer of each row, "" where there is none, (n_rows,) str."""
        assert isinstance(plan, QuestionPlan)
        spans, null = self.best_spans(outputs, plan, 1)
        answers = []
        for text, of_row, without in zip(plan.text_of_row, spans, null, strict=True):
            answered = self.is_answered(of_row, without)
            answers.append(plan.contexts[text][of_row[0][1] : of_row[0][2]] if answered else "")
        return as_objects(answers)

    def best_spans(self, outputs: np.ndarray, plan: QuestionPlan, top_k: int) -> tuple[list[list[Span]], np.ndarray]:
        """Return the best answers of each row, and the score of "no answer"; see `skxlmr.tasks.spans.best_spans`."""
        return best_spans(outputs, plan, self.max_answer_length, top_k, self.align_to_words)

    def is_answered(self, spans: list[Span], null: float) -> bool:
        """Whether the best of some spans is predicted, rather than no answer, whose score is `null`."""
        if self.null_threshold is None and not self.has_unanswerable:
            return bool(spans)
        return bool(spans) and null - spans[0][0] <= (self.null_threshold or 0.0)

    def score(self, outputs: np.ndarray, rows: Rows) -> float:
        plan = rows.plan
        assert isinstance(plan, QuestionPlan)
        true = [[text for text, _ in of_row] for of_row in rows.targets]
        return mean_f1(self.per_row(outputs, plan).tolist(), true, rows.weights, self.language)

    @property
    def export(self) -> Export:
        return Export(
            XLMRobertaXLForQuestionAnswering,
            lambda head: {"qa_outputs": head.linear},
            {"id2label": None, "num_labels": 2},
            "QUESTION_ANS",
        )


def plan_questions(
    tokenizer: XLMRobertaXLTokenizer, column: TextColumn, *, max_length: int, stride: int
) -> QuestionPlan:
    """Put each question before windows over its context.

    Nothing of a context is left out; of a question that takes more than half of a window the end is.
    """
    most, contexts = (max_length - 4) // 2, column.pairs or []
    questions = tokenizer.encode_batch(column.texts)
    distinct = {context: tokenizer.encode_with_offsets(context) for context in dict.fromkeys(contexts)}
    windows, positions, text_of_window, first_piece = [], [], [], []
    for i, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        question, ids = question[:most], distinct[context][0]
        room = max_length - 4 - len(question)
        for window in tokenizer.windows(
            question, ids, max_length=max_length, stride=min(stride, room - 1), only="second"
        ):
            windows.append(window.input_ids)
            pieces = np.arange(window.stop - window.start) + len(question) + 3  # <s> question </s></s>
            positions.append(np.concatenate(([0], pieces)))
            text_of_window.append(i)
            first_piece.append(window.start)
    return QuestionPlan(
        windows,
        np.asarray(text_of_window, np.int64),
        np.arange(len(questions)),
        positions=positions,
        contexts=contexts,
        offsets=[distinct[context][1] for context in contexts],
        first_piece=np.asarray(first_piece, np.int64),
        n_cut=len({key for key, ids in zip(column.keys, questions, strict=True) if len(ids) > most}),
        cut_at=most,
    )
