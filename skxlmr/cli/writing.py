"""Writing of tables: CSV, TSV, JSON lines and Parquet, to files and to standard output."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from skxlmr.cli.output import Output
from skxlmr.cli.parsing import UsageError
from skxlmr.cli.streaming import OUTPUT_FORMATS
from skxlmr.cli.tables import DELIMITERS, SUFFIXES
from skxlmr.system import atomic


class CsvWriter:
    """Writes CSV or TSV. Vectors have a column for each number, other lists are written as JSON."""

    def __init__(self, stream: TextIO, delimiter: str) -> None:
        self._stream = stream
        self._writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        self._names: list[str] | None = None

    def write(self, columns: Mapping[str, Any], places: Sequence[str]) -> None:
        """Write rows."""
        split: dict[str, Sequence] = {}
        for name, cells in columns.items():
            if isinstance(cells, np.ndarray):
                split |= {f"{name}_{i}": cells[:, i].tolist() for i in range(cells.shape[1])}
            else:
                split[name] = cells
        if self._names is None:
            self._names = list(split)
            self._writer.writerow(self._names)
        new = [name for name in split if name not in self._names]
        if new:
            raise ValueError(
                f"{places[0]}: from here on there is a column {new[0]!r}, which rows before have not. Write JSON lines "
                f"(--json), or leave it out (--keep)."
            )
        empty = [None] * len(places)
        rows = zip(*(split.get(name, empty) for name in self._names), strict=True)
        self._writer.writerows([_csv_cell(cell) for cell in row] for row in rows)
        self._stream.flush()

    def close(self) -> None:
        """Do nothing: each row is written."""


class JsonLinesWriter:
    """Writes one object per line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, columns: Mapping[str, Any], places: Sequence[str]) -> None:
        """Write rows."""
        lists = {name: cells.tolist() if isinstance(cells, np.ndarray) else cells for name, cells in columns.items()}
        for row in zip(*lists.values(), strict=True):
            record = {name: _json_cell(cell) for name, cell in zip(lists, row, strict=True)}
            self._stream.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Do nothing: each row is written."""


class ParquetWriter:
    """Writes Parquet, at the end: the types of columns depend on all rows."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._blocks: list[tuple[Mapping[str, Any], int]] = []

    def write(self, columns: Mapping[str, Any], places: Sequence[str]) -> None:
        """Keep rows."""
        lists = {name: cells.tolist() if isinstance(cells, np.ndarray) else cells for name, cells in columns.items()}
        self._blocks.append((lists, len(places)))

    def close(self) -> None:
        """Write all rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = dict.fromkeys(name for columns, _ in self._blocks for name in columns)
        arrays = {}
        for name in names:
            cells = [cell for columns, n_rows in self._blocks for cell in columns.get(name, [None] * n_rows)]
            try:
                arrays[name] = pa.array(cells)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(
                    f"The column {name!r} has cells of several types, which Parquet does not hold: {error}. Write "
                    f"JSON lines (--json), or leave it out (--keep)."
                ) from error
        content = io.BytesIO()
        pq.write_table(pa.table(arrays), content)
        if isinstance(self._stream, Output):
            self._stream.write_bytes(content.getvalue())
        else:
            self._stream.buffer.write(content.getvalue())


Writer = CsvWriter | JsonLinesWriter | ParquetWriter


def output_format(path: str | None, format: str | None, of_input: str) -> str:
    """Return the format to write: the one asked for, or that of the name of the file, or of the input.

    Raises
    ------
    UsageError
        If the name of the file does not tell.
    """
    if format is not None:
        return format
    if path is None:
        return of_input if of_input in DELIMITERS else "jsonl"
    found = SUFFIXES.get(Path(path).suffix.lower())
    if found not in OUTPUT_FORMATS:
        raise UsageError(
            f"{path}: the format is not known by the name. Pass --output-format, one of {', '.join(OUTPUT_FORMATS)}; "
            f"or end the name in .csv, .tsv, .jsonl or .parquet."
        )
    return found


@contextmanager
def open_writer(path: str | None, format: str) -> Iterator[Writer]:
    """Yield a writer to a file, which is replaced as a whole at the end, or to standard output.

    Parameters
    ----------
    path : str or None
        None is standard output.
    format : str
        One of `OUTPUT_FORMATS`.
    """
    if path is None:
        if format == "parquet" and sys.stdout.isatty():
            raise UsageError("Parquet is not written to a terminal. Pass --output, or redirect the output.")
        writer = _writer(sys.stdout, format)
        yield writer
        writer.close()
        return
    with (
        atomic.replacing(Path(path).expanduser()) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        writer = _writer(stream, format)
        yield writer
        writer.close()
        stream.flush()
        os.fsync(stream.fileno())


def _writer(stream: Any, format: str) -> Writer:
    if format == "parquet":
        return ParquetWriter(stream)
    return JsonLinesWriter(stream) if format == "jsonl" else CsvWriter(stream, DELIMITERS[format])


def _csv_cell(cell: Any) -> Any:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, list | tuple | dict):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return cell


def _json_cell(cell: Any) -> Any:
    """Return a cell without the numbers that JSON does not have."""
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if isinstance(cell, list | tuple):
        return [_json_cell(each) for each in cell]
    return {key: _json_cell(each) for key, each in cell.items()} if isinstance(cell, dict) else cell
