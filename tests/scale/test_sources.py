from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skxlmr.scale.ids import digest_of
from skxlmr.scale.sources import SourceFile, find_files, reader_of
from skxlmr.scale.spans import Span

TEXTS = ["plain", 'with "quotes"', "two\nlines", "", "a, b\tc", "naïve 漢字", "\r", "last"] * 3


def write(folder: Path, suffix: str, frame: pd.DataFrame) -> str:
    path = folder / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pandas(frame), path, row_group_size=5)
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, frame.to_dict("records"))) + "\n\n", encoding="utf-8")
    else:
        sep = "\t" if suffix == ".tsv" else ","
        frame.to_csv(path, index=False, sep=sep, quoting=csv.QUOTE_ALL, lineterminator="\n", encoding="utf-8-sig")
    return str(path)


def spans_of(path: str, n_rows: int) -> list[Span]:
    spans, first = [], 0
    for found in reader_of(path).scan(path, "id", n_rows):
        spans.append(Span(0, first, found.rows, found.begin, found.end, digest_of(found.ids)))
        first += found.rows
    return spans


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize("n_rows", [1, 4, 7, 100])
def test_readers_return_every_row_once_also_of_some_spans(tmp_path, suffix, n_rows):
    path = write(tmp_path, suffix, pd.DataFrame({"text": TEXTS, "id": [f"id{i}" for i in range(len(TEXTS))]}))
    spans = spans_of(path, n_rows)
    assert [span.rows for span in spans[:-1]] == [n_rows] * (len(spans) - 1)
    assert sum(span.rows for span in spans) == len(TEXTS)
    for some in (spans, spans[1::2], spans[2:3], spans[-1:]):
        found = list(reader_of(path).read(path, some, "id", ["text"]))
        assert len(found) == len(some)
        for span, rows in zip(some, found, strict=True):
            assert rows.columns == [TEXTS[span.first : span.first + span.rows]]
            assert digest_of(rows.ids) == span.ids


def test_json_lines_keep_types_and_missing_columns(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1, "text": ["a", "b"]}\n\n{"id": 2}\n{"id": 3, "text": 7}', encoding="utf-8")
    (rows,) = reader_of(str(path)).read(str(path), spans_of(str(path), 9), "id", ["text"])
    assert rows.ids.to_pylist() == [1, 2, 3]
    assert rows.columns == [[["a", "b"], None, 7]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": 1}\n{"id":', "line 2 is not JSON"),
        ("a.jsonl", b'{"id": 1}\n[1]', "line 2 is not an object"),
        ("a.jsonl", b'{"text": 1}', "line 1 has no 'id'"),
        ("a.jsonl", b'{"id": null}', "is missing"),
        ("a.jsonl", b'{"id": "\xff"}', "line 1 is not JSON"),
        ("a.jsonl", b"[" * 1000, "nested deeper"),
        ("a.csv", b"text,id\na,1\nb", "is not CSV"),
        ("a.csv", b'text,id\n"a,1\n', "ends inside of quotes"),
        ("a.csv", b"text,name\na,1\n", "no column 'id', but text, name"),
        ("a.csv", b"id,id\na,1\n", "several columns 'id'"),
        ("a.csv", b"id\n\xff\n", "is not CSV in UTF-8"),
        ("a.csv", b"", "no column 'id'"),
        ("a.parquet", b"PAR1 and no more", "is not a file of Parquet"),
    ],
)
def test_damaged_files_are_errors_that_name_the_file_and_the_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        spans_of(str(path), 10)
    assert name in str(raised.value)


def test_lines_and_records_have_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr("skxlmr.scale.text_files.MAX_RECORD_BYTES", 50)
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 1, "text": "x" * 100}))
    with pytest.raises(ValueError, match="line of more than 50 bytes"):
        spans_of(str(tmp_path / "a.jsonl"), 1)
    (tmp_path / "a.csv").write_text('id,text\n1,"' + "x\n" * 100)
    with pytest.raises(ValueError, match="is a quote not closed"):
        spans_of(str(tmp_path / "a.csv"), 1)


def test_find_files_of_folders_lists_and_single_files(tmp_path):
    names = ["b.csv", "a.parquet", "sub/c.jsonl", "_manifest.json", ".hidden.csv", "notes.txt"]
    (tmp_path / "sub").mkdir()
    for name in names:
        (tmp_path / name).write_text("x")
    found = [Path(file.path).name for file in find_files(tmp_path)]
    assert found == ["a.parquet", "b.csv", "c.jsonl"]
    assert find_files([tmp_path / "b.csv", str(tmp_path / "sub")])[1] == SourceFile.of(tmp_path / "sub" / "c.jsonl")
    with pytest.raises(ValueError, match=r"notes.txt.*ends in .parquet"):
        find_files(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_files(tmp_path / "nowhere.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no file whose name ends in"):
        find_files(tmp_path / "empty")
