import re
import time
import warnings
from collections import UserList, UserString, deque
from collections.abc import Sequence

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse

from skxlmr.columns.reading import check_text_column

TEXTS = ["one", "", "drei 🎬", "אַרבע", "\x00\x07", "x" * 1_000_000]


class Texts(Sequence):
    """A sequence of another library, as a column of datasets is."""

    def __getitem__(self, i):
        return TEXTS[i]

    def __len__(self):
        return len(TEXTS)


ONE = {
    "list": TEXTS,
    "deque": deque(TEXTS),
    "UserList": UserList(TEXTS),
    "sequence": Texts(),
    "tuple": tuple(TEXTS),
    "str array": np.array(TEXTS),
    "object array": np.array(TEXTS, object),
    "one-column array": np.array(TEXTS, object)[:, None],
    "list of rows": [[text] for text in TEXTS],
    "np.str_": [np.str_(text) for text in TEXTS],
    "Series": pd.Series(TEXTS, index=range(10, 16)),
    "string Series": pd.Series(TEXTS, dtype="string[python]"),
    "pyarrow Series": pd.Series(TEXTS, dtype="string[pyarrow]"),
    "pyarrow large_string Series": pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.large_string())),
    "categorical Series": pd.Series(TEXTS, dtype="category"),
    "Index": pd.Index(TEXTS),
    "DataFrame": pd.DataFrame({"text": TEXTS}),
    "polars Series": pl.Series("text", TEXTS),
    "polars categorical": pl.Series("text", TEXTS, dtype=pl.Categorical),
    "polars DataFrame": pl.DataFrame({"text": TEXTS}),
    "pyarrow array": pa.array(TEXTS),
    "pyarrow chunked array": pa.chunked_array([TEXTS]),
    "pyarrow table": pa.table({"text": TEXTS}),
}
PAIRS = {
    "array": np.array([TEXTS, TEXTS[::-1]], object).T,
    "list of tuples": list(zip(TEXTS, TEXTS[::-1], strict=True)),
    "list of UserLists": list(map(UserList, zip(TEXTS, TEXTS[::-1], strict=True))),
    "deque of lists": deque(map(list, zip(TEXTS, TEXTS[::-1], strict=True))),
    "DataFrame": pd.DataFrame({"a": TEXTS, "b": TEXTS[::-1]}),
    "polars DataFrame": pl.DataFrame({"a": TEXTS, "b": TEXTS[::-1]}),
}


@pytest.mark.parametrize("kind", ONE)
def test_check_text_column_reads_every_kind(kind):
    column = check_text_column(ONE[kind])
    expected = [text.rstrip("\x00") for text in TEXTS] if kind == "str array" else TEXTS  # numpy drops final NULs
    if kind == "categorical Series":
        expected = ONE[kind].tolist()  # pandas 2.0 takes categories for equal up to a NUL
    assert column.texts == expected
    assert {type(text) for text in column.texts} == {str}
    assert column.pairs is None
    assert column.n_features == 1
    assert (column.feature_names is not None) == kind.endswith(("DataFrame", "table"))


@pytest.mark.parametrize("kind", PAIRS)
def test_check_text_column_with_two_columns_returns_pairs(kind):
    column = check_text_column(PAIRS[kind])
    assert column.texts == TEXTS
    assert column.pairs == TEXTS[::-1]
    assert column.n_features == 2


def with_bad(value, at=3):
    texts = list("abcdef")
    texts[at] = value
    return texts


