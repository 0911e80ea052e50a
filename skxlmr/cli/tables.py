"""Reading of tables: CSV, TSV, JSON lines, Parquet, plain text and others, from files and from standard input."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from skxlmr.cli.parsing import UsageError, did_you_mean
from skxlmr.system import nested_json

STDIN = "-"
ROWS = 2048  # of a block
MAX_LINE_BYTES = 2**26  # of a line, and of a cell
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MARKS_OF_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
PARQUET_MARK = b"PAR1"
DELIMITERS = {"csv": ",", "tsv": "\t"}

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".conll": "conll",
    ".iob": "conll",
    ".conllu": "conllu",
    ".json": "squad",
}
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))


class Row(NamedTuple):
    """A row: its number in the file, and its cells by the names of the columns."""

    number: int
    cells: Mapping[str, Any]


@dataclass
class Block:
    """Rows of a table.

    Attributes
    ----------
    file : str
        The name of the file; of several, the first.
    format : str
        One of `FORMATS`.
    places : list of str
        Where each row is, for messages: "reviews.csv, line 5".
    columns : dict of str to list
        The cells of each column, one per row.
    """

    file: str
    format: str
    places: list[str]
    columns: dict[str, list]

    def __len__(self) -> int:
        return len(self.places)

    def column(self, name: str) -> list:
        """Return the cells of a column; of one that no row of the block has, None for each row."""
        return self.columns.get(name, [None] * len(self))

    def require(self, names: Sequence[str]) -> None:
        """Raise a ValueError unless there are these columns."""
        for name in names:
            if name not in self.columns:
                raise ValueError(f"{self.file} has no column {name!r}. {self.known(name)}")

    def known(self, name: str = "") -> str:
        """Say which columns there are, and which of them was probably meant."""
        names = list(self.columns)
        hint = ""
        if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
            hint = " If the columns are separated by another character, pass it as --delimiter."
        return f"{did_you_mean(name, names)} It has {', '.join(names[:20])}.{hint}".lstrip()


def read_blocks(
    inputs: Sequence[str], format: str | None = None, delimiter: str | None = None, n_rows: int = ROWS
) -> Iterator[Block]:
    """Read files one after another, in blocks of rows.

    Parameters
    ----------
    inputs : sequence of str
        Paths; "-" is standard input, and so is an empty sequence.
    format : str or None
        One of `FORMATS`; None goes by the names of the files, and of standard input by its first bytes.
    delimiter : str or None
        What separates the columns of CSV; None is a comma, or a tabulator in TSV.
    n_rows : int, default=2048
        Rows per block, the last ones of a file fewer.

    Raises
    ------
    UsageError
        If the format of a file is not known.
    OSError, ValueError
        If a file cannot be read, or is not what its name says; the message names the file and the line.
    """
    if not inputs:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("There is no input: name files, or pipe a table to standard input.")
        inputs = [STDIN]
    for name in inputs:
        shown = "standard input" if name == STDIN else name
        of_file = _format_by_name(name) if format is None and name != STDIN else format
        with _opened(name) as file:
            kind = of_file or _format_by_content(file)
            unit = "line" if kind in ("csv", "tsv", "jsonl", "text") else "row"
            rows = READERS[kind](file, name, shown, delimiter or DELIMITERS.get(kind, ""))
            while some := list(islice(rows, n_rows)):
                names = dict.fromkeys(column for row in some for column in row.cells)
                columns = {column: [row.cells.get(column) for row in some] for column in names}
                yield Block(shown, kind, [f"{shown}, {unit} {row.number}" for row in some], columns)


def read_table(inputs: Sequence[str], format: str | None = None, delimiter: str | None = None) -> Block:
    """Read files as one table; see `read_blocks`. No rows are an error."""
    blocks = list(read_blocks(inputs, format, delimiter))
    if not blocks:
        raise ValueError(f"{', '.join(inputs) or 'standard input'}: there are no rows.")
    names = dict.fromkeys(name for block in blocks for name in block.columns)
    columns = {name: [cell for block in blocks for cell in block.column(name)] for name in names}
    return Block(blocks[0].file, blocks[0].format, [place for block in blocks for place in block.places], columns)


def _format_by_name(name: str) -> str:
    path = Path(name)
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{name}: the format is not known by the name. Pass --input-format, one of {', '.join(FORMATS)}; or rename "
            f"the file to end in {', '.join(SUFFIXES)}."
        )
    return SUFFIXES[suffix.lower()]


def _format_by_content(file: Any) -> str:
    """Return the format of a stream by its first bytes, which stay unread."""
    start: bytes = file.peek(1).removeprefix(BYTE_ORDER_MARK).lstrip()
    if start.startswith(PARQUET_MARK):
        return "parquet"
    if start.startswith(b"{"):
        return "jsonl"
    header = start.partition(b"\n")[0]
    return "tsv" if b"\t" in header and b"," not in header else "csv"


def _opened(name: str) -> Any:
    if name == STDIN:
        stream: Any = sys.stdin.buffer
        return contextlib.nullcontext(stream if hasattr(stream, "peek") else io.BufferedReader(stream))
    if Path(name).is_dir():
        raise IsADirectoryError(f"{name} is a folder. Name its files, such as {name.rstrip('/')}/*.csv.")
    if not Path(name).exists():
        near = [path.name for path in Path(name).absolute().parent.glob("*")]
        raise FileNotFoundError(f"The file {name} does not exist. {did_you_mean(Path(name).name, near)}".rstrip())
    return gzip.open(name) if name.endswith(".gz") else open(name, "rb")


def _lines(file: BinaryIO, shown: str) -> Iterator[str]:
    """Yield decoded lines with their ends, without a byte order mark."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"{shown}, line {number}: it has more than {MAX_LINE_BYTES:,} bytes, which is the limit.")
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            other = "utf-16" if number == 1 and line.startswith(MARKS_OF_UTF_16) else "latin1"
            raise ValueError(
                f"{shown}, line {number}: byte {error.start + 1} is not UTF-8. Convert the file, for example with "
                f"`iconv -f {other} -t utf-8`."
            ) from error


