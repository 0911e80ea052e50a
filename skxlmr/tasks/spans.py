"""Answers as spans of their contexts: where windows show them, and which ones score best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from skxlmr.runtime.plan import PiecePlan
from skxlmr.system.warn import warn
from skxlmr.tasks.answers import Answer, first_span
from skxlmr.text.word_edges import word_edges

N_ENDS = 20  # starts and ends of a window that are combined; that of the reference's question-answering example
# Share of answers that may begin or end within words before there is a warning; it is 2% in Arabic XQuAD.
MAX_CUT = 0.05

Span = tuple[float, int, int]  # score, first character in the context, the character after the last


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


def target_units(plan: QuestionPlan, answers: Sequence[tuple[int, int] | None]) -> np.ndarray:
    """Return where the answer of each window starts and ends among its positions, (n_windows, 2) int64.

    `answers` are (start, end) in characters of each context, or None. 0 and 0 if a window does not show the answer
    whole.
    """
    units = np.zeros((len(plan.windows), 2), np.int64)
    for window, (text, first) in enumerate(zip(plan.text_of_window, plan.first_piece, strict=True)):
        span = answers[text]
        if span is None:
            continue
        start, end = span
        offsets = plan.offsets[text]
        inside = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < end))
        shown = len(plan.positions[window]) - 1
        if len(inside) and first <= inside[0] and inside[-1] < first + shown:
            units[window] = inside[[0, -1]] - first + 1
    return units


def best_spans(
    outputs: np.ndarray, plan: QuestionPlan, max_answer_length: int, top_k: int, align_to_words: bool = False
) -> tuple[list[list[Span]], np.ndarray]:
    """Return the best answers of each row over all windows of its context, and the score of "no answer".

    `outputs` are the logits of start and end, (positions of all windows, 2). The spans of a row are the best first,
    each once; the score of "no answer" is the lowest over the windows, (n_rows,). As in the reference, the pairs of the
    `N_ENDS` best starts and ends of a window are compared; if none of a row is possible, all pairs are; and if none of
    them is aligned, they need not be. So only a context without visible characters has no answer.
    """
    n_texts = len(plan.contexts)
    null = np.full(n_texts, np.inf)
    found: list[dict[tuple[int, int], float]] = [{} for _ in range(n_texts)]
    windows = list(
        zip(plan.text_of_window, np.split(outputs, np.cumsum(plan.counts)[:-1]), plan.first_piece, strict=True)
    )
    for text, scores, _ in windows:
        null[text] = min(null[text], scores[0].astype(np.float64).sum())
    for n_ends, aligned in ((N_ENDS, align_to_words), (None, align_to_words), (None, False)):
        empty = {text for text in range(n_texts) if not found[text]}
        for text, scores, first in windows:
            if text not in empty:
                continue
            offsets = plan.offsets[text][first : first + len(scores) - 1]
            edges = word_edges_of(plan.contexts[text]) if aligned else None
            for span, score in _best_of_window(scores[1:], offsets, max_answer_length, top_k, n_ends, edges).items():
                found[text][span] = max(score, found[text].get(span, -np.inf))
    spans = [
        sorted(((score, *span) for span, score in of_text.items()), key=lambda s: (-s[0], s[1:]))[:top_k]
        for of_text in found
    ]
    return [spans[text] for text in plan.text_of_row], null[plan.text_of_row]


def _best_of_window(
    scores: np.ndarray,
    offsets: np.ndarray,
    max_answer_length: int,
    top_k: int,
    n_ends: int | None,
    edges: tuple[np.ndarray, np.ndarray] | None,
) -> dict[tuple[int, int], float]:
    """Return the best spans of a window, with their scores, from those of its pieces, (n_pieces, 2)."""
    candidates = []
    for side in (0, 1):
        possible = np.arange(len(offsets)) if edges is None else np.flatnonzero(edges[side][offsets[:, side]])
        if n_ends is not None and len(possible) > n_ends:
            possible = possible[np.argpartition(-scores[possible, side], n_ends - 1)[:n_ends]]
        candidates.append(possible)
    a, b = np.repeat(candidates[0], len(candidates[1])), np.tile(candidates[1], len(candidates[0]))
    left, right = offsets[a, 0], offsets[b, 1]
    possible = np.flatnonzero((b >= a) & (b - a < max_answer_length) & (right > left))
    value = scores[a[possible], 0].astype(np.float64) + scores[b[possible], 1].astype(np.float64)
    best: dict[tuple[int, int], float] = {}
    for i in np.argsort(-value, kind="stable"):
        if len(best) == top_k:
            break
        # A bare space has the place of the piece after it: two pairs of pieces may be one span.
        best.setdefault((int(left[possible[i]]), int(right[possible[i]])), float(value[i]))
    return best


word_edges_of = lru_cache(maxsize=64)(word_edges)  # questions of one context often come together


def warn_of_cut_words(answers: Sequence[list[Answer]], contexts: Sequence[str]) -> None:
    """Warn if many answers begin or end within a word, which answers that are aligned to words never do."""
    cut, n, example = 0, 0, ""
    for of_row, context in zip(answers, contexts, strict=True):
        span = first_span(of_row)
        if span is None:
            continue
        begins, ends = word_edges_of(context)
        n += 1
        if not (begins[span[0]] and ends[span[1]]):
            cut, example = cut + 1, example or context[span[0] : span[1]]
    if cut > max(1, MAX_CUT * n):
        warn(
            f"{cut} of {n} answers begin or end within a word, as {example!r:.60} does, but predicted ones will not. "
            f"Use align_to_words=False to predict parts of words."
        )