REFUSED = [
    ("a bare string", "a text", TypeError, r"single str.*\[X\]"),
    ("bare bytes", b"a text", TypeError, "single bytes"),
    ("a bare UserString", UserString("a text"), TypeError, "single UserString"),
    ("a bare bytearray", bytearray(b"a text"), TypeError, "single bytearray"),
    ("a range", range(3), TypeError, "row 0: 0 is a int, not a text"),
    ("a deque with a number", deque(["a", 1]), TypeError, "row 1: 1 is a int"),
    ("None", with_bad(None), ValueError, r"row 3: None is a missing.*fillna\(''\)"),
    ("nan", with_bad(float("nan")), ValueError, "row 3: nan is a missing.*dropna"),
    ("pd.NA", with_bad(pd.NA), ValueError, "row 3: <NA> is a missing"),
    ("NaT", with_bad(pd.NaT), ValueError, "row 3: NaT is a missing"),
    ("nan in an array of floats", np.full(3, np.nan), ValueError, "row 0: nan is a missing"),
    ("None in a Series", pd.Series(with_bad(None), name="t", index=range(10, 16)), ValueError,
     r"X, column 't', row 3 \(index 13\): .*missing"),
    ("None in a Series of labels", pd.Series(with_bad(None), index=list("uvwxyz")), ValueError,
     r"X, row 3 \(index 'x'\): .*missing"),
    ("NA in pyarrow", pd.Series(with_bad(None), dtype="string[pyarrow]"), ValueError, "row 3.*missing"),
    ("None in polars", pl.Series("t", with_bad(None)), ValueError, "row 3.*missing"),
    ("missing in the second column", pd.DataFrame({"a": list("abc"), "b": ["x", None, "z"]}), ValueError,
     "column 'b', row 1"),
    ("bytes", with_bad(b"x"), TypeError, "row 3: b'x' is a bytes.*decode"),
    ("a number", with_bad(7), TypeError, r"row 3: 7 is a int, not a text.*astype\(str\)"),
    ("a bool", with_bad(True), TypeError, "row 3: True is a bool"),
    ("a list of numbers", [1, 2], TypeError, "row 0: 1 is a int"),
    ("a numeric array", np.zeros((3, 2)), TypeError, "array of float64, but a column of texts"),
    ("a numeric Series", pd.Series([1.5, 2.5]), TypeError, "row 0: 1.5 is a float"),
    ("a bytes array", np.array([b"x"]), TypeError, "array of .S1.*[Dd]ecode"),
    ("a dict", {"a": "b"}, TypeError, "is a dict, which is not a column"),
    ("a set", {"a"}, TypeError, "is a set"),
    ("a generator", (t for t in "ab"), TypeError, "is a generator"),
    ("a lazy frame", pl.LazyFrame({"t": ["a"]}), TypeError, r"X is a LazyFrame, .* its rows first: X\.collect\(\)"),
    ("a number alone", 7, TypeError, "is a int, which is not a column"),
    ("None alone", None, TypeError, "is a NoneType"),
    ("a sparse matrix", sparse.eye(3, format="csr"), TypeError, "sparse matrix"),
    ("ragged rows", [("a", "b"), ("c",)], ValueError, "row 1: 1 values, but row 0 has 2"),
    ("a text among rows", [("a", "b"), "c"], ValueError, "row 1: 'c', but row 0 has 2"),
    ("three columns", pd.DataFrame({"a": ["x"], "b": ["y"], "c": ["z"]}), ValueError,
     "3 columns: 'a', 'b', 'c'. Select the text column"),
    ("no column", pd.DataFrame(index=range(3)), ValueError, "0 columns"),
    ("three dimensions", np.zeros((2, 2, 2), object), ValueError, "3 dimensions"),
    ("no rows", [], ValueError, r"0 sample\(s\)"),
    ("no rows in a Series", pd.Series([], dtype=object), ValueError, r"0 sample\(s\)"),
    ("no rows in a frame", pd.DataFrame({"a": []}), ValueError, r"0 sample\(s\)"),
]  # fmt: skip


@pytest.mark.parametrize(("X", "error", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_check_text_column_with_anything_else_raises(X, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        check_text_column(X)


def test_check_text_column_with_lone_surrogates_replaces_them_and_warns_once():
    texts = ["fine", "a\ud800b", "\ude00", "\ud83d\ude00"]
    with pytest.warns(UserWarning, match="3 texts contain lone surrogates.*first is row 1") as told:
        column = check_text_column(texts)
    assert len(told) == 1
    assert column.texts == ["fine", "a\ufffdb", "\ufffd", "😀"]
    assert texts[1] == "a\ud800b"


def test_check_text_column_of_a_million_texts_is_fast():
    texts = [f"text number {i}" for i in range(1_000_000)]
    started = time.process_time()
    assert check_text_column(texts).texts == texts
    assert time.process_time() - started < 5  # a guard against a slow path by row, not a measurement


def test_hidden_values_of_masked_arrays_are_missing():
    hidden = np.ma.array(["a", "b", "c"], mask=[0, 1, 0])
    with pytest.raises(ValueError, match="X, row 1: None is a missing value"):
        check_text_column(hidden)
    assert check_text_column(hidden, missing="empty").texts == ["a", "", "c"]
    pairs = np.ma.array([["a", "b"], ["c", "d"]], mask=[[0, 0], [0, 1]])
    assert check_text_column(pairs, missing="empty").pairs == ["b", ""]
    assert check_text_column(np.ma.array(["a", "b"])).texts == ["a", "b"]


def test_dataset_of_several_columns_says_how_to_select_one():
    class Dataset:
        column_names = ("text", "label")

    Dataset.column_names = list(Dataset.column_names)
    with pytest.raises(TypeError, match=r"X is a Dataset.*\['text', 'label'\]: X\['text'\]"):
        check_text_column(Dataset())


def test_names_of_files_are_warned_of():
    with pytest.warns(UserWarning, match=r"X has names of files, such as 'texts/1\.txt'.*read_text"):
        check_text_column(["texts/1.txt", "texts\\2.TXT"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_text_column(["notes.txt"])
        check_text_column(["notes.txt", "Open notes.txt"])
        check_text_column(["https://a.org/b.html", "https://a.org/c.html"])
