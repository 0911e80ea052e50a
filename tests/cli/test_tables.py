from __future__ import annotations

import gzip
import re

import pytest

from skxlmr.cli.parsing import UsageError
from skxlmr.cli.tables import read_blocks, read_table


@pytest.mark.parametrize("name", ["reviews.csv", "reviews.tsv", "reviews.jsonl", "reviews.parquet"])
def test_tables_of_every_format_have_the_same_rows(tables, name):
    table = read_table([str(tables / name)])
    assert list(table.columns) == ["id", "text", "label", "language"]
    assert table.columns["text"][1] == "很好看"
    assert [str(each) for each in table.columns["id"]] == [str(i) for i in range(16)]
    unit, first = {"csv": ("line", 2), "tsv": ("line", 2), "jsonl": ("line", 1), "parquet": ("row", 1)}[table.format]
    assert table.places[0] == f"{tables / name}, {unit} {first}"


@pytest.mark.parametrize("name", ["reviews.csv", "reviews.tsv", "reviews.jsonl", "reviews.parquet"])
def test_standard_input_is_read_by_its_first_bytes(tables, name, pipe_in):
    pipe_in((tables / name).read_bytes())
    table = read_table([])
    assert table.columns == read_table([str(tables / name)]).columns
    assert table.places[1].startswith("standard input, ")


def test_text_has_one_text_per_line(tables, pipe_in):
    assert len(read_table([str(tables / "reviews.txt")])) == 4
    pipe_in("one\n\ntwo, of course\n")
    table = read_table(["-"], "text")
    assert table.columns == {"text": ["one", "two, of course"]}
    assert table.places == ["standard input, line 1", "standard input, line 3"]


def test_blocks_follow_each_other_across_files(tables):
    names = [str(tables / "reviews.csv"), str(tables / "reviews.jsonl")]
    blocks = list(read_blocks(names, n_rows=10))
    assert [len(block) for block in blocks] == [10, 6, 10, 6]
    table = read_table(names)
    assert len(table) == 32
    assert table.columns["id"][15:17] == ["15", 0]


def test_csv_with_quoted_lines_counts_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbftext,label\r\n"two\nlines, ""quoted""",x\r\n\r\nNA,\r\n')
    table = read_table([str(path)])
    assert table.columns == {"text": ['two\nlines, "quoted"', "NA"], "label": ["x", ""]}
    assert table.places == [f"{path}, line 2", f"{path}, line 5"]


def test_csv_with_another_delimiter_and_gzip(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"id;text\n1;a, b\n"))
    assert read_table([str(path)], delimiter=";").columns == {"id": ["1"], "text": ["a, b"]}
    table = read_table([str(path)], "text")
    assert table.columns["text"][0] == "id;text"


def test_json_lines_with_other_keys_have_missing_cells(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"label": 1}\n')
    assert read_table([str(path)]).columns == {"text": ["a", None], "label": [None, 1]}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"text,label\na\n", "a.csv, line 2: 1 cells, but the first line names 2 columns"),
        ("a.csv", b'text,label\na,b\n"c,d\n', "a.csv, line 3: unexpected end of data. Is a quote not closed"),
        ("a.csv", b"text,text\na,b\n", "several columns are called 'text'"),
        ("a.csv", b"text,label\na,b\n\xe9,c\n", "a.csv, line 3: byte 1 is not UTF-8"),
        ("a.csv", b"text,label\na,b\n\xe9,c\n", "`iconv -f latin1 -t utf-8`"),
        (
            "a.csv",
            "text,label\na,b\n".encode("utf-16"),
            "line 1: byte 1 is not UTF-8. Convert the file, for example with `iconv -f utf-16",
        ),
        ("a.csv", b"text,label\n", "there are no rows"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl, line 2: it is not JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1: it is a list, not an object"),
        ("a.jsonl", b'{"a": ' + b"[" * 200 + b"\n", "a.jsonl, line 1: it is not JSON: it is nested deeper"),
        ("a.parquet", b"PAR1 and nothing", "is not a file of Parquet"),
    ],
)
def test_wrong_files_raise_errors_with_the_line(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        read_table([str(tmp_path / name)])
    assert name in str(caught.value)


def test_a_line_without_end_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("skxlmr.cli.tables.MAX_LINE_BYTES", 1000)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"a" * 2000)
    with pytest.raises(ValueError, match="line 1: it has more than 1,000 bytes"):
        read_table([str(tmp_path / "a.jsonl")])


def test_files_that_are_not_there_or_of_no_known_format(tables, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"The file .*review.csv does not exist. Did you mean 'reviews.csv'?"):
        read_table([str(tables / "review.csv")])
    with pytest.raises(UsageError, match="Pass --input-format"):
        read_table([str(tables / "reviews.xlsx")])
    with pytest.raises(IsADirectoryError, match=r"is a folder. Name its files"):
        read_table([str(tables)], "csv")


def test_unknown_column_says_what_was_meant(tables, tmp_path):
    table = read_table([str(tables / "reviews.csv")])
    with pytest.raises(ValueError, match=r"no column 'txt'. Did you mean 'text'. It has id, text, label, language."):
        table.require(["txt"])
    (tmp_path / "a.csv").write_text("id;text\n1;a\n")
    with pytest.raises(ValueError, match="pass it as --delimiter"):
        read_table([str(tmp_path / "a.csv")]).require(["text"])


def test_formats_of_data_sets_are_read_from_files_only(tmp_path, pipe_in):
    (tmp_path / "a.conll").write_text("Ada B-PER\nlives O\n\nRome B-LOC\n")
    table = read_table([str(tmp_path / "a.conll")])
    assert table.columns == {"tokens": [["Ada", "lives"], ["Rome"]], "tags": [["B-PER", "O"], ["B-LOC"]]}
    pipe_in("Ada B-PER\n")
    with pytest.raises(UsageError, match="from files only"):
        read_table([], "conll")
