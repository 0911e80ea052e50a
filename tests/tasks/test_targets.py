"""Every container of y is read alike."""

import collections
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from containers import COLUMNS_OF_VECTORS, TABLES

from skxlmr.columns import check_text_column
from skxlmr.tasks.targets import read_target, refuse_y_as_text, warn_of_swapped

COLUMN = check_text_column(["a", "b", "c"])
VECTORS = [[1, 0, 0], [0, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize("container", COLUMNS_OF_VECTORS)
def test_column_of_vectors_can_be_stacked(container):
    target = read_target(COLUMNS_OF_VECTORS[container](VECTORS), COLUMN)
    assert target.has_vectors
    np.testing.assert_array_equal(target.stack(), VECTORS)


@pytest.mark.parametrize("container", TABLES)
def test_table_has_its_values(container):
    target = read_target(TABLES[container](VECTORS), COLUMN)
    assert not target.has_vectors
    np.testing.assert_array_equal(target.values.astype(int), VECTORS)
    assert (target.names is not None) == ("frame" in container or "table" in container)


@pytest.mark.parametrize(
    "y",
    [
        ["x", "y", "x"],
        np.array(["x", "y", "x"]),
        np.array(["x", "y", "x"])[:, None],
        pd.Series(["x", "y", "x"], dtype="category"),
        pd.DataFrame({"y": ["x", "y", "x"]}),
        pl.Series(["x", "y", "x"], dtype=pl.Categorical),
        pl.DataFrame({"y": ["x", "y", "x"]}),
        pa.array(["x", "y", "x"]),
        pd.Index(["x", "y", "x"]),
        pd.Categorical(["x", "y", "x"]),
        collections.deque(["x", "y", "x"]),
    ],
    ids=lambda y: type(y).__name__,
)
def test_column_of_single_values_has_no_vectors(y):
    target = read_target(y, COLUMN)
    assert not target.has_vectors
    assert target.values.tolist() == ["x", "y", "x"]
    assert target.is_column == (getattr(y, "ndim", 1) == 2 or isinstance(y, pl.DataFrame))


def test_missing_values_of_masked_arrays_are_none_and_those_of_vectors_nan():
    assert read_target(np.ma.array([1, 2, 3], mask=[0, 1, 0]), COLUMN).values.tolist() == [1, None, 3]
    np.testing.assert_array_equal(
        read_target([[1, None], [0, 1], [pd.NA, 1]], COLUMN).stack()[[0, 2]], [[1, np.nan], [np.nan, 1]]
    )


@pytest.mark.parametrize(
    "rows",
    [[[1], [1, 0], [1]], [{1, 0}, {1, 0}, {1, 0}], [["a", "b"]] * 3, [[1, 0], None, [1, 0]], [[1, 0], 1, [1, 0]]],
)
def test_rows_that_are_not_vectors_of_one_length_cannot_be_stacked(rows):
    assert read_target(pd.Series(rows), COLUMN).stack() is None


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ("abc", TypeError, "y is a str, which is not a column"),
        (7, TypeError, "y is a int"),
        ({"a": 1}, TypeError, "y is a dict"),
        ({1, 2, 3}, TypeError, "y is a set"),
        (iter([1, 2, 3]), TypeError, "y is a list_iterator"),
        (object(), TypeError, "y is a object"),
        (pl.LazyFrame({"y": [1, 2, 3]}), TypeError, "Read its rows first: y.collect()"),
        (np.zeros((3, 2, 2)), ValueError, "3 dimensions"),
        ([1, 2], ValueError, "inconsistent numbers of samples"),
    ],
)
def test_read_target_with_anything_else_raises(y, error, message):
    with pytest.raises(error, match=re.escape(message)):
        read_target(y, COLUMN)


def test_text_column_that_equals_y_is_refused():
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", "y", "x"]})
    with pytest.raises(ValueError, match=r"X, column 'label': it is the same as y.*df\['text'\]"):
        refuse_y_as_text(check_text_column(frame), np.array(["x", "y", "x"], object))
    numbers = check_text_column([["1", "a"], ["2.50", "b"], ["0", "c"]])
    with pytest.raises(ValueError, match="X, column 0: it is the same as y"):
        refuse_y_as_text(numbers, np.array([1, 2.5, 0]))
    refuse_y_as_text(numbers, np.array([1, 2.5, 1]))
    refuse_y_as_text(check_text_column(["x", "y", "x"]), np.array(["x", "y", "x"]))


def test_texts_and_labels_that_may_be_swapped_are_warned_of():
    texts, labels = ["good", "bad", "fine", "poor"], np.array(["yes", "no", "yes", "no"])
    with pytest.warns(UserWarning, match=r"X has 2 different texts, such as 'yes', but y has 4 .*'good'.*swapped"):
        warn_of_swapped(check_text_column(labels), np.array(texts))
    with pytest.warns(UserWarning, match="y is the same as X"):
        warn_of_swapped(check_text_column(texts), np.array(texts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_swapped(check_text_column(texts), labels)
        warn_of_swapped(check_text_column(texts), np.array(["a", "b", "c", "d"]))
        warn_of_swapped(check_text_column(labels), np.arange(4))
        warn_of_swapped(check_text_column(list(zip(labels, labels, strict=True))), np.array(texts))
