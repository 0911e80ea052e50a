"""What labels are, whatever holds them."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from containers import COLUMNS_OF_VECTORS, TABLES
from scipy import sparse

from skxlmr.columns import check_text_column
from skxlmr.tasks.labels import check_classes, check_labels, find_form, read_labels

LISTS = [["sport", "weather"], ["weather"], ["sport"], []]
INDICATOR = np.array([[1, 1], [0, 1], [1, 0], [0, 0]])  # columns sport, weather
COLUMN = check_text_column(["text"] * 4)
EVERY_ROW = np.arange(4)


@pytest.mark.parametrize("container", COLUMNS_OF_VECTORS | TABLES)
def test_vectors_of_0_and_1_are_an_indicator_in_every_container(container):
    make = (COLUMNS_OF_VECTORS | TABLES)[container]
    for rows in (INDICATOR, INDICATOR.astype(float), INDICATOR.astype(bool)):
        labels = read_labels(make(rows.tolist()), COLUMN)
        assert labels.form == find_form(make(rows.tolist())) == "indicator"
        classes = labels.classes(EVERY_ROW)
        assert list(map(str, classes))[-1] in ("1", "column_1")
        np.testing.assert_array_equal(labels.numbers(classes), INDICATOR)


@pytest.mark.parametrize("container", COLUMNS_OF_VECTORS | TABLES)
def test_fractions_that_sum_to_1_are_probabilities_in_every_container(container):
    rows = [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    labels = read_labels((COLUMNS_OF_VECTORS | TABLES)[container](rows), COLUMN)
    assert (labels.kind, labels.form) == ("probabilities", None)
    np.testing.assert_array_equal(labels.numbers(labels.classes(EVERY_ROW)), rows)


@pytest.mark.parametrize("container", sorted(set(COLUMNS_OF_VECTORS) - {"polars array", "list of tensors"}))
def test_vectors_of_names_are_lists_in_every_container(container):
    rows = LISTS if container != "Arrow list" else [*LISTS[:3], []]
    labels = read_labels(COLUMNS_OF_VECTORS[container](rows), COLUMN)
    assert labels.form == "lists"
    classes = labels.classes(EVERY_ROW)
    assert classes.tolist() == ["sport", "weather"]
    np.testing.assert_array_equal(labels.numbers(classes), INDICATOR)


@pytest.mark.parametrize(
    ("y", "form"),
    [
        ([0, 1, 0, 1], None),
        (pd.DataFrame({"y": [0, 1, 0, 1]}), None),
        ([[0, 1], [1, 1], [1, 0], [1]], "lists"),
        ([[0, 1], [1, 2], [1, 0], [1, 1]], "lists"),
        ([[0], [1], [1], [0]], "lists"),
        ([{0, 1}] * 4, "lists"),
        ([frozenset({0, 1}), {0}, {1}, set()], "lists"),
        (pd.Series([{0, 1}] * 4), "lists"),
        ([["a", "b"]] * 4, "lists"),
        (np.array([["a", "b"]] * 4), "lists"),
        ([[], [], [], []], "lists"),
        ([[True, False], [False, True]] * 2, "indicator"),
        (sparse.eye(4, format="csc"), "indicator"),
    ],
)
def test_form_of_labels(y, form):
    assert read_labels(y, COLUMN).form == find_form(y) == form


def test_find_form_with_known_classes_takes_vectors_of_another_length_for_lists():
    assert find_form([[0, 1], [1, 2]], [0, 1, 2]) == find_form([[0, 1], [1, 0]], [0, 1, 2]) == "lists"
    assert find_form([[0, 1], [1, 0]], ["a", "b"]) == "indicator"


def test_a_form_that_fit_has_found_decides_what_vectors_mean():
    y = [[0, 1], [1, 0], [0, 1], [1, 1]]
    classes = np.arange(3)
    np.testing.assert_array_equal(
        read_labels(pd.Series(y), COLUMN, form="lists").numbers(classes), [[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0]]
    )
    np.testing.assert_array_equal(
        read_labels(INDICATOR, COLUMN, form="lists").numbers(np.array(["sport", "weather"], object)), INDICATOR
    )
    for wrong in ([{0, 1}] * 4, [[0, 1], [1], [0, 1], [1]], LISTS):
        with pytest.raises(ValueError, match=r"y, row [01]: .* is not a row of 0 and 1, as fit was given"):
            read_labels(wrong, COLUMN, form="indicator")
    with pytest.raises(ValueError, match="columns of 0 and 1 are needed"):
        read_labels([0, 1, 0, 1], COLUMN, form="indicator")
    with pytest.raises(ValueError, match="should be a 1d array, with one label per row"):
        read_labels(y, COLUMN, form=None)
    with pytest.raises(ValueError, match=r"y, row 0: 'a' is not a list of labels"):
        read_labels(["a"] * 4, COLUMN, form="lists")


def test_labels_of_some_rows_only():
    single = read_labels(["a", "b", "c", "a"], COLUMN)
    assert single.classes(np.array([0, 1])).tolist() == ["a", "b"]
    assert single.numbers(np.array(["a", "b"]), unknown=-1).tolist() == [0, 1, -1, 0]
    with pytest.raises(ValueError, match=r"y has labels that classes has not: \['c'\]"):
        single.numbers(np.array(["a", "b"]))
    lists = read_labels(LISTS, COLUMN)
    assert lists.classes(np.array([1, 3])).tolist() == ["weather"]
    found = lists.numbers(np.array(["weather"], object), unknown=np.nan)
    np.testing.assert_array_equal(found, [[np.nan], [1], [np.nan], [0]])
    with pytest.raises(ValueError, match="y, row 0: the label 'sport' is not one of those that fit was given"):
        lists.numbers(np.array(["weather"], object))
    with pytest.raises(ValueError, match="no label in any row"):
        lists.classes(np.array([3]))


def test_texts_are_never_equal_to_numbers():
    with pytest.raises(ValueError, match="y has labels such as 0, but the classes are such as '0'"):
        read_labels([0, 1, 0, 1], COLUMN).numbers(np.array(["0", "1"]), unknown=-1)
    assert read_labels([0, 1, 0, 1], COLUMN).numbers(np.array([False, True])).tolist() == [0, 1, 0, 1]


def test_columns_of_a_table_must_be_the_classes():
    frame = pd.DataFrame(INDICATOR, columns=["sport", "weather"])
    labels = read_labels(frame, COLUMN)
    assert labels.classes(EVERY_ROW).tolist() == ["sport", "weather"]
    with pytest.raises(ValueError, match=r"columns \['sport', 'weather'\], but the labels are \['weather', 'sport'\]"):
        labels.numbers(np.array(["weather", "sport"], object))
    with pytest.raises(ValueError, match="y has 2 columns of labels, but there are 3 classes"):
        labels.numbers(np.arange(3))
    for library in (pl.DataFrame(frame.to_dict("list")), pa.table(frame.to_dict("list"))):
        assert read_labels(library, COLUMN).classes(EVERY_ROW).tolist() == ["sport", "weather"]


def test_check_labels_refuses_several_labels_and_probabilities():
    for y in (INDICATOR, LISTS, [[0.5, 0.5]] * 4):
        with pytest.raises(ValueError, match="should be a 1d array"):
            check_labels(y, COLUMN)


def test_check_classes():
    assert check_classes(["b", "a"], None).tolist() == ["a", "b"]
    assert check_classes(["b", "a"], "indicator").tolist() == ["b", "a"]
    with pytest.raises(ValueError, match="at least 2 labels"):
        check_classes(["a"], None)