def _read_csv(file: BinaryIO, name: str, shown: str, delimiter: str) -> Iterator[Row]:
    """Read CSV whose first record has the names of the columns; all cells are texts."""
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(_lines(file, shown), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{shown}, line {number}: {error}. Is a quote not closed, or not doubled?") from error
        if not record:
            continue
        if header is None:
            header = record
            twice = {column for column in header if header.count(column) > 1}
            if twice:
                raise ValueError(f"{shown}: several columns are called {min(twice)!r}. Rename them.")
        elif len(record) != len(header):
            raise ValueError(
                f"{shown}, line {number}: {len(record)} cells, but the first line names {len(header)} columns. Quote "
                f"cells that contain the separator {delimiter!r}."
            )
        else:
            yield Row(number, dict(zip(header, record, strict=True)))


def _read_json_lines(file: BinaryIO, name: str, shown: str, delimiter: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(file, shown), start=1):
        if not line.strip():
            continue
        try:
            record = nested_json.loads(line)
        except ValueError as error:
            raise ValueError(f"{shown}, line {number}: it is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{shown}, line {number}: it is a {type(record).__name__}, not an object of JSON.")
        yield Row(number, record)


def _read_text(file: BinaryIO, name: str, shown: str, delimiter: str) -> Iterator[Row]:
    """Read one text per line; empty lines are left out."""
    for number, line in enumerate(_lines(file, shown), start=1):
        if line.strip():
            yield Row(number, {"text": line.rstrip("\r\n")})


def _read_parquet(file: BinaryIO, name: str, shown: str, delimiter: str) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'skxlmr[scale]'.") from error
    try:
        with pq.ParquetFile(io.BytesIO(file.read()) if name == STDIN else name) as table:
            number = 0
            for batch in table.iter_batches(ROWS):
                for cells in batch.to_pylist():
                    number += 1
                    yield Row(number, cells)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{shown} is not a file of Parquet: {error}") from error


def _read_frame(read: str) -> Callable[[BinaryIO, str, str, str], Iterator[Row]]:
    """Return a reader that calls a function of `skxlmr.datasets` with the path."""

    def rows(file: BinaryIO, name: str, shown: str, delimiter: str) -> Iterator[Row]:
        from skxlmr import datasets

        if name == STDIN:
            raise UsageError("This format is read from files only, not from standard input.")
        for number, cells in enumerate(getattr(datasets, read)(name).to_dict("records"), start=1):
            yield Row(number, cells)

    return rows


READERS: dict[str, Callable[[BinaryIO, str, str, str], Iterator[Row]]] = {
    "csv": _read_csv,
    "tsv": _read_csv,
    "jsonl": _read_json_lines,
    "parquet": _read_parquet,
    "text": _read_text,
    "conll": _read_frame("read_conll"),
    "conllu": _read_frame("read_conllu"),
    "squad": _read_frame("read_squad"),
}
