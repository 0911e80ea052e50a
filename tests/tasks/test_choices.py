"""Forms of prompts, choices and right choices, and the plan of their windows."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.choices import Choosing, check_choices, check_right_choices, padded, plan_choices

PROMPTS = ["It rained.", "The sun shone.", "下雪了。", "There was fog, and", "It rained.", "The sun shone."]
CHOICES = [
    ["wet", "dry"],
    ["dark", "bright", "cold"],
    ["白", "黑"],
    ["blind"],
    ["dry", "wet", "wet and dry"],
    ["bright"],
]
RIGHT = [0, 1, 0, 0, 1, 0]
X = pd.DataFrame({"prompt": PROMPTS, "choices": CHOICES})
TEXTS = [choices[i] for choices, i in zip(CHOICES, RIGHT, strict=True)]


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


def test_check_right_choices_with_arrays_of_any_library_returns_indices():
    column = check_choices(X)
    for y in (
        pa.array(RIGHT), pa.chunked_array([RIGHT[:2], RIGHT[2:]]), pl.DataFrame({"y": RIGHT}), pa.table({"y": RIGHT}),
        np.array(RIGHT)[:, None], pd.DataFrame({"y": RIGHT}), pd.Series(RIGHT, dtype="Int64"), np.array(RIGHT, "f4"),
    ):  # fmt: skip
        indices, form = check_right_choices(y, column)
        assert (indices.tolist(), form) == (RIGHT, "index")
    for y in (pa.array(TEXTS), pl.Series(TEXTS), pd.Series(TEXTS, dtype="category"), np.array(TEXTS)):
        indices, form = check_right_choices(y, column)
        assert (indices.tolist(), form) == (RIGHT, "choice")


def test_check_right_choices_with_invalid_targets_raises_and_names_row():
    column = check_choices(X)
    for y, error, message in [
        ([0, 1], ValueError, "inconsistent numbers"),
        ([0, 3, 0, 0, 1, 0], ValueError, "y, row 1: 3 is not an index of one of 3 choices"),
        ([0, -1, 0, 0, 1, 0], ValueError, "y, row 1: -1 is not an index"),
        ([0, 0.5, 0, 0, 1, 0], TypeError, "y, row 1: 0.5 is not an index"),
        ([0, True, 0, 0, 1, 0], TypeError, "y, row 1: True is not an index"),
        ([0, "wet", 0, 0, 1, 0], TypeError, "y, row 1: 'wet' is not an index"),
        (pd.Series([*TEXTS[:5], "dull"], index=range(10, 16)), ValueError, r"row 5 \(index 15\): 'dull' is not one of"),
        (["wet", 1, "白", "blind", "wet", "bright"], ValueError, "y, row 1: 1 is not one of the choices"),
        (["wet", pd.NA, "白", "blind", "wet", "bright"], ValueError, "y, row 1: <NA> is not one of the choices"),
        (pd.DataFrame({"a": RIGHT, "b": RIGHT}), ValueError, "y has 2 columns"),
        (np.eye(6, dtype=int), TypeError, "y is an array of 2 dimensions"),
        (set(RIGHT), TypeError, "y is a set"),
        ("wet", TypeError, "y is a single str"),
    ]:
        with pytest.raises(error, match=message):
            check_right_choices(y, column)


def test_choice_plan_shortest_counts_all_choices_of_row():
    plan = plan_choices(get_backbone("nano").tokenizer, check_choices(X), max_length=512, stride=64)
    tokens = [sum(len(plan.windows[i]) for i in plan.windows_of_rows(np.array([row]))[0]) for row in range(6)]
    assert plan.shortest(np.arange(6)) == min(tokens)
    assert plan.shortest(np.array([1, 4])) == min(tokens[1], tokens[4])


def test_padded_fills_missing_choices_with_minus_infinity():
    np.testing.assert_array_equal(padded(np.arange(4.0), np.array([3, 1]), 3), [[0, 1, 2], [3, -np.inf, -np.inf]])


def test_choosing_continued_with_other_form_of_y_raises():
    column, weights = check_choices([["a", "b", "c"]] * 2), np.ones(2)
    earlier, _ = Choosing().find([0, 1], column, weights)
    later, _ = Choosing().find(["b", "c"], column, weights)
    assert earlier.continued(earlier).form == "index"
    with pytest.raises(ValueError, match="target_form_='choice', but the earlier fit found 'index'"):
        later.continued(earlier)
