"""The values of labels, and their dtype."""

import re

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skxlmr.columns import check_text_column
from skxlmr.tasks.labels import check_labels

LABELS = {
    "str": (["a", "b", "a", "b"], "U"),
    "objects": (np.array(["a", "b", "a", "b"], object), "O"),
    "bool": ([True, False, True, False], "b"),
    "Int64": (pd.Series([1, 2, 1, 2], dtype="Int64"), "i"),
    "string": (pd.Series(["a", "b", "a", "b"], dtype="string"), "O"),
    "category": (pd.Series(["a", "b", "a", "b"], dtype="category"), "O"),
    "polars": (pl.Series(["a", "b", "a", "b"]), "U"),
    "float": (np.array([0.0, 1.0, 0.0, 1.0]), "f"),
}
INVALID = {
    "too few": (["a", "b"], ValueError, "inconsistent numbers of samples"),
    "None": (["a", None, "b", "a"], ValueError, "y, row 1: None is not a label.*1 in all"),
    "indexed": (pd.Series(["a", None, "b", "a"], index=list("wxyz")), ValueError, r"y, row 1 \(index 'x'\)"),
    "nan": ([0.0, np.nan, 1.0, np.nan], ValueError, "row 1: .*nan.* not a label.*2 in all"),
    "inf": ([0.0, np.inf, 1.0, 1.0], ValueError, "infinity"),
    "continuous": ([0.1, 0.5, 0.7, 0.9], ValueError, "Unknown label type: continuous"),
    "two dimensions": ([[0, 1], [1, 0], [1, 1], [0, 0]], ValueError, "1d array"),
    "several types": (np.array([1, "a", 1, "a"], object), TypeError, r"several types \(int and str\)"),
}
COLUMN = check_text_column(["text"] * 4)


@pytest.mark.parametrize(("y", "dtype"), LABELS.values(), ids=LABELS)
def test_check_labels_keeps_values_and_dtype(y, dtype):
    labels = check_labels(y, COLUMN)
    assert labels.dtype.kind == dtype
    assert labels.tolist() == list(y)


@pytest.mark.parametrize(("y", "error", "message"), INVALID.values(), ids=INVALID)
def test_check_labels_with_invalid_labels_raises(y, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        check_labels(y, COLUMN)
