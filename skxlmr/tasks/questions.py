"""Extractive question answering: an answer is a span of its context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar

import narwhals as nw
import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_consistent_length
from torch import Tensor
from typing_extensions import Self

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.columns import TextColumn, as_objects, check_text_column, feature_names, name_row, one_column
from skxlmr.metrics import squad_scores
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForQuestionAnswering, XLMRobertaXLTokenizer
from skxlmr.model.heads import SpanHead
from skxlmr.model.packing import segment_logsumexp
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.plan import PiecePlan, WindowPlan
from skxlmr.system.warn import warn
from skxlmr.tasks.base import Export, LossesOfOutputs, Task
from skxlmr.training.rows import Rows

COLUMNS = ("question", "context")
N_ENDS = 20  # starts and ends of a window that are combined; that of the reference's question-answering example


@dataclass(frozen=True, eq=False, kw_only=True)
class QuestionPlan(PiecePlan):
    """Windows over contexts, each with the whole question before it.

    The positions of a window are `<s>`, which stands for "no answer", then the pieces of the context that it shows.
    `offsets` are the characters of each context's pieces, (n_pieces, 2); `first_piece` the first one of each window.
    """

    contexts: list[str]
    offsets: list[np.ndarray]
    first_piece: np.ndarray

    def _say_cut(self, n_cut: int, n_texts: int) -> str:
        have = "row has a question" if n_cut == 1 else "rows have questions"
        return f"{n_cut} {have} of more than {self.cut_at} pieces, half of a window; the rest is not read."


def select_questions(X: Any) -> Any:
    """Select the columns `question` and `context`, in this order, of a frame that has both; return anything else."""
    names = feature_names(X)
    if names is None or not set(COLUMNS) <= set(names):
        return X
    return nw.from_native(X, eager_only=True).select(COLUMNS).to_native()


def check_questions(X: Any) -> TextColumn:
    """Read questions (the texts) and contexts (the pairs): two columns in this order, or columns of these names."""
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
    """Answers of questions; targets are characters of the context, an array of start, end, start, end... per row."""

    max_answer_length: int = 30
    null_threshold: float = 0.0
    has_unanswerable: bool = False
    language: str | None = None

    read: ClassVar[staticmethod[[Any], Any]] = staticmethod(check_questions)
    select: ClassVar[staticmethod[[Any], Any]] = staticmethod(select_questions)
    found: ClassVar[dict[str, str]] = {"has_unanswerable_": "has_unanswerable"}

    def plan(self, backbone: Backbone, column: TextColumn) -> QuestionPlan:
        max_length, stride = self.windows.resolve(backbone)
        return plan_questions(backbone.tokenizer, column, max_length=max_length, stride=stride)

    def find(self, y: Any, column: TextColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        targets = self.targets(y, column)
        answered = [bool(len(of_row)) for of_row, weight in zip(targets, weights, strict=True) if weight]
        if not any(answered):
            raise ValueError("y has no answer in any row: there is nothing to learn from.")
        return replace(self, has_unanswerable=not all(answered)), targets

    def continued(self, earlier: Self) -> Self:
        """Remember unanswerable questions of the earlier fit, too."""
        return replace(self, has_unanswerable=True) if earlier.has_unanswerable > self.has_unanswerable else self

    def targets(self, y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
        answers = check_answers(y, column, name)
        return as_objects(
            [np.array([edge for text, at in of_row for edge in (at, at + len(text))], np.int64) for of_row in answers]
        )

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> SpanHead:
        return SpanHead(config)

    def constant(self, rows: Rows) -> np.ndarray:
        """Return the same scores for all positions."""
        return np.zeros(2)

    def losses(self, rows: Rows, device: torch.device) -> LossesOfOutputs:
        """Return the mean of the cross-entropies of start and end over the positions of a window."""
        plan = rows.plan
        assert isinstance(plan, QuestionPlan)
        answers: list[np.ndarray | None] = [None] * len(plan.contexts)
        for text, spans in zip(plan.text_of_row, rows.targets, strict=True):
            answers[text] = spans[:2] if len(spans) else None
        units, counts = torch.from_numpy(target_units(plan, answers)).to(device), plan.counts

        def losses(outputs: Tensor, windows: np.ndarray, of_rows: np.ndarray) -> Tensor:
            n = torch.from_numpy(counts[windows]).to(device)
            first = n.cumsum(0) - n
            true = outputs.gather(0, first[:, None] + units[torch.from_numpy(windows).to(device)])
            return (segment_logsumexp(outputs, n) - true).mean(1)

        return losses

    def per_row(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """Return the best answer of each row, "" where there is none, (n_rows,) str."""
        assert isinstance(plan, QuestionPlan)
        spans, null = best_spans(outputs, plan, self.max_answer_length, 1)
        answers = []
        for text, of_row, without in zip(plan.text_of_row, spans, null, strict=True):
            answered = self.is_answered(of_row, without)
            answers.append(plan.contexts[text][of_row[0][1] : of_row[0][2]] if answered else "")
        return as_objects(answers)

    def is_answered(self, spans: list[tuple[float, int, int]], null: float) -> bool:
        """Whether the best of some spans is predicted, rather than no answer, whose score is `null`."""
        return bool(spans) and not (self.has_unanswerable and null - spans[0][0] > self.null_threshold)

    def score(self, outputs: np.ndarray, rows: Rows) -> float:
        plan = rows.plan
        assert isinstance(plan, QuestionPlan)
        contexts = [plan.contexts[text] for text in plan.text_of_row]
        true = [
            [context[a:b] for a, b in spans.reshape(-1, 2)]
            for context, spans in zip(contexts, rows.targets, strict=True)
        ]
        return mean_f1(self.per_row(outputs, plan).tolist(), true, rows.weights, self.language)

    @property
    def export(self) -> Export:
        return Export(
            XLMRobertaXLForQuestionAnswering,
            lambda head: {"qa_outputs": head.linear},
            {"id2label": None, "num_labels": 2},
            "QUESTION_ANS",
        )


def check_answers(
    y: Any, column: TextColumn, name: str = "y", *, warn_ambiguous: bool = True
) -> list[list[tuple[str, int]]]:
    """Read the right answers of each question as (text, start).

    A row of y is a text, which is looked for in the context; (text, start); a dict with "text" and "answer_start", of
    one answer or, as SQuAD has them, of lists; a list of any of these; or nothing (None, NaN, "" or an empty list) if
    there is no answer. Errors name the row. Warns if answers without a start occur more than once: the first place is
    taken.
    """
    values, _, index = one_column(y, name)
    check_consistent_length(column.texts, values)
    rows, ambiguous = [], []
    for i, (answers, context) in enumerate(zip(values, column.pairs or [], strict=True)):
        where = f"{name}, {name_row(i, index)}"
        found = []
        for text, start in _answers(answers, where):
            first = context.find(text)
            if first < 0:
                raise ValueError(f"{where}: the answer {text!r:.60} does not stand in its context.")
            if start is None:
                start = first
                if context.find(text, first + 1) >= 0:
                    ambiguous.append(i)
            if start < 0 or not context.startswith(text, start):
                raise ValueError(
                    f"{where}: the answer {text!r:.60} does not stand in its context at character {start}, where "
                    f"{context[max(start, 0) :][: len(text)]!r:.60} is, but at {first}. Starts count characters from 0."
                )
            found.append((text, start))
        rows.append(found)
    if ambiguous:
        warn(
            f"{name}: {len(set(ambiguous))} answers without a start stand in their contexts more than once; the first "
            f"place was taken. The first of these is {name_row(ambiguous[0], index)}. Give (text, start) to be exact."
        )
    return rows


def _answers(value: Any, where: str) -> list[tuple[str, int | None]]:
    """Return one row of y as texts with their starts, if these are known."""
    if isinstance(value, str) or _is_missing(value):
        return _answer(value, None, where)
    if isinstance(value, Mapping):
        return _answers_of_squad(value, where)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and _may_be_start(value[1]):
        return _answer(*value, where)
    if isinstance(value, list | tuple | np.ndarray):
        return [answer for item in value for answer in _answers(item, where)]
    raise TypeError(
        f"{where}: {value!r:.60} is not an answer: a text, (text, start), or a dict with text and answer_start."
    )


def _answers_of_squad(value: Mapping, where: str) -> list[tuple[str, int | None]]:
    if "text" not in value:
        raise TypeError(f"{where}: {dict(value)!r:.60} has no 'text'.")
    texts, starts = value["text"], value.get("answer_start")
    if not isinstance(texts, list | tuple | np.ndarray):
        return _answer(texts, starts, where)
    if not isinstance(starts, list | tuple | np.ndarray):
        starts = [starts] * (1 if not _is_missing(starts) else len(texts))
    if len(starts) != len(texts):
        raise ValueError(f"{where}: {len(texts)} texts, but {len(starts)} starts.")
    return [answer for text, start in zip(texts, starts, strict=True) for answer in _answer(text, start, where)]


def _answer(text: Any, start: Any, where: str) -> list[tuple[str, int | None]]:
    """Return one text with its start, if that is known; nothing if the text is missing or empty."""
    if _is_missing(text) or (isinstance(text, str) and not text):
        return []
    if not isinstance(text, str):
        raise TypeError(f"{where}: the answer {text!r:.60} is a {type(text).__name__}, not a text.")
    if _is_missing(start):
        return [(str(text), None)]
    if not _may_be_start(start) or not float(start).is_integer():
        raise TypeError(f"{where}: the start {start!r:.60} of the answer {text!r:.60} is not an integer.")
    return [(str(text), int(start))]


def _may_be_start(value: Any) -> bool:
    """Whether a value is a number of characters; those of a column with gaps are floats."""
    return isinstance(value, Real) or _is_missing(value)


def _is_missing(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


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


def target_units(plan: QuestionPlan, answers: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return where the answer of each window starts and ends among its positions, (n_windows, 2) int64.

    `answers` are (start, end) in characters of each context, or None. 0 and 0 if a window does not show the answer
    whole.
    """
    units = np.zeros((len(plan.windows), 2), np.int64)
    for window, (text, first) in enumerate(zip(plan.text_of_window, plan.first_piece, strict=True)):
        if answers[text] is None:
            continue
        start, end = answers[text]
        offsets = plan.offsets[text]
        inside = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < end))
        shown = len(plan.positions[window]) - 1
        if len(inside) and first <= inside[0] and inside[-1] < first + shown:
            units[window] = inside[[0, -1]] - first + 1
    return units


