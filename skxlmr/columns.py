"""Validation of text columns."""

from __future__ import annotations

from collections import UserString
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set, Sized
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import narwhals as nw
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_feature_names, _check_sample_weight, _get_feature_names

from skxlmr.system.text_length import check_lengths
from skxlmr.system.warn import warn

if TYPE_CHECKING:
    from typing_extensions import Self

ROWS_AT_ONCE = 10_000
# What reads the rows of a lazy frame of Spark, Dask, Ibis, DuckDB and polars.
READERS = ("toPandas", "compute", "to_pandas", "df", "collect")
SINGLE_TEXTS = (str, UserString, bytes, bytearray, memoryview)  # sequences that are not columns
REMEDIES = {
    "missing": "Fill missing texts, for example with fillna(''), or drop these rows with dropna(); where an estimator "
    "has the parameter `missing`, 'empty' reads them as empty texts.",
    "bytes": "Decode it first: value.decode('utf-8').",
    "other": "If it is meant as text, convert it first, for example with astype(str).",
}


@dataclass(frozen=True, eq=False)
class TextColumn:
    """One or two columns of texts, as plain strings, in the caller's order.

    `pairs` is the second column, if there are two; `feature_names` are the names of the columns, if X is a frame whose
    columns have names.
    """

    texts: list[Any]
    pairs: list[str] | None
    feature_names: np.ndarray | None
    n_features: int

    @property
    def keys(self) -> Sequence[Hashable]:
        """A key per row; rows with equal keys have equal content."""
        return self.texts if self.pairs is None else list(zip(self.texts, self.pairs, strict=True))

    @property
    def strings(self) -> list[str]:
        """All strings of the column, in no particular order, with repetitions."""
        return [*self.texts, *(self.pairs or ())]

    @property
    def sizes(self) -> np.ndarray:
        """Number of characters in each row, (n_rows,)."""
        in_texts = lengths(self.texts)
        return in_texts if self.pairs is None else in_texts + lengths(self.pairs)

    def take(self, rows: Sequence[int] | np.ndarray) -> Self:
        """Select rows."""
        taken: dict[str, Any] = {
            name: [values[i] for i in rows] for name, values in vars(self).items() if isinstance(values, list)
        }
        return replace(self, **taken)


def as_objects(values: Sequence) -> np.ndarray:
    """Return an array of objects (n,) with these values, which may be of any type."""
    array = np.empty(len(values), object)
    for i, value in enumerate(values):  # at once, values of one length would be taken for a matrix
        array[i] = value
    return array


def lengths(values: Sequence[Sized]) -> np.ndarray:
    """Return the length of each value, (n,) int64."""
    return np.fromiter(map(len, values), np.int64, len(values))


def total_lengths(rows: Sequence[Sequence[Sized]]) -> np.ndarray:
    """Return the total length of the values in each row, (n,) int64."""
    return np.fromiter((sum(map(len, row)) for row in rows), np.int64, len(rows))


def check_text_column(X: Any, *, name: str = "X", missing: str = "error") -> TextColumn:
    """Read one column of texts, or two columns of text pairs, of any sequence or library that narwhals knows.

    Errors name the row. With missing="empty", missing values become empty texts. Lone surrogates, which no encoding can
    write, become U+FFFD, with one warning.

    Examples
    --------
    >>> check_text_column(["one", "two"]).texts
    ['one', 'two']
    """
    columns, labels, index = split_columns(X, name)
    names = feature_names(X, name)
    if len(columns) not in (1, 2):
        listed = f": {', '.join(map(repr, labels))}" if labels is not None else ""
        if labels is None and is_sequence(X):
            listed = f". If they are the words of one text, join them: [' '.join(row) for row in {name}]"
        raise ValueError(
            f"{name} has {len(columns)} columns{listed}. Select the text column, df['text'], or two columns "
            f"for text pairs, df[['question', 'answer']]."
        )
    if not len(columns[0]):
        raise ValueError(f"{name} has 0 sample(s), while a minimum of 1 is required: there is no text.")
    texts = [
        check_column_of_texts(column, name if labels is None else f"{name}, column {labels[i]!r}", index, missing)
        for i, column in enumerate(columns)
    ]
    return TextColumn(texts[0], texts[1] if len(texts) == 2 else None, names, len(texts))


