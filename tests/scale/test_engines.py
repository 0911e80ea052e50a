"""Predictors in engines of others, for real."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from skxlmr.scale import Predictor

pytestmark = [pytest.mark.engines, pytest.mark.filterwarnings("ignore")]  # warnings of the engines


def test_predictor_in_dask(clf, embedder, table):
    dask = pytest.importorskip("dask.dataframe", reason="Dask is not installed")
    frame = dask.from_pandas(table, npartitions=3)
    for estimator, method in ((clf, "predict_proba"), (embedder, "transform")):
        call = Predictor(estimator, method=method)
        mapped = frame.map_partitions(call, meta=call(frame._meta))
        found = mapped.compute(scheduler="threads", num_workers=2)
        pd.testing.assert_frame_equal(found, call(table), check_dtype=False)
        assert list(mapped.columns) == list(found.columns)


def test_predictor_in_spark(clf, table, monkeypatch):
    spark_sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed")
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    session = (
        spark_sql.SparkSession.builder.master("local[2,3]")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    try:
        frame = session.createDataFrame(table).repartition(3)
        call = Predictor(clf, method="predict_proba")
        schema = from_arrow_schema(call(to_arrow_schema(frame.schema).empty_table()).schema)
        for mapped in (frame.mapInPandas(call, schema), frame.mapInArrow(call, schema)):
            found = mapped.toPandas().sort_values("id")
            np.testing.assert_array_equal(found[["proba_no", "proba_yes"]], clf.predict_proba(table.text))
            assert found.error.isna().all()
    finally:
        session.stop()
