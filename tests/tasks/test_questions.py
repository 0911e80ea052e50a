"""Forms of questions and answers, target units of windows, and the spans of highest score."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.questions import (
    Answering,
    QuestionPlan,
    best_spans,
    check_answers,
    check_questions,
    plan_questions,
    target_units,
)

X = pd.DataFrame({"question": ["Who lives in Rome?", "Where does Ada live?"], "context": ["Ada lives in Rome."] * 2})
ANSWERS = ["Ada", "Rome"]


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def test_check_questions_with_frame_finds_columns_by_name(library):
    frame = library({"context": X.context.tolist(), "more": [1] * len(X), "question": X.question.tolist()})
    column = check_questions(frame)
    assert (column.texts, column.pairs) == (X.question.tolist(), X.context.tolist())
    assert column.feature_names.tolist() == ["question", "context"]


def test_check_answers_with_any_form_returns_same_answers():
    column = check_questions(X[:1])
    start = X.context[0].index("Ada")
    forms = ["Ada", ("Ada", start), {"text": "Ada", "answer_start": start}, {"text": ["Ada"], "answer_start": [start]},
             [("Ada", start)], ["Ada"], {"text": ["Ada"]}, np.array(["Ada"], object)]  # fmt: skip
    for form in forms:
        assert check_answers([form], column) == [[("Ada", start)]], form
    several = {"text": ["Ada", "Ada lives"], "answer_start": [0, 0]}
    assert check_answers([several], column) == [[("Ada", 0), ("Ada lives", 0)]]


def test_check_answers_with_series_of_any_library_returns_same_answers():
    column = check_questions(X)
    squad = [{"text": [answer], "answer_start": [X.context[0].index(answer)]} for answer in ANSWERS]
    expected = check_answers(squad, column)
    lists = [of_row["text"] for of_row in squad]
    for make in (pd.Series, pl.Series, pa.array, lambda values: pa.chunked_array([values])):
        for y in (squad, lists, ANSWERS):
            assert check_answers(make(y), column) == expected
    with pytest.raises(ValueError, match=r"y has 2 columns: \['text', 'start'\]. Select one"):
        check_answers(pd.DataFrame({"text": ["a", "b"], "start": [0, 1]}), column)
    with pytest.raises(TypeError, match="y is a single str"):
        check_answers("Ada", column)


@pytest.mark.parametrize(
    "missing", [None, np.nan, np.float32("nan"), pd.NA, pd.NaT], ids=["None", "nan", "float32-nan", "NA", "NaT"]
)
def test_check_answers_with_missing_value_is_unanswerable_or_without_start(missing):
    column = check_questions([["Who?", "Ada lives here."]])
    for form in (missing, [missing], {"text": missing, "answer_start": missing}, {"text": [missing]}):
        assert check_answers([form], column) == [[]]
    for form in (("Ada", missing), {"text": "Ada", "answer_start": missing}, {"text": ["Ada"], "answer_start": [0.0]}):
        assert check_answers([form], column) == [[("Ada", 0)]]


def test_check_answers_with_ambiguous_answers_warns_and_with_wrong_answers_raises():
    column = check_questions([["Who?", "Ada and Ada"]] * 2)
    with pytest.warns(UserWarning, match="2 answers without a start.*more than once"):
        assert check_answers(["Ada", "Ada"], column) == [[("Ada", 0)]] * 2
    assert check_answers([("Ada", 8), ("Ada", 0)], column)[0] == [("Ada", 8)]
    for bad, error, message in [
        (["Ada", "Eve"], ValueError, "y, row 1: .*does not stand in its context"),
        ([("Ada", 8), ("Ada", 3)], ValueError, "row 1: .*at character 3"),
        ([("Ada", 8), 5], TypeError, "row 1: 5 is not an answer"),
        ([("Ada", 8), {"start": 3}], TypeError, "row 1: .*no 'text'"),
        ([("Ada", 8), {"text": ["Ada"], "answer_start": []}], ValueError, "1 texts, but 0 starts"),
        ([("Ada", 8)], ValueError, "inconsistent"),
    ]:
        with pytest.raises(error, match=message):
            check_answers(bad, column)
    with pytest.raises(ValueError, match="questions need two"):
        check_questions(X.question)


def test_warn_of_cut_with_long_question_warns():
    long = check_questions([["why " * 400, "because"]])
    plan = plan_questions(get_backbone("nano").tokenizer, long, max_length=64, stride=8)
    with pytest.warns(UserWarning, match="1 row has a question of more than"):
        plan.warn_of_cut()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"text": [5], "answer_start": [0]}, TypeError, "the answer 5 is a int, not a text"),
        ({"text": 5}, TypeError, "the answer 5 is a int, not a text"),
        ({"text": [["Ada"]], "answer_start": [0]}, TypeError, "is a list, not a text"),
        ({"text": ["Ada"], "answer_start": ["x"]}, TypeError, "the start 'x' of the answer 'Ada' is not an integer"),
        ({"text": ["Ada"], "answer_start": [0.5]}, TypeError, "the start 0.5 of the answer 'Ada' is not an integer"),
        ({"text": "Ada", "answer_start": [0]}, TypeError, r"the start \[0\] of the answer 'Ada' is not an integer"),
        ({"text": ["Ada", "Ada"], "answer_start": 0}, ValueError, "2 texts, but 1 starts"),
        (("Ada", np.inf), TypeError, "the start inf of the answer 'Ada' is not an integer"),
        (["Ada", 0], TypeError, "0 is not an answer"),
        (("Ada", -1), ValueError, "does not stand in its context at character -1, where 'Ada' is, but at 0"),
        (("lives", 3), ValueError, "at character 3, where ' live' is, but at 4. Starts count characters from 0"),
    ],
)
def test_check_answers_with_invalid_answer_raises_and_names_row(answer, error, message):
    with pytest.raises(error, match=f"^y, row 1.*{message}"):
        check_answers([None, answer], check_questions([["Who?", "Ada lives here."]] * 2))


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


def test_answering_continued_remembers_unanswerable_questions():
    column, weights = check_questions([["who?", "ada"], ["who?", "bob"]]), np.ones(2)
    answered, _ = Answering().find(["ada", "bob"], column, weights)
    partly, _ = Answering().find(["ada", ""], column, weights)
    assert (answered.has_unanswerable, partly.has_unanswerable) == (False, True)
    assert answered.continued(partly).has_unanswerable
    assert partly.continued(answered).has_unanswerable
    assert not answered.continued(answered).has_unanswerable