def check_one_text(X: Any, missing: str = "error") -> TextColumn:
    """Read one column of texts; two are an error."""
    column = check_text_column(X, missing=missing)
    if column.pairs is not None:
        raise ValueError("X has 2 columns, where one of texts is needed. Select it: df['text'].")
    return column


def feature_names(X: Any, name: str = "X") -> np.ndarray | None:
    """Return the names of a frame's columns, (n_columns,), as scikit-learn's estimators do.

    None if X is not a frame, or if its columns are named by other things than strings, such as numbers.

    Raises
    ------
    TypeError
        If some of the names are strings and others are not; the message is that of scikit-learn.
    ValueError
        If two columns have the same name.
    """
    labels = _column_labels(X)
    if labels is None:
        return None
    twice = sorted({repr(label) for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(
            f"Expected unique column names, but {name} has several columns of the name {', '.join(twice)}. Rename them."
        )
    return _get_feature_names(_empty_frame(labels))


def input_names(X: Any) -> list[str] | None:
    """Return the names of the columns of a frame, or of a series; None if there are none that are strings."""
    names = feature_names(X)
    if names is not None:
        return list(names)
    series = nw.from_native(X, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(series, nw.Series) and isinstance(series.name, str) and series.name:
        return [series.name]
    return None


def check_feature_names(estimator: BaseEstimator, names: np.ndarray | None) -> None:
    """Raise scikit-learn's error if these are not the column names, in their order, that fit saw; None if X has none.

    Warns, as scikit-learn does, if only one of both has names.
    """
    try:
        _check_feature_names(estimator, None if names is None else _empty_frame(names), reset=False)
    except ValueError as error:
        raise ValueError(f"{error}Select the columns that fit saw: X{_selection(estimator)}.") from None


def check_n_features(estimator: BaseEstimator, column: TextColumn) -> None:
    """Raise scikit-learn's error unless a column has as many features as fit saw."""
    if column.n_features != estimator.n_features_in_:
        selected = f" Select those that fit saw: X{_selection(estimator)}." if _selection(estimator) else ""
        raise ValueError(
            f"X has {column.n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input (columns of texts).{selected}"
        )


def _selection(estimator: BaseEstimator) -> str:
    """Return how to select the columns that fit saw of a frame; "" if they had no names."""
    names = getattr(estimator, "feature_names_in_", None)
    return "" if names is None else f"[{list(map(str, names))}]"


def check_n_rows(values: Sequence | np.ndarray, texts: Sequence, name: str = "y") -> None:
    """Raise a ValueError unless there is one value for each row of X.

    Examples
    --------
    >>> check_n_rows([1, 0, 1], ["good", "bad"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: Found input variables with inconsistent numbers of samples: X has 2 rows, but y has 3. ...
    """
    if len(values) != len(texts):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {name.replace('y', 'X', 1)} has {len(texts)} "
            f"rows, but {name} has {len(values)}. Each row of X needs its value of y: take both from the same table."
        )


def warn_of_same_texts(keys: Sequence[Hashable]) -> None:
    """Warn if all rows, of several, are the same, by their keys."""
    if len(keys) > 1 and all(key == keys[0] for key in keys):
        warn(f"All {len(keys)} rows of X are the same, {keys[0]!r:.40}, so they tell nothing apart. Check the column.")


def check_sample_weight(
    sample_weight: Any, texts: Sequence, name: str = "sample_weight", *, non_negative: bool = False
) -> np.ndarray:
    """Return the weights of the rows, (n_rows,) float64; None and a number stand for equal ones.

    Raises
    ------
    ValueError
        If there is not one for each row, or, with `non_negative`, if one is negative; the message names its row.
    """
    shape = np.asarray(sample_weight).shape
    if len(shape) == 1 and shape[0] != len(texts):
        of = name.replace("sample_weight", "X")
        raise ValueError(f"{name} has {shape[0]} values, but {of} has {len(texts)} rows. Give one for each row.")
    try:
        weights = _check_sample_weight(sample_weight, texts, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{name} is not valid: {error}") from None
    if non_negative and (weights < 0).any():
        row = int(np.argmax(weights < 0))
        index = sample_weight.index if isinstance(sample_weight, pd.Series) else None
        raise ValueError(
            f"Negative values in data passed to `{name}`: that of {name_row(row, index)} is {weights[row]:g}. "
            f"Use 0 to leave a row out."
        )
    return weights


def is_sequence(values: Any) -> bool:
    """Whether these are several values in order, such as a list, and not a single text."""
    return isinstance(values, Sequence) and not isinstance(values, SINGLE_TEXTS)


def _column_labels(X: Any) -> list | None:
    """Return the labels of a frame's columns; None if X is not a frame."""
    if isinstance(X, list):  # takes narwhals longer to find out
        return None
    if isinstance(X, pd.DataFrame):
        return list(X.columns)
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    return list(frame.columns) if isinstance(frame, nw.DataFrame) else None


def _empty_frame(labels: Sequence | np.ndarray) -> pd.DataFrame:
    """Return a frame of these columns without rows, which scikit-learn's functions take for any frame."""
    return pd.DataFrame(columns=pd.Index(labels, dtype=object, tupleize_cols=False))


def split_columns(X: Any, name: str) -> tuple[list[list], list | None, pd.Index | None]:
    """Return the values of each column, the column names or None, and the index of pandas or None."""
    if isinstance(X, SINGLE_TEXTS):
        raise TypeError(f"{name} is a single {type(X).__name__}. Put it into a list: [{name}].")
    if isinstance(X, Mapping | Set | Iterator):
        remedy = f"Make it a list: list({name})."
        if isinstance(X, Mapping):
            remedy = (
                f"Make it a table: pandas.DataFrame({name}) if its values are columns, pandas.DataFrame([{name}]) if "
                f"it is one row."
            )
        raise TypeError(f"{name} is a {type(X).__name__}, which is not a column. {remedy}")
    if sparse.issparse(X):
        raise TypeError(f"{name} is a sparse matrix; a text column is needed, not features computed from one.")
    if isinstance(X, pd.DataFrame):
        return [X.iloc[:, i].tolist() for i in range(X.shape[1])], list(X.columns), X.index
    if isinstance(X, pd.Series):
        return [X.tolist()], None if X.name is None else [X.name], X.index
    if hasattr(X, "to_pylist") and not hasattr(X, "columns"):  # an array of pyarrow
        return [X.to_pylist()], None, None
    if isinstance(X, Sequence):  # a list, a tuple, a deque, a column of datasets, ...
        return _split_rows(list(X), name), None, None
    frame = nw.from_native(X, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        return [frame[column].to_list() for column in frame.columns], list(frame.columns), None
    if isinstance(frame, nw.Series):
        return [frame.to_list()], None, None
    if hasattr(X, "__array__"):
        return _split_array(np.asarray(X), name), None, None
    raise not_a_column(X, name, "a list, an array or a Series of texts")


def not_a_column(values: Any, name: str, wanted: str) -> TypeError:
    """Return the error about something that is not a column, or whose rows are still to be read."""
    remedy = f"Use {wanted}."
    if isinstance(nw.from_native(values, pass_through=True), nw.LazyFrame):
        reader = next((method for method in READERS if hasattr(values, method)), READERS[-1])
        remedy = f"Read its rows first: {name}.{reader}()."
    return TypeError(f"{name} is a {type(values).__name__}, which is not a column. {remedy}")


def one_column(X: Any, name: str) -> tuple[list, np.ndarray | None, pd.Index | None]:
    """Return the values of a column of any type, the name of a frame's column or None, and the index of pandas or None.

    Raises
    ------
    TypeError, ValueError
        If X is not a column, or has several.
    """
    if is_sequence(X) or (isinstance(X, np.ndarray) and X.ndim == 1):
        return list(X), None, None
    if isinstance(X, np.ndarray):
        raise TypeError(f"{name} is an array of {X.ndim} dimensions, not a column of lists. Use {name}.tolist().")
    columns, labels, index = split_columns(X, name)
    names = feature_names(X, name)
    if len(columns) != 1:
        raise ValueError(f"{name} has {len(columns)} columns: {labels}. Select one: df['...'].")
    return columns[0], names, index


def _split_rows(rows: Sequence, name: str) -> list[list]:
    """Return the columns of a list of texts, or of a list of rows with one or two texts each."""
    if not rows or not _is_row(rows[0]):
        return [list(rows)]
    width = len(rows[0])
    for i, row in enumerate(rows):
        if not _is_row(row) or len(row) != width:
            got = f"{len(row)} values" if _is_row(row) else repr(row)[:40]
            raise ValueError(
                f"{name}, row {i}: {got}, but row 0 has {width} values. All rows need the same number of texts: 1, or "
                f"2 for text pairs. If these are the words of one text, join them: [' '.join(row) for row in {name}]."
            )
    return [list(column) for column in zip(*rows, strict=True)]


def _is_row(value: Any) -> bool:
    return is_sequence(value) or isinstance(value, np.ndarray)


def _split_array(array: np.ndarray, name: str) -> list[list]:
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} has {array.ndim} dimensions; a text column has one.")
    if array.dtype.kind == "f" and np.isnan(array).all():  # all of them are missing, so their type is not known
        array = array.astype(object)
    if array.dtype.kind not in "OUT" and array.size:
        hint = "Decode it first: np.char.decode." if array.dtype.kind == "S" else "Pass the texts themselves."
        raise TypeError(f"{name} is an array of {array.dtype}, but a column of texts is needed. {hint}")
    return [array.tolist()] if array.ndim == 1 else [array[:, i].tolist() for i in range(array.shape[1])]


def check_column_of_texts(values: list, name: str, index: pd.Index | None, missing: str = "error") -> list[str]:
    """Check that every value is a str, and replace what cannot be encoded as UTF-8.

    With missing="empty", missing values become empty texts; otherwise they are an error.
    """
    types = set(map(type, values))
    if missing == "empty" and types != {str}:
        values = ["" if is_missing(value) else value for value in values]
        types = set(map(type, values))
    if types != {str}:
        if not all(issubclass(t, str) for t in types):
            row = next(i for i, value in enumerate(values) if not isinstance(value, str))
            _refuse(values[row], row, name, index)
        values = list(map(str.__str__, values))  # str() of an enum's member is its name
    check_lengths(values, lambda row: f"{name}, {name_row(row, index)}")
    return _replace_surrogates(values, name, index)


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or the like."""
    return not isinstance(value, str) and pd.api.types.is_scalar(value) and bool(pd.isna(value))


def _refuse(value: Any, row: int, name: str, index: pd.Index | None) -> NoReturn:
    """Raise an error that says what the value is."""
    shown = repr(value)
    what = f"{name}, {name_row(row, index)}: {shown[:60]}{'...' if len(shown) > 60 else ''}"
    if is_missing(value):
        raise ValueError(f"{what} is a missing value, not a text. {REMEDIES['missing']}")
    kind = "bytes" if isinstance(value, bytes | bytearray) else "other"
    raise TypeError(f"{what} is a {type(value).__name__}, not a text. {REMEDIES[kind]}")


def _replace_surrogates(texts: list[str], name: str, index: pd.Index | None) -> list[str]:
    """Replace lone surrogates by U+FFFD. Many texts are checked at once, since surrogates are rare."""
    bad: list[int] = []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        some = texts[start : start + ROWS_AT_ONCE]
        if not _is_utf8("".join(some)):
            bad += [start + i for i, text in enumerate(some) if not _is_utf8(text)]
    if not bad:
        return texts
    warn(
        f"{name}: {len(bad)} texts contain lone surrogates, which are not characters; they were replaced by U+FFFD. "
        f"The first is {name_row(bad[0], index)}."
    )
    texts = list(texts)
    for i in bad:
        # Surrogate pairs become the character that they encode; lone surrogates become U+FFFD.
        texts[i] = texts[i].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return texts


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def name_row(position: int, index: pd.Index | None) -> str:
    """Name a row by its position and, if different, its label in the index."""
    if index is None or index[position] == position:
        return f"row {position}"
    label = index[position]
    return f"row {position} (index {label.item() if isinstance(label, np.generic) else label!r})"
