"""Forms of prompts and choices."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from choice_questions import CHOICES, PROMPTS, X

from skxlmr.tasks.choice_columns import check_choices


def test_check_choices_with_lists_or_columns_returns_same_choices():
    widths = pd.DataFrame([choices + [None] * (3 - len(choices)) for choices in CHOICES], columns=["a", "b", "c"])
    columns = pd.concat([X[["prompt"]], widths], axis=1)
    for frame in (columns, columns.fillna(np.nan), columns.astype("string"), pl.from_pandas(columns)):
        assert check_choices(frame).choices == [tuple(choices) for choices in CHOICES]
    for frame in (
        pl.DataFrame({"prompt": PROMPTS, "choices": CHOICES}),
        list(zip(PROMPTS, CHOICES, strict=True)),
        X.assign(choices=[np.array(choices, object) for choices in CHOICES]),
    ):
        assert check_choices(frame).choices == [tuple(choices) for choices in CHOICES]
    assert check_choices(X).feature_names.tolist() == ["prompt", "choices"]


BAD_X = [
    (PROMPTS, ValueError, "1 column; multiple choice needs the prompts and their choices"),
    (pd.DataFrame({"p": ["a", "b"], "c": ["x", "y"]}), TypeError, "column 'c', row 0: 'x' is not a list of choices"),
    (pd.DataFrame({"p": ["a", None], "c": [["x"], ["y"]]}), ValueError, "column 'p', row 1: .* is a missing value"),
    (pd.DataFrame({"p": ["a", "b"], "c": [["x"], []]}, index=[7, 9]), ValueError, r"row 1 \(index 9\): there is no"),
    (pd.DataFrame({"p": ["a", "b"], "c": [["x"], ["y", 3]]}), TypeError, "row 1: choice 1 is 3, a int, not a text"),
    (pd.DataFrame({"p": ["a"], "c": [None]}), TypeError, "row 0: None is not a list of choices"),
    (pd.DataFrame({"p": ["a"], "c": [None], "d": ["x"]}), ValueError, "column 'c', row 0: it is missing, but a later"),
    (pd.DataFrame({"p": ["a"], "c": [None], "d": [np.nan]}), ValueError, "column 'c', row 0: there is no choice"),
    (pd.DataFrame({"p": ["a"], "c": ["x"], "d": [5]}), TypeError, "column 'd', row 0: 5 is a int, not a text"),
    (X[:0], ValueError, "0 sample"),
    ("one", TypeError, "a single str"),
]
BAD_X_IDS = [
    "one-column", "text-for-list", "missing-prompt", "empty-list", "number-in-list", "missing-list", "gap-in-cells",
    "no-cell", "number-in-cell", "no-row", "single-string",
]  # fmt: skip


@pytest.mark.parametrize(("frame", "error", "message"), BAD_X, ids=BAD_X_IDS)
def test_check_choices_with_invalid_choices_raises_and_names_row(frame, error, message):
    with pytest.raises(error, match=message):
        check_choices(frame)


RACE = {"article": ["A text."], "question": ["Why?"], "options": [["a", "b"]]}
SHAPES = {
    "RACE": (RACE, "A text. Why?", ["a", "b"], (0, 1)),
    "list-first": ({"options": [["a", "b"]], "question": ["Why?"]}, "Why?", ["a", "b"], (1,)),
    "list-between": ({"article": ["A."], "options": [["a", "b"]], "question": ["Why?"]}, "A. Why?", ["a", "b"], (0, 2)),
    "COPA": ({"premise": ["It rained."], "question": ["effect"], "choice1": ["wet"], "choice2": ["dry"]},
             "It rained. effect", ["wet", "dry"], (0, 1)),
    "COPA-without": ({"premise": ["P."], "choice1": ["a"], "choice2": ["b"]}, "P.", ["a", "b"], (0,)),
    "SWAG": ({"sent1": ["He sits."], "sent2": ["He"]} | {f"ending{i}": [f"e{i}"] for i in range(4)},
             "He sits. He", ["e0", "e1", "e2", "e3"], (0, 1)),
    "SWAG-one-sentence": ({"sent1": ["S."], "ending0": ["a"], "ending1": ["b"]}, "S.", ["a", "b"], (0,)),
    "SocialIQA": ({"context": ["C."], "question": ["Q?"], "answerA": ["a"], "answerB": ["b"], "answerC": ["c"]},
                  "C. Q?", ["a", "b", "c"], (0, 1)),
    "letters": ({"Question": ["Q?"], "A": ["a"], "B": ["b"], "C": ["c"], "D": ["d"]}, "Q?", ["a", "b", "c", "d"], (0,)),
    "alphaNLI": ({"obs1": ["One."], "obs2": ["Two."], "hyp1": ["a"], "hyp2": ["b"]}, "One. Two.", ["a", "b"], (0, 1)),
    "prompts-last": ({"choice1": ["a"], "choice2": ["b"], "premise": ["P."]}, "P.", ["a", "b"], (2,)),
    "names-of-no-kind": ({"shop": ["P."], "good": ["a"], "bad": ["b"]}, "P.", ["a", "b"], (0,)),
    "known-names": ({"premise": ["P."], "question": ["Q?"], "yes": ["a"], "no": ["b"]}, "P. Q?", ["a", "b"], (0, 1)),
    "all-numbered": ({"text1": ["P."], "text2": ["a"], "text3": ["b"]}, "P.", ["a", "b"], (0,)),
    "ARC": ({"question": ["Q?"], "choices": [{"text": ["a", "b"], "label": ["1", "2"]}]}, "Q?", ["a", "b"], (0,)),
}  # fmt: skip


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
@pytest.mark.parametrize(("columns", "prompt", "choices", "prompts"), SHAPES.values(), ids=SHAPES)
def test_check_choices_finds_prompts_and_choices(columns, prompt, choices, prompts, library):
    column = check_choices(library(columns))
    assert column.texts == [prompt]
    assert column.choices == [tuple(choices)]
    assert column.prompts == prompts
    assert column.n_features == len(columns)


def test_check_choices_of_rows_without_names():
    assert check_choices([("A.", "Why?", ["a", "b"])]).texts == ["A. Why?"]
    assert check_choices([("A.", "Why?", "a", "b")]).choices == [("Why?", "a", "b")]
    assert check_choices([("A.", "Why?", "a", "b")], [0, 1]).choices == [("a", "b")]
    assert check_choices([("A.", "Why?", "a", "b")], [1, 0]).texts == ["Why? A."]


def test_check_choices_with_prompt_columns_reads_others_as_choices():
    frame = pd.DataFrame({"question": ["Q?"], "right": ["a"], "distractor1": ["b"], "distractor2": ["c"]})
    column = check_choices(frame, ["question"])
    assert (column.texts, column.choices) == (["Q?"], [("a", "b", "c")])
    assert check_choices(frame, ["question", "right"]).choices == [("b", "c")]


def test_check_choices_of_dicts_has_labels():
    dicts = [{"text": ["a", "b"], "label": ["A", "B"]}, {"text": np.array(["c"])}]
    column = check_choices(pd.DataFrame({"question": ["Q?", "R?"], "choices": dicts}))
    assert column.choices == [("a", "b"), ("c",)]
    assert column.labels == [("A", "B"), None]
    assert column.take([1]).labels == [None]


AMBIGUOUS = {
    "right-choice-beside-numbered": ["question", "right", "distractor1", "distractor2"],
    "label": ["premise", "choice1", "choice2", "gold"],
    "one-choice": ["question", "context", "option"],
    "prompt-among-choices": ["body", "good", "question", "bad"],
}


@pytest.mark.parametrize("names", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_check_choices_with_unclear_columns_asks_for_prompt_columns(names):
    frame = pd.DataFrame([["x"] * len(names)], columns=names)
    with pytest.raises(
        ValueError, match=f"X has the columns '{names[0]}', .*which of them are the prompt.* Say it with"
    ):
        check_choices(frame)
    assert check_choices(frame, names[:1]).choices == [("x",) * (len(names) - 1)]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["story"], "prompt_columns: there is no column 'story'; X has 'article', 'question', 'options'"),
        (
            ["article", "article"],
            r"X has 3 columns, of which prompt_columns=\['article', 'article'\] must be some, each",
        ),
        (["article", "question", "options"], "and leave one or more as choices"),
        ([3], "X has 3 columns, of which prompt_columns="),
    ],
)
def test_check_choices_with_invalid_prompt_columns_raises(prompts, message):
    with pytest.raises(ValueError, match=message):
        check_choices(pd.DataFrame(RACE), prompts)


def test_check_choices_with_lists_as_texts_or_two_lists_raises():
    with pytest.raises(
        ValueError, match=r"X, column 'options': lists of choices are written as texts.* ast.literal_eval"
    ):
        check_choices(pd.DataFrame(RACE).astype({"options": str}))
    with pytest.raises(ValueError, match=r"X has several columns of lists: 'options', 'more'. Select one"):
        check_choices(pd.DataFrame(RACE | {"more": [["c"]]}))
    with pytest.raises(ValueError, match=r"row 0: the labels \['A'\] are not one text for each of 2 choices"):
        check_choices(pd.DataFrame({"question": ["Q?"], "choices": [{"text": ["a", "b"], "label": ["A"]}]}))
    with pytest.raises(ValueError, match="column 'question', row 0: None is a missing value"):
        check_choices(pd.DataFrame(RACE | {"question": [None]}))
