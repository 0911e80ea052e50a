"""Spans of files of text: JSON lines and CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from skxlmr.checkpoints.files import open_regular
from skxlmr.scale.ids import as_ids
from skxlmr.scale.spans import Rows, Scanned, Span, check_columns
from skxlmr.system import nested_json

if TYPE_CHECKING:
    import pyarrow as pa


MAX_RECORD_BYTES = 2**26  # of a line of JSON, or a record of CSV
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LinesReader:
    """JSON lines: one object per line."""

    def scan(self, path: str, id_column: str, n_rows: int) -> Iterator[Scanned]:
        """As in `Reader`."""
        with open_regular(path) as file:
            _skip_mark(file)
            number, begin = 0, file.tell()
            ids: list = []
            for line in _lines(file, path):
                number += 1
                if line.strip():
                    ids.append(_record(line, f"{path}, line {number}", [id_column])[0])
                if len(ids) == n_rows:
                    yield Scanned(n_rows, begin, file.tell(), as_ids(ids, f"{path}, before line {number + 1}"))
                    begin, ids = file.tell(), []
            if ids:
                yield Scanned(len(ids), begin, file.tell(), as_ids(ids, f"{path}, before line {number + 1}"))

    def read(self, path: str, spans: Sequence[Span], id_column: str, columns: Sequence[str]) -> Iterator[Rows]:
        """As in `Reader`."""
        names = [id_column, *columns]
        with open_regular(path) as file:
            for span in spans:
                lines = [line for line in _bytes_of(file, span).split(b"\n") if line.strip()]
                where = f"{path}, from byte {span.begin}, line"
                records = [_record(line, f"{where} {i}", names) for i, line in enumerate(lines, start=1)]
                ids, *lists = (list(values) for values in zip(*records, strict=True))
                yield Rows(as_ids(ids, f"{path}, row {span.first}"), lists)


@dataclass(frozen=True)
class CsvReader:
    """CSV with a first record of names; every value is a string, ids too. Quotes are doubled inside of quotes."""

    delimiter: str

    def scan(self, path: str, id_column: str, n_rows: int) -> Iterator[Scanned]:
        """As in `Reader`."""
        with open_regular(path) as file:
            header = self._header(file, path)
            check_columns(path, [id_column], header)
            begin, count = file.tell(), 0
            for record in _records(file, path):
                count += bool(record.strip())
                if count == n_rows:
                    yield self._scanned(path, file, header, begin, id_column)
                    begin, count = file.tell(), 0
            if count:
                yield self._scanned(path, file, header, begin, id_column)

    def read(self, path: str, spans: Sequence[Span], id_column: str, columns: Sequence[str]) -> Iterator[Rows]:
        """As in `Reader`."""
        with open_regular(path) as file:
            header = self._header(file, path)
            check_columns(path, [id_column, *columns], header)
            for span in spans:
                table = self._parse(_bytes_of(file, span), path, header, [id_column, *columns])
                lists = [table.column(name).to_pylist() for name in columns]
                yield Rows(as_ids(table.column(id_column), path), lists)

    def _header(self, file: BinaryIO, path: str) -> list[str]:
        _skip_mark(file)
        try:
            first = next(_records(file, path), b"").decode("utf-8")
            return next(csv.reader([first.rstrip("\r\n")], delimiter=self.delimiter, strict=True), [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: its first line is not CSV in UTF-8: {error}") from error

    def _scanned(self, path: str, file: BinaryIO, header: list[str], begin: int, id_column: str) -> Scanned:
        end = file.tell()
        file.seek(begin)
        table = self._parse(file.read(end - begin), path, header, [id_column])
        return Scanned(table.num_rows, begin, end, as_ids(table.column(0), path))

    def _parse(self, data: bytes, path: str, header: list[str], columns: list[str]) -> pa.Table:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        names = list(dict.fromkeys(columns))
        types = dict.fromkeys(names, pa.string())
        try:
            return arrow_csv.read_csv(
                pa.BufferReader(data),
                arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=header),
                arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                arrow_csv.ConvertOptions(strings_can_be_null=False, include_columns=names, column_types=types),
            )
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not CSV in UTF-8: {error!s:.300}") from error


def _skip_mark(file: BinaryIO) -> None:
    if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
        file.seek(0)


def _bytes_of(file: BinaryIO, span: Span) -> bytes:
    file.seek(span.begin)
    return file.read(span.end - span.begin)


def _lines(file: BinaryIO, path: str) -> Iterator[bytes]:
    while line := file.readline(MAX_RECORD_BYTES):
        if len(line) == MAX_RECORD_BYTES:
            raise ValueError(f"{path} has a line of more than {MAX_RECORD_BYTES:,} bytes, which is the limit.")
        yield line


def _records(file: BinaryIO, path: str) -> Iterator[bytes]:
    """Yield the records of CSV, which end with a line outside of quotes."""
    record: list[bytes] = []
    size = quotes = 0
    for line in _lines(file, path):
        record.append(line)
        size += len(line)
        quotes += line.count(b'"')
        if quotes % 2 == 0:
            yield b"".join(record)
            record, size, quotes = [], 0, 0
        elif size > MAX_RECORD_BYTES:
            raise ValueError(
                f"{path} has a record of more than {MAX_RECORD_BYTES:,} bytes, which is the limit: is a quote not "
                f"closed?"
            )
    if record:
        raise ValueError(f"{path} ends inside of quotes.")


def _record(line: bytes, where: str, names: Sequence[str]) -> list:
    """Return the values of these names in an object of JSON."""
    try:
        record = nested_json.loads(line.decode("utf-8"))
    except ValueError as error:  # a UnicodeDecodeError is one
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not an object, but a {type(record).__name__}.")
    id_column = names[0]
    if id_column not in record:
        raise ValueError(f"{where} has no {id_column!r}, but {', '.join(list(record)[:20])}.")
    return [record.get(name) for name in names]
