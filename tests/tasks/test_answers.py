"""Forms of answers, and errors that name their rows."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skxlmr.tasks.answers import check_answers
from skxlmr.tasks.questions import check_questions

X = pd.DataFrame({"question": ["Who lives in Rome?", "Where does Ada live?"], "context": ["Ada lives in Rome."] * 2})
ANSWERS = ["Ada", "Rome"]


def test_check_answers_with_any_form_returns_same_answers():
    column = check_questions(X[:1])
    start = X.context[0].index("Ada")
    forms = ["Ada", ("Ada", start), {"text": "Ada", "answer_start": start}, {"text": ["Ada"], "answer_start": [start]},
             [("Ada", start)], ["Ada"], {"text": ["Ada"]}, np.array(["Ada"], object),
             {"answers": [{"text": "Ada", "answer_start": start}]}, {"answer": {"text": "Ada"}}, {"answers": ["Ada"]},
             {"answers": {"text": ["Ada"], "answer_start": [start]}, "is_impossible": False}]  # fmt: skip
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


def test_check_answers_of_impossible_question_is_empty():
    squad = {"text": ["Ada"], "answer_start": [0]}
    for form in (squad, {"answers": squad}, {"answers": []}, {"answer": None}):
        assert check_answers([form | {"is_impossible": True}], check_questions(X[:1])) == [[]]
    with pytest.raises(ValueError, match="y, row 0: is_impossible is 'no', neither true nor false"):
        check_answers([squad | {"is_impossible": "no"}], check_questions(X[:1]))


def test_check_answers_returns_answers_as_they_stand_in_the_context():
    column = check_questions([["?", "in  New \n York"], ["?", "Cafe\u0301"]])
    y = [("New York", 3), "Café"]
    assert check_answers(y, column) == [[("New \n York", 4)], [("Cafe\u0301", 0)]]
    assert check_answers(y, column, errors="keep") == check_answers(y, column)


def test_check_answers_that_are_kept_need_not_stand_in_their_contexts():
    column = check_questions(X)
    assert check_answers([["Eve", "Ada"], ("Rome", 3)], column, errors="keep") == [
        [("Eve", None), ("Ada", 0)],
        [("Rome", None)],
    ]
    with pytest.raises(TypeError, match="y, row 1: 5 is not an answer"):
        check_answers(["Eve", 5], column, errors="keep")
    twice = check_questions([["Who?", "Ada and Ada"]])
    assert check_answers(["Ada"], twice, errors="keep") == [[("Ada", 0)]], "without a warning"


def test_check_answers_lists_the_first_wrong_rows_and_counts_all():
    column = check_questions(pd.concat([X] * 15, ignore_index=True))
    with pytest.raises(
        ValueError, match=r"^y, row 1: the answer 'Eve' does not stand in its context.\ny, row 3: "
    ) as raised:
        check_answers(["Ada", "Eve"] * 15, column)
    *rows, counted, columns = str(raised.value).split("\n")
    assert [line.split(":")[0] for line in rows] == [f"y, row {i}" for i in range(1, 21, 2)]
    assert counted == "15 of 30 rows, of which these are the first, have wrong answers."
    where = "The questions are those of column 'question' of X, the contexts those of column 'context'."
    assert columns == f"{where} errors='drop' leaves such rows out."


def test_check_answers_says_which_columns_were_read_and_if_they_are_swapped():
    swapped = X[["context", "question"]].set_axis(["query", "passage"], axis=1)
    with pytest.raises(
        ValueError, match="column 'query' of X, the contexts those of column 'passage': is the order wrong"
    ):
        check_answers(ANSWERS, check_questions(swapped))
    with pytest.raises(
        ValueError, match="The questions are the first column of X, the contexts the second: is the order"
    ):
        check_answers(ANSWERS, check_questions(swapped.to_numpy()))
    with pytest.raises(ValueError, match=r"The questions are the first column of X, the contexts the second\. errors="):
        check_answers(["Eve", "Rome"], check_questions(X.to_numpy()))


def test_check_answers_that_are_dropped_warns_of_rows_without_any():
    y = [["Eve", "Ada"], ("Rome", 3), ""]
    column = check_questions(pd.concat([X, X[:1]], ignore_index=True))
    with pytest.warns(UserWarning, match=r"^y, row 1: the answer 'Rome' .* character 3, .* They are not learned.$"):
        assert check_answers(y, column, errors="drop") == [[("Eve", None), ("Ada", 0)], [("Rome", None)], []]
    with pytest.raises(TypeError, match="y, row 0: 5 is not an answer"):
        check_answers([5, "Eve", ""], column, errors="drop")
