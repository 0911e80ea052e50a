from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skxlmr.cli.output import Output
from skxlmr.cli.parsing import UsageError
from skxlmr.cli.writing import open_writer, output_format

COLUMNS = {"id": [1, 2], "text": ["a,\nb", None], "tags": [["O"], None], "vector": np.array([[0.5, 1], [np.nan] * 2])}
PLACES = ["in.csv, line 2", "in.csv, line 3"]


def test_csv_has_vectors_in_columns_and_lists_as_json(tmp_path):
    path = tmp_path / "out.csv"
    with open_writer(str(path), "csv") as writer:
        writer.write(COLUMNS, PLACES)
        writer.write({name: cells[:1] for name, cells in COLUMNS.items()}, PLACES[:1])
    rows = '1,"a,\nb","[""O""]",0.5,1.0\n'
    assert path.read_text() == f"id,text,tags,vector_0,vector_1\n{rows}2,,,,\n{rows}"


def test_json_lines_have_no_nan(tmp_path):
    path = tmp_path / "out.jsonl"
    with open_writer(str(path), "jsonl") as writer:
        writer.write(COLUMNS | {"x": [float("nan"), {"y": [float("inf")]}]}, PLACES)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {"id": 1, "text": "a,\nb", "tags": ["O"], "vector": [0.5, 1.0], "x": None}
    assert second == {"id": 2, "text": None, "tags": None, "vector": [None, None], "x": {"y": [None]}}


def test_parquet_is_written_to_files_and_standard_output(tmp_path, monkeypatch):
    columns = {"id": [1, 2], "text": ["a", None], "tags": [["O"], None]}
    with open_writer(str(tmp_path / "out.parquet"), "parquet") as writer:
        writer.write(columns, PLACES)
        writer.write({"id": [3]}, PLACES[:1])
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert frame["id"].tolist() == [1, 2, 3]
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Output(io.TextIOWrapper(raw)))
    with open_writer(None, "parquet") as writer:
        writer.write(columns, PLACES)
    assert pd.read_parquet(io.BytesIO(raw.getvalue()))["id"].tolist() == [1, 2]


def test_parquet_with_cells_of_several_types_names_the_column(tmp_path):
    with pytest.raises(ValueError, match="'x' has cells of several types"), open_writer(None, "parquet") as w:
        w.write({"x": [1, "a"]}, PLACES)


def write(path: Path, *blocks: dict) -> None:
    with open_writer(str(path), "csv") as writer:
        for block in blocks:
            writer.write(block, PLACES[: len(block["a"])])


def test_an_error_leaves_the_earlier_file_and_names_the_row(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("earlier")
    with pytest.raises(ValueError, match=r"in.csv, line 2: from here on there is a column 'b'"):
        write(path, {"a": [1]}, {"a": [1], "b": [2]})
    assert path.read_text() == "earlier"
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]


def test_output_format_is_that_of_the_name_or_of_the_input():
    assert output_format("a.parquet", None, "csv") == "parquet"
    assert output_format("a.parquet", "csv", "csv") == "csv"
    assert [output_format(None, None, of_input) for of_input in ("csv", "tsv", "text", "parquet")] == [
        "csv",
        "tsv",
        "jsonl",
        "jsonl",
    ]
    with pytest.raises(UsageError, match="--output-format"):
        output_format("a.txt", None, "csv")
