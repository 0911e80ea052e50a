"""Target units of windows, and the spans of highest score."""

import numpy as np
import pytest

from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.questions import check_questions, plan_questions
from skxlmr.tasks.spans import QuestionPlan, best_spans, target_units, warn_of_cut_words


def test_target_units_of_answer_within_word_cover_touched_pieces_only():
    tokenizer = get_backbone("nano").tokenizer
    context = "Oslo(Rome)Ada,北京市"
    plan = plan_questions(tokenizer, check_questions([["Who?", context]]), max_length=64, stride=8)
    (offsets,) = plan.offsets
    for answer in ("Oslo", "Rome", "(", ")", "Ada", "北京", "市", "Oslo(", "e)A"):
        start = context.index(answer)
        ((first, last),) = target_units(plan, [np.array([start, start + len(answer)])])
        touched = [i for i, (a, b) in enumerate(offsets) if a < start + len(answer) and b > start]
        assert (first - 1, last - 1) == (touched[0], touched[-1]), answer


def test_target_units_are_zero_where_window_cuts_answer():
    column = check_questions([["Who?", "one two three four five six seven eight nine ten Ada Lovelace"]])
    plan = plan_questions(get_backbone("nano").tokenizer, column, max_length=16, stride=4)
    context = column.pairs[0]
    span = np.array([context.index("Ada"), len(context)])
    units = target_units(plan, [span])
    assert (units[0] == 0).all()
    assert (units > 0).all(axis=1).any()
    for window, (start, end) in enumerate(units):
        if start:
            first = plan.first_piece[window]
            shown = plan.offsets[0][first + start - 1][0], plan.offsets[0][first + end - 1][1]
            assert context[shown[0] : shown[1]] == "Ada Lovelace"
    assert not target_units(plan, [None]).any()


def test_best_spans_with_bare_space_piece_returns_distinct_spans():
    """A piece that is a bare space covers no characters: spans from it and from the next piece are one answer."""
    offsets = [np.array([[0, 0], [0, 1], [1, 2]])]
    plan = QuestionPlan(
        [np.zeros(4, np.int32)], np.zeros(1, int), np.zeros(1, int), positions=[np.arange(4)], contexts=["北京"],
        offsets=offsets, first_piece=np.zeros(1, int),
    )  # fmt: skip
    outputs = np.array([[0.0, 0.0], [9.0, 0.0], [8.0, 9.0], [1.0, 1.0]])
    (spans,), _ = best_spans(outputs, plan, 30, 3)
    assert spans == [(18.0, 0, 1), (10.0, 0, 2), (2.0, 1, 2)]


def pieces(context, *lengths):
    """The plan of one window whose pieces have these lengths in characters."""
    stops = np.cumsum(lengths)
    offsets = [np.stack([stops - lengths, stops], axis=1)]
    return QuestionPlan(
        [np.zeros(len(lengths) + 1, np.int32)], np.zeros(1, int), np.zeros(1, int),
        positions=[np.arange(len(lengths) + 1)], contexts=[context], offsets=offsets, first_piece=np.zeros(1, int),
    )  # fmt: skip


def test_best_spans_aligned_to_words_do_not_begin_or_end_within_one():
    context = "Protected bureau"
    plan = pieces(context, 4, 5, 1, 3, 3)  # Prot ected _ bur eau
    outputs = np.array([[0, 0], [1, 0], [9, 0], [0, 0], [2, 9], [0, 3]], np.float32)
    (free,), null = best_spans(outputs, plan, 30, 1)
    (aligned,), same = best_spans(outputs, plan, 30, 9, align_to_words=True)
    assert context[slice(*free[0][1:])] == "ected bur"
    # The space is a piece, so that an answer may begin with it.
    assert [context[a:b] for _, a, b in aligned[:2]] == ["bureau", "Protected bureau"]
    assert [score for score, *_ in aligned[:2]] == [5.0, 4.0]
    assert null == same


def test_best_spans_without_aligned_span_returns_any():
    plan = pieces("abcdef gh", 2, 2, 2, 1, 1, 1)
    outputs = np.array([[0, 0], [1, 0], [2, 3], [0, 0], [-9, -9], [0, 0], [0, 0]], np.float32)
    (spans,), _ = best_spans(outputs, plan, 1, 9, align_to_words=True)
    assert [span[1:] for span in spans] == [(6, 7)], "the space alone is aligned"
    plan = pieces("abcdef", 2, 2, 2)
    (spans,), _ = best_spans(outputs[:4], plan, 1, 1, align_to_words=True)
    assert spans == [(5.0, 2, 4)]


@pytest.mark.parametrize("align_to_words", [False, True])
def test_best_spans_where_all_best_ends_come_before_all_best_starts_returns_a_span(align_to_words):
    n = 100
    plan = pieces("ab " * n, *[3] * n)
    outputs = np.zeros((n + 1, 2), np.float32)
    outputs[1:, 0], outputs[1:, 1] = np.arange(n), -np.arange(n)
    (spans,), _ = best_spans(outputs, plan, 5, 1, align_to_words)
    assert spans == [(0.0, 0, 3)]


def test_best_spans_of_context_without_characters_is_empty():
    plan = pieces("", 0)
    assert best_spans(np.zeros((2, 2)), plan, 30, 1, True) == ([[]], [0])


def test_warn_of_cut_words_warns_if_many_answers_are_parts_of_words():
    contexts = ["the bureau of Rome"] * 20
    whole, part = [("bureau", 4)], [("eau", 7)]
    with pytest.warns(UserWarning, match="2 of 19 answers begin or end within a word, as 'eau' does"):
        warn_of_cut_words([whole] * 17 + [part] * 2 + [[]], contexts)
    warn_of_cut_words([part] + [whole] * 19, contexts)
    warn_of_cut_words([[], [("nowhere", None)]], contexts[:2])
