"""Columns of lists in the libraries that a tagger reads."""

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

LIBRARIES = {
    "pandas": pd.Series, "polars": pl.Series, "pyarrow": pa.array, "chunked": lambda values: pa.chunked_array([values]),
    "arrow in pandas": lambda values: pd.Series(pa.array(values).to_pandas()), "tuple": tuple,
}  # fmt: skip


@pytest.fixture(params=LIBRARIES)
def make_column(request):
    """Function that turns a list into a column of one library."""
    return LIBRARIES[request.param]
