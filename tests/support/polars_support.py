"""Whether scikit-learn takes frames of polars."""

import polars as pl
import pytest
import sklearn
from sklearn.utils.fixes import parse_version

takes_polars = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.9") and not hasattr(pl.DataFrame, "__dataframe__"),
    reason="scikit-learn before 1.9 reads polars by the interchange protocol, which polars 2 lacks",
)
