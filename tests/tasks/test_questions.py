"""Forms of questions, their windows, and what is found of answers."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.questions import Answering, check_questions, plan_questions

X = pd.DataFrame({"question": ["Who lives in Rome?", "Where does Ada live?"], "context": ["Ada lives in Rome."] * 2})


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def test_check_questions_with_frame_finds_columns_by_name(library):
    frame = library({"context": X.context.tolist(), "more": [1] * len(X), "question": X.question.tolist()})
    column = check_questions(frame)
    assert (column.texts, column.pairs) == (X.question.tolist(), X.context.tolist())
    assert column.feature_names.tolist() == ["question", "context"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Context", "Question"], ["Question", "Context"]),
        (["context", "query"], ["query", "context"]),
        (["passage", "question"], ["question", "passage"]),
        (["question", "passage"], ["question", "passage"]),
        (["query", "context"], ["query", "context"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_check_questions_with_one_known_name_finds_the_other(names, expected):
    frame = pd.DataFrame([["first", "second"]], columns=names)
    column = check_questions(frame)
    assert column.feature_names.tolist() == expected
    assert (column.texts, column.pairs) == (frame[expected[0]].tolist(), frame[expected[1]].tolist())


def test_check_questions_with_other_numbers_of_columns_raises():
    with pytest.raises(ValueError, match="X has 3 columns, 'id', 'question', 'text', but not both 'question' and"):
        check_questions(pd.DataFrame([["1", "a", "b"]], columns=["id", "question", "text"]))
    with pytest.raises(ValueError, match="questions need two"):
        check_questions(X.question)


def test_answering_find_with_unknown_language_raises():
    with pytest.raises(ValueError, match="language must be a code of ISO 639, such as 'de', or None, got 'german'"):
        Answering(language="german").find(["Rome", "Rome"], check_questions(X), np.ones(2))


def test_warn_of_cut_with_long_question_warns():
    long = check_questions([["why " * 400, "because"]])
    plan = plan_questions(get_backbone("nano").tokenizer, long, max_length=64, stride=8)
    with pytest.warns(UserWarning, match="1 row has a question of more than"):
        plan.warn_of_cut()


def test_answering_continued_remembers_unanswerable_questions():
    column, weights = check_questions([["who?", "ada"], ["who?", "bob"]]), np.ones(2)
    answered, _ = Answering().find(["ada", "bob"], column, weights)
    partly, _ = Answering().find(["ada", ""], column, weights)
    assert (answered.has_unanswerable, partly.has_unanswerable) == (False, True)
    assert answered.continued(partly).has_unanswerable
    assert partly.continued(answered).has_unanswerable
    assert not answered.continued(answered).has_unanswerable