def best_spans(
    outputs: np.ndarray, plan: QuestionPlan, max_answer_length: int, top_k: int
) -> tuple[list[list[tuple[float, int, int]]], np.ndarray]:
    """Return the best answers of each row over all windows of its context, and the score of "no answer".

    `outputs` are the logits of start and end, (positions of all windows, 2). The spans of a row are (score, start, end)
    in characters, the best first, each once; the score of "no answer" is the lowest over the windows, (n_rows,).
    """
    n_texts = len(plan.contexts)
    found: list[dict[tuple[int, int], float]] = [{} for _ in range(n_texts)]
    null = np.full(n_texts, np.inf)
    stops = np.cumsum(plan.counts)
    for window, text in enumerate(plan.text_of_window):
        scores = outputs[stops[window] - plan.counts[window] : stops[window]].astype(np.float64)
        null[text] = min(null[text], scores[0].sum())
        n_best = min(N_ENDS, len(scores) - 1)
        if not n_best:
            continue
        offsets = plan.offsets[text][plan.first_piece[window] :]
        starts, ends = (np.argpartition(-scores[1:, side], n_best - 1)[:n_best] for side in (0, 1))
        a, b = np.repeat(starts, n_best), np.tile(ends, n_best)
        left, right = offsets[a, 0], offsets[b, 1]
        possible = np.flatnonzero((b >= a) & (b - a < max_answer_length) & (right > left))
        value = scores[1 + a[possible], 0] + scores[1 + b[possible], 1]
        best: dict[tuple[int, int], float] = {}
        for i in np.argsort(-value, kind="stable"):
            if len(best) == top_k:
                break
            # A bare space has the place of the piece after it: two pairs of pieces may be one span.
            best.setdefault((int(left[possible[i]]), int(right[possible[i]])), float(value[i]))
        for span, score in best.items():
            found[text][span] = max(score, found[text].get(span, -np.inf))
    spans = [
        sorted(((score, *span) for span, score in of_text.items()), key=lambda s: (-s[0], s[1:]))[:top_k]
        for of_text in found
    ]
    return [spans[text] for text in plan.text_of_row], null[plan.text_of_row]
