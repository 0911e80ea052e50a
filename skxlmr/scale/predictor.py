"""A fitted estimator as a function of frames, which engines for many rows can send to their processes."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skxlmr.columns import as_objects, is_missing
from skxlmr.estimators.base import XLMRXLEstimator
from skxlmr.estimators.loading import load
from skxlmr.runtime.backbone import on_release
from skxlmr.runtime.feature_cache import streaming
from skxlmr.saving.estimators import NAME
from skxlmr.scale.frames import as_frame
from skxlmr.scale.outputs import PREFIXES, Column, Layout
from skxlmr.system import atomic
from skxlmr.system.forks import after_fork

MOST_LOADED = 2  # estimators that a process keeps
WHOLLY_READ = 2**26  # bytes of a file up to which its content, and not only its size, identifies it
NOT_OF_ROWS = (OSError, MemoryError, ImportError)  # errors that have nothing to do with the rows

_loaded: OrderedDict[str, tuple[XLMRXLEstimator, Layout]] = OrderedDict()
on_release(_loaded.clear)
_lock = threading.Lock()


@after_fork
def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


class Predictor:
    """A fitted estimator as a function from a frame to a frame, for engines that run it in many processes.

    It is passed to `map_batches` of Ray Data, `mapInPandas` and `mapInArrow` of Spark, `map_partitions` of Dask, or
    `map_batches` of polars, or called. A process loads the estimator, with its base model, once, at its first rows.

    Parameters
    ----------
    estimator : fitted estimator, str or path
        A fitted estimator of this library, or anything that `skxlmr.load` reads: a directory that `save` has written, a
        checkpoint, or the id of a model on the hub. A directory must be there, under the same path, on every machine;
        an estimator travels in its pickle, as the files that `save` writes.
    method : {"predict", "predict_proba", "predict_log_proba", "decision_function", "transform", "log_likelihood", \
"pseudo_log_likelihood"}, default="predict"
        The method that is called.
    column : str or list of str, default="text"
        The column of texts; or all columns that are read, such as two for text pairs, in the order in which the
        estimator takes them.
    parameters : dict, default=None
        Parameters that the estimator is loaded with, such as `{"device": "cuda", "load_in_8bit": True}`; see
        `skxlmr.load`.
    keep : list of str, default=None
        The columns of the frame that are in the result; None keeps all.
    error_column : str, default="error"
        The name of the column of errors.

    Attributes
    ----------
    fingerprint : str
        SHA-256 of the files of the estimator.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    FileNotFoundError
        If there is no such directory, and no such model on the hub; this and errors of the files come at the first
        rows.
    TypeError
        If it is not an estimator of this library.
    ValueError
        If the method does not exist, or the estimator has a tokenizer that `save` does not write.

    Notes
    -----
    The result has the columns of the frame; those of the method: "prediction", "decision", "vector" and so on, or one
    column per class, such as "proba_yes"; and one of errors, which is missing where there was none. Vectors, tags and
    other lists are in one column of lists.

    A row that cannot be predicted, such as a missing text, has its error in that column and no prediction; the other
    rows are predicted. Such rows are found by halves. Errors that have nothing to do with rows, such as a full disk or
    a base model that is not there, are raised.

    Examples
    --------
    >>> import pandas as pd
    >>> from skxlmr import XLMRXLClassifier
    >>> from skxlmr.scale import Predictor
    >>> clf = XLMRXLClassifier("nano", tuning="head", random_state=0).fit(["good", "bad"], ["yes", "no"])
    >>> predict = Predictor(clf, method="predict_proba")
    >>> frame = predict(pd.DataFrame({"id": [1, 2], "text": ["good", None]}))
    >>> frame.columns.tolist()
    ['id', 'text', 'proba_no', 'proba_yes', 'error']
    >>> frame.error[1]
    "column 'text': a missing value, not a text"
    """

    def __init__(
        self,
        estimator: XLMRXLEstimator | str | os.PathLike,
        *,
        method: str = "predict",
        column: str | Sequence[str] = "text",
        parameters: Mapping[str, Any] | None = None,
        keep: Sequence[str] | None = None,
        error_column: str = "error",
    ) -> None:
        if method not in PREFIXES:
            raise ValueError(f"method must be one of {', '.join(PREFIXES)}, got {method!r}.")
        self.method = method
        self.column = column
        self.parameters = dict(parameters or {})
        self.keep = None if keep is None else list(keep)
        self.error_column = error_column
        self._files: dict[str, bytes] | None = None
        if isinstance(estimator, XLMRXLEstimator):
            _check_method(estimator, method)
            self._files = _files_of(estimator)
            self.directory = None
            self.fingerprint = _digest((name, data) for name, data in sorted(self._files.items()))
        elif isinstance(estimator, str | os.PathLike):
            self.directory = _absolute(estimator)
            self.fingerprint = _fingerprint(self.directory)
        else:
            raise TypeError(
                f"A fitted estimator of skxlmr is needed, or the directory of one, got a {type(estimator).__name__}. "
                f"Of a pipeline, pass the estimator in it."
            )

    @property
    def columns(self) -> list[str]:
        """The names of the columns that are read."""
        return [self.column] if isinstance(self.column, str) else list(self.column)

    def __call__(self, frame: Any) -> Any:
        """Predict the rows of a frame.

        Parameters
        ----------
        frame : DataFrame of pandas or polars, Table or RecordBatch of Arrow, dict of arrays, or an iterator of them

        Returns
        -------
        frame of the same kind, with the same rows in the same order; of an iterator, an iterator

        Raises
        ------
        ValueError
            If the frame has not the columns that are read or kept, or has already a column of the same name as a new
            one.
        """
        if isinstance(frame, Iterator):
            return map(self, frame)
        given = as_frame(frame)
        for name in [*self.columns, *(self.keep or ())]:
            if name not in given.names:
                raise ValueError(f"The frame has no column {name!r}; it has {', '.join(map(str, given.names[:20]))}.")
        results, errors = self.predict_columns([given.values(name) for name in self.columns])
        kept = given if self.keep is None else as_frame(given.select(self.keep))
        twice = [name for name in [*results, self.error_column] if name in kept.names]
        if twice:
            raise ValueError(
                f"The frame has already a column {twice[0]!r}. Rename it, or leave it out with keep=[...]; "
                f"error_column=... renames that of errors."
            )
        return kept.add(results, errors, self.error_column)

    def predict_columns(self, columns: Sequence[list]) -> tuple[dict[str, Column], list[str | None]]:
        """Predict rows that are given as one list per column that is read.

        Returns
        -------
        columns : dict of str to Column
        errors : list of str or None, one per row
        """
        estimator, layout = self._load()
        n_rows = len(columns[0])
        errors: list[str | None] = [None] * n_rows
        if getattr(estimator, "missing", "error") != "empty":
            self._find_missing(columns, errors)
        rows = [row for row in range(n_rows) if errors[row] is None]
        pieces: list[np.ndarray] = []
        if rows:
            self._predict_rows(estimator, columns, rows, pieces, errors)
        predicted = np.array([error is None for error in errors], bool)
        return layout.columns(pieces, predicted), errors

    def _find_missing(self, columns: Sequence[list], errors: list[str | None]) -> None:
        """Set the errors of rows without a text; only the first two columns may not be missing, others are choices."""
        for name, values in list(zip(self.columns, columns, strict=True))[:2]:
            if set(map(type, values)) <= {str}:
                continue
            for row, value in enumerate(values):
                if errors[row] is None and is_missing(value):
                    errors[row] = f"column {name!r}: a missing value, not a text"

    def _predict_rows(
        self,
        estimator: XLMRXLEstimator,
        columns: Sequence[list],
        rows: list[int],
        pieces: list[np.ndarray],
        errors: list[str | None],
    ) -> None:
        """Append the results of rows, in their order; of rows that raise, found by halves, set the errors."""
        try:
            X = self._input(estimator, [[values[row] for row in rows] for values in columns])
            pieces.append(self._run(estimator, X))
            return
        except NOT_OF_ROWS:
            raise
        except Exception as error:
            if len(rows) == 1:
                errors[rows[0]] = f"{type(error).__name__}: {error!s:.500}"
                return
        middle = len(rows) // 2
        self._predict_rows(estimator, columns, rows[:middle], pieces, errors)
        self._predict_rows(estimator, columns, rows[middle:], pieces, errors)

    def _run(self, estimator: XLMRXLEstimator, X: Any) -> np.ndarray:
        with streaming():
            return np.asarray(getattr(estimator, self.method)(X))

    def _input(self, estimator: XLMRXLEstimator, columns: Sequence[list]) -> Any:
        """Return columns as the estimator has seen them in fit: with the names that they had there, or without."""
        columns = [[v.tolist() if isinstance(v, np.ndarray) else v for v in values] for values in columns]
        names = getattr(estimator, "feature_names_in_", None)
        if names is None and (len(columns) == 1 or hasattr(estimator, "n_features_in_")):
            if len(columns) == 1:
                return columns[0]
            X = np.empty((len(columns[0]), len(columns)), object)
            for i, values in enumerate(columns):
                X[:, i] = as_objects(values)
            return X
        if names is None or len(names) != len(columns):
            names = self.columns
        return pd.DataFrame(
            {name: pd.Series(values, dtype=object) for name, values in zip(names, columns, strict=True)}
        )

    def _load(self) -> tuple[XLMRXLEstimator, Layout]:
        """Return the estimator and the layout of its results, which a process loads once."""
        key = repr((self.fingerprint, self.directory, self.method, self.columns, sorted(self.parameters.items())))
        with _lock:
            if key not in _loaded:
                estimator = self.read()
                _check_method(estimator, self.method)
                _loaded[key] = estimator, self._example(estimator)
                while len(_loaded) > MOST_LOADED:
                    _loaded.popitem(last=False)
            _loaded.move_to_end(key)
            return _loaded[key]

    def read(self) -> XLMRXLEstimator:
        """Read the estimator from its files, without its base model."""
        if self.directory is not None:
            if _fingerprint(self.directory) != self.fingerprint:
                raise ValueError(f"The files in {self.directory} have changed since the Predictor was made.")
            return load(self.directory, **self.parameters)
        assert self._files is not None
        with tempfile.TemporaryDirectory(prefix="skxlmr-") as directory:
            for name, data in self._files.items():
                atomic.write_bytes(Path(directory) / name, data)
            return load(directory, **self.parameters)

    def _example(self, estimator: XLMRXLEstimator) -> Layout:
        """Predict an example row, to find the layout; an error of every kind of row is one of the estimator."""
        cells: list[Any] = ["a", ["a"], ["a", "a"]]  # a text; tokens; choices, which come last
        first: Exception | None = None
        for cell in cells:
            try:
                X = self._input(estimator, [["a"] for _ in self.columns[1:]] + [[cell]])
                outputs = self._run(estimator, X)
            except NOT_OF_ROWS:
                raise
            except Exception as error:
                first = first or error
            else:
                return Layout.of(outputs, PREFIXES[self.method], getattr(estimator, "classes_", None))
        assert first is not None
        raise first


def _check_method(estimator: XLMRXLEstimator, method: str) -> None:
    if not hasattr(estimator, method):
        there = [name for name in PREFIXES if hasattr(estimator, name)]
        raise ValueError(f"{type(estimator).__name__} has no method {method!r}. It has {', '.join(there)}.")


def _files_of(estimator: XLMRXLEstimator) -> dict[str, bytes]:
    """Return the files that `save` writes."""
    if getattr(estimator, "tokenizer", None) is not None:
        raise ValueError(
            f"The tokenizer of this {type(estimator).__name__} is a function, which is not saved. "
            f"Pass tokens as lists, and set tokenizer=None."
        )
    with tempfile.TemporaryDirectory(prefix="skxlmr-") as directory:
        estimator.save(directory)
        return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def _absolute(directory: str | os.PathLike) -> str:
    path = Path(directory).expanduser()
    return os.path.abspath(path) if path.is_dir() else os.fspath(directory)


def _fingerprint(directory: str) -> str:
    """Return a SHA-256 of the files of an estimator; of large files beside it, of their names and sizes."""
    root = Path(directory)
    if not root.is_dir():
        return _digest([("hub", directory.encode())])
    if (root / NAME).is_file():  # it has the checksum of the tensors
        return _digest([(NAME, (root / NAME).read_bytes())])
    files = sorted(path for path in root.rglob("*") if path.is_file() and not atomic.is_temporary(path))
    return _digest((path.relative_to(root).as_posix(), _content(path)) for path in files)


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    return path.read_bytes() if size <= WHOLLY_READ else str(size).encode()


def _digest(files: Any) -> str:
    digest = hashlib.sha256()
    for name, data in files:
        digest.update(f"{name}\n{len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()
