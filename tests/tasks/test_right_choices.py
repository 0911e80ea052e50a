"""Forms of right choices."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from choice_questions import CHOICES, PROMPTS, RIGHT, TEXTS, X

from skxlmr.tasks.choice_columns import check_choices
from skxlmr.tasks.right_choices import check_right_choices, right_choices


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


LABELLED = pd.DataFrame(
    {"question": PROMPTS, "choices": [{"text": c, "label": ["1", "2", "3"][: len(c)]} for c in CHOICES]}
)
FORMS = {
    "index": (X, RIGHT),
    "digit": (X, [str(i) for i in RIGHT]),
    "letter": (X, ["ABC"[i] for i in RIGHT]),
    "choice": (X, TEXTS),
    "label": (LABELLED, [str(i + 1) for i in RIGHT]),
}


@pytest.mark.parametrize("form", FORMS)
def test_check_right_choices_understands_each_form_and_right_choices_returns_it(form):
    frame, y = FORMS[form]
    column = check_choices(frame)
    indices, found = check_right_choices(y, column)
    assert (indices.tolist(), found) == (RIGHT, form)
    assert right_choices(indices, column, form).tolist() == y


def test_check_right_choices_prefers_texts_and_labels_to_numbers():
    numbers = check_choices([("1 + 1 =", ["1", "2"]), ("0 + 1 =", ["0", "1"])])
    assert check_right_choices(["2", "1"], numbers)[0].tolist() == [1, 1]
    labelled = check_choices(LABELLED)
    assert check_right_choices(TEXTS, labelled)[1] == "choice"
    with pytest.raises(ValueError, match="row 0: '0' is not one of the choices"):
        check_right_choices(["0"] * 6, labelled)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([1, 2, 1, 1, 2, 1], ValueError, "y, row 3: 1 is not an index of .* If yours are counted from 1, subtract 1"),
        (
            ["1", "2", "1", "1", "2", "1"],
            ValueError,
            "row 3: '1' is not an index of .* from 0. If yours are counted from 1",
        ),
        (
            ["A", "C", "C", "A", "A", "A"],
            ValueError,
            "row 2: 'C' is not an index of one of 2 choices, .* counted from A",
        ),
        (["a", "b", "a", "a", "b", "a"], ValueError, "row 0: 'a' is not one of the choices.* indices from 0 as int"),
        (["0", "B", "0", "0", "1", "0"], ValueError, "row 0: '0' is not one of the choices.* indices from 0 as int"),
        (["٠"] * 6, ValueError, "row 0: '٠' is not one of the choices"),
    ],
)
def test_check_right_choices_with_other_numbers_says_what_is_expected(y, error, message):
    with pytest.raises(error, match=message):
        check_right_choices(y, check_choices(X))


def test_right_choices_without_labels_raises():
    with pytest.raises(ValueError, match=r"y had the labels of choices .*, but choices of X have no labels"):
        right_choices(np.zeros(6, int), check_choices(X), "label")
