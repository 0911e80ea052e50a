"""Reading of large files of rows in spans: Parquet, JSON lines and CSV.

A span is a range of consecutive rows of one file. `scan` cuts a file into spans and reads the ids; `read` reads spans
again, without what lies before them, where the format allows it. Never more than about one span is in memory.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

from skxlmr.checkpoints.files import open_regular
from skxlmr.scale.ids import as_ids
from skxlmr.system import nested_json
from skxlmr.system.schema import COUNT, POSITIVE

if TYPE_CHECKING:
    import pyarrow as pa

MAX_RECORD_BYTES = 2**26  # of a line of JSON, or a record of CSV
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SourceFile:
    """A file that is read, and by what a change of it is noticed."""

    path: str
    bytes: COUNT
    modified: COUNT  # in nanoseconds

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        """Return the state of a file."""
        status = path.stat()
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Span:
    """A range of rows of a file.

    Attributes
    ----------
    file : int
        The number of the file.
    first, rows : int
        The first row in the file, and how many they are.
    begin, end : int
        The bytes of the rows, in files of lines; 0 in others.
    ids : str
        The SHA-256 of the ids.
    """

    file: COUNT
    first: COUNT
    rows: POSITIVE
    begin: COUNT
    end: COUNT
    ids: str


class Scanned(NamedTuple):
    """Rows that a scan has found: how many, their bytes, their ids."""

    rows: int
    begin: int
    end: int
    ids: pa.Array


class Rows(NamedTuple):
    """The rows of a span: ids, and one list per column."""

    ids: pa.Array
    columns: list[list]


class Reader(Protocol):
    """What reads a format."""

    def scan(self, path: str, id_column: str, n_rows: int) -> Iterator[Scanned]:
        """Cut a file into spans of `n_rows`, the last one of fewer."""

    def read(self, path: str, spans: Sequence[Span], id_column: str, columns: Sequence[str]) -> Iterator[Rows]:
        """Read spans, which are in ascending order."""


def find_files(source: str | os.PathLike | Sequence[str | os.PathLike]) -> list[SourceFile]:
    """Return the files of a source in their order: of a file, of a folder with all folders in it, or of a list.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If a file has another format than those that are read.
    """
    if not isinstance(source, str | os.PathLike):
        return [file for each in source for file in find_files(each)]
    path = Path(source).expanduser()
    if path.is_dir():
        inside = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith((".", "_")))
        found = [each for each in inside if each.suffix.lower() in READERS]
        if not found:
            raise FileNotFoundError(f"{path} has no file whose name ends in {', '.join(READERS)}.")
        return [SourceFile.of(each) for each in found]
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path}: the name of a file that is read ends in {', '.join(READERS)}.")
    return [SourceFile.of(path)]


def reader_of(path: str) -> Reader:
    """Return what reads a file, by its name."""
    return READERS[Path(path).suffix.lower()]


class ParquetReader:
    """Parquet, in streams from the row groups that hold the spans."""

    def scan(self, path: str, id_column: str, n_rows: int) -> Iterator[Scanned]:
        """As in `Reader`."""
        with self._opened(path, [id_column]) as file:
            batches = file.iter_batches(n_rows, columns=[id_column], use_threads=False)
            for table in _cut(batches, _sizes(file.metadata.num_rows, n_rows)):
                yield Scanned(table.num_rows, 0, 0, as_ids(table.column(0), path))

    def read(self, path: str, spans: Sequence[Span], id_column: str, columns: Sequence[str]) -> Iterator[Rows]:
        """As in `Reader`."""
        names = list(dict.fromkeys([id_column, *columns]))
        with self._opened(path, names) as file:
            for run in _consecutive(spans):
                for table in self._run(file, run, names):
                    lists = [table.column(name).to_pylist() for name in columns]
                    yield Rows(as_ids(table.column(id_column), path), lists)

    def _opened(self, path: str, columns: Sequence[str]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path, pre_buffer=False)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not a file of Parquet: {error}") from error
        _check_columns(path, columns, file.schema_arrow.names)
        return file

    def _run(self, file: Any, run: Sequence[Span], names: list[str]) -> Iterator[pa.Table]:
        """Read consecutive spans, from the row group on in which the first one begins."""
        first, end = run[0].first, run[-1].first + run[-1].rows
        groups, skipped, position = [], 0, 0
        for i in range(file.metadata.num_row_groups):
            n_rows = file.metadata.row_group(i).num_rows
            if position + n_rows <= first:
                skipped += n_rows
            elif position < end:
                groups.append(i)
            position += n_rows
        batches = file.iter_batches(run[0].rows, row_groups=groups, columns=names, use_threads=False)
        before = first - skipped
        tables = _cut(batches, [*([before] if before else []), *(span.rows for span in run)])
        if before:
            next(tables)
        yield from tables


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
            _check_columns(path, [id_column], header)
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
            _check_columns(path, [id_column, *columns], header)
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


READERS: dict[str, Reader] = {
    ".parquet": ParquetReader(),
    ".pq": ParquetReader(),
    ".jsonl": LinesReader(),
    ".ndjson": LinesReader(),
    ".csv": CsvReader(","),
    ".tsv": CsvReader("\t"),
}


def _check_columns(path: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    for name in wanted:
        if list(there).count(name) != 1:
            several = f"several columns {name!r}" if name in there else f"no column {name!r}"
            raise ValueError(f"{path} has {several}, but {', '.join(list(there)[:20])}.")


def _sizes(n_rows: int, most: int) -> Iterator[int]:
    for first in range(0, n_rows, most):
        yield min(most, n_rows - first)


def _cut(batches: Iterator[pa.RecordBatch], sizes: Iterable[int]) -> Iterator[pa.Table]:
    """Join and cut batches into tables of these sizes."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    for size in sizes:
        n_rows = sum(batch.num_rows for batch in waiting)
        while n_rows < size:
            waiting.append(next(batches))
            n_rows += waiting[-1].num_rows
        rest = waiting.pop()
        kept = rest.num_rows - (n_rows - size)
        yield pa.Table.from_batches([*waiting, rest.slice(0, kept)])
        waiting = [rest.slice(kept)]


def _consecutive(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Group spans that follow each other."""
    run: list[Span] = []
    for span in spans:
        if run and run[-1].first + run[-1].rows != span.first:
            yield run
            run = []
        run.append(span)
    if run:
        yield run


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
