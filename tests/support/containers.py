"""The same y in every container: functions from a list of rows."""

import collections

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import torch
from scipy import sparse


def objects(rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


COLUMNS_OF_VECTORS = {
    "list of lists": list,
    "list of tuples": lambda rows: list(map(tuple, rows)),
    "list of arrays": lambda rows: list(map(np.array, rows)),
    "tuple": tuple,
    "deque": collections.deque,
    "UserList of UserLists": lambda rows: collections.UserList(map(collections.UserList, rows)),
    "list of tensors": lambda rows: list(map(torch.tensor, rows)),
    "list of Series": lambda rows: list(map(pd.Series, rows)),
    "object array": objects,
    "object array of arrays": lambda rows: objects(list(map(np.array, rows))),
    "Series": pd.Series,
    "Series with an index": lambda rows: pd.Series(rows, index=range(7, 7 + len(rows))),
    "Series of tuples": lambda rows: pd.Series(list(map(tuple, rows))),
    "Series of arrays": lambda rows: pd.Series(list(map(np.array, rows))),
    "Arrow list": lambda rows: pd.Series(pd.array(rows, pd.ArrowDtype(pa.list_(pa.array(rows[0]).type)))),
    "frame of one column": lambda rows: pd.DataFrame({"labels": rows}),
    "polars": pl.Series,
    "polars array": lambda rows: pl.Series(rows, dtype=pl.Array(pl.Series(rows[0]).dtype, len(rows[0]))),
    "polars frame": lambda rows: pl.DataFrame({"labels": rows}),
    "pyarrow": pa.array,
    "pyarrow chunked": lambda rows: pa.chunked_array([rows]),
    "pyarrow table": lambda rows: pa.table({"labels": rows}),
}
TABLES = {
    "array": np.array,
    "tensor": torch.tensor,
    "sparse": lambda rows: sparse.csr_matrix(np.array(rows)),
    "frame": pd.DataFrame,
    "nullable frame": lambda rows: pd.DataFrame(np.array(rows)).convert_dtypes(),
    "polars frame": lambda rows: pl.DataFrame(np.array(rows)),
    "pyarrow table": lambda rows: pa.Table.from_pandas(pd.DataFrame(np.array(rows)).rename(columns=str)),
}
