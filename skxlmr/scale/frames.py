"""The frames that engines pass to a function: of pandas, Arrow and polars, and dicts of arrays."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from skxlmr.columns import as_objects
from skxlmr.scale.outputs import Column


class PandasFrame:
    """A DataFrame of pandas."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.names = list(frame.columns)
        self.n_rows = len(frame)

    def values(self, name: str) -> list:
        """Return a column as a list."""
        return self.frame[name].tolist()

    def select(self, names: Sequence[str]) -> Any:
        """Return the frame with these columns only."""
        return self.frame[list(names)]

    def add(self, columns: Mapping[str, Column], error: list[str | None], name: str) -> Any:
        """Return the frame with more columns, the last of which has the errors."""
        arrays: dict[Any, Any] = {label: column.to_pandas() for label, column in columns.items()}
        arrays[name] = as_objects(error)
        added = [
            pd.Series(array, index=self.frame.index, dtype=array.dtype, name=label)  # objects stay objects
            for label, array in arrays.items()
        ]
        return pd.concat([self.frame, *added], axis=1)


class ArrowFrame:
    """A table or a batch of Arrow."""

    def __init__(self, table: Any) -> None:
        self.table = table
        self.names = table.schema.names
        self.n_rows = table.num_rows

    def values(self, name: str) -> list:
        """Return a column as a list."""
        return self.table.column(self.names.index(name)).to_pylist()

    def select(self, names: Sequence[str]) -> Any:
        """Return the table with these columns only."""
        return self.table.select(list(names))

    def add(self, columns: Mapping[str, Column], error: list[str | None], name: str) -> Any:
        """Return the table with more columns, the last of which has the errors."""
        import pyarrow as pa

        added = {label: column.to_arrow() for label, column in columns.items()}
        added[name] = pa.array(error, pa.string())
        old = self.table
        arrays = [*old.columns, *added.values()]
        schema = pa.schema(
            [*old.schema, *(pa.field(label, array.type) for label, array in added.items())], old.schema.metadata
        )
        return type(old).from_arrays(arrays, schema=schema)


class PolarsFrame:
    """A DataFrame of polars."""

    def __init__(self, frame: Any) -> None:
        self.frame = frame
        self.names = frame.columns
        self.n_rows = frame.height

    def values(self, name: str) -> list:
        """Return a column as a list."""
        return self.frame[name].to_list()

    def select(self, names: Sequence[str]) -> Any:
        """Return the frame with these columns only."""
        return self.frame.select(list(names))

    def add(self, columns: Mapping[str, Column], error: list[str | None], name: str) -> Any:
        """Return the frame with more columns, the last of which has the errors."""
        polars: Any = sys.modules["polars"]
        added = [polars.from_arrow(column.to_arrow()).alias(label) for label, column in columns.items()]
        return self.frame.with_columns([*added, polars.Series(name, error, dtype=polars.String)])


class NumpyFrame:
    """A dict of arrays, as Ray Data passes it by default."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = dict(arrays)
        self.names = list(self.arrays)
        sizes = {name: len(array) for name, array in self.arrays.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"The arrays of the dict have different lengths: {sizes}.")
        self.n_rows = next(iter(sizes.values()), 0)

    def values(self, name: str) -> list:
        """Return a column as a list."""
        return list(np.asarray(self.arrays[name], None).tolist())

    def select(self, names: Sequence[str]) -> Any:
        """Return a dict of these arrays only."""
        return {name: self.arrays[name] for name in names}

    def add(self, columns: Mapping[str, Column], error: list[str | None], name: str) -> Any:
        """Return the dict with more arrays, the last of which has the errors."""
        return self.arrays | {label: column.to_numpy() for label, column in columns.items()} | {name: as_objects(error)}


Frame = PandasFrame | ArrowFrame | PolarsFrame | NumpyFrame


def as_frame(frame: Any) -> Frame:
    """Return what reads a frame and adds columns to it.

    Raises
    ------
    TypeError
        If it is of another library.
    """
    if isinstance(frame, pd.DataFrame):
        return PandasFrame(frame)
    if isinstance(frame, Mapping):
        return NumpyFrame(frame)
    arrow, polars = sys.modules.get("pyarrow"), sys.modules.get("polars")  # imported, if the frame is theirs
    if arrow is not None and isinstance(frame, arrow.Table | arrow.RecordBatch):
        return ArrowFrame(frame)
    if polars is not None and isinstance(frame, polars.DataFrame):
        return PolarsFrame(frame)
    raise TypeError(
        f"A frame is needed, a DataFrame of pandas or polars, a table of Arrow or a dict of arrays, or an iterator of "
        f"them; got a {type(frame).__name__}."
    )
