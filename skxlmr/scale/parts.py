"""The files of predictions: Parquet, each of one range of rows, written as a whole or not at all.

A part is named by its range, so that whoever predicts a range again writes the same file: no row can be there twice.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from skxlmr.scale.ids import digest_of
from skxlmr.scale.outputs import Column
from skxlmr.scale.spans import Span
from skxlmr.system import atomic

if TYPE_CHECKING:
    import pyarrow as pa

ERROR = "error"


class PartReport(NamedTuple):
    """What is in a part: how many rows, and the ids of those that failed."""

    rows: int
    failed: list


def part_path(target: str | Path, span: Span) -> Path:
    """Return where the predictions of a span are."""
    return Path(target) / f"part-{span.file:05d}-{span.first:012d}-{span.first + span.rows:012d}.parquet"


def as_table(id_column: str, ids: pa.Array, results: Mapping[str, Column], errors: list[str | None]) -> pa.Table:
    """Return ids, results and errors as a table."""
    import pyarrow as pa

    columns = {id_column: ids} | {name: column.to_arrow() for name, column in results.items()}
    return pa.table(columns | {ERROR: pa.array(errors, pa.string())})


def write_part(target: str | Path, span: Span, table: pa.Table) -> None:
    """Write the predictions of a span, whose ids must be those that were planned.

    Raises
    ------
    ValueError
        If the rows are not those of the span.
    """
    import pyarrow.parquet as pq

    if digest_of(table.column(0).combine_chunks()) != span.ids:
        raise ValueError("The ids of the source are no longer those at the beginning of the run: it has changed.")
    content = io.BytesIO()
    pq.write_table(table, content)
    atomic.write_bytes(part_path(target, span), content.getvalue())


def read_part(target: str | Path, span: Span, id_column: str) -> PartReport | None:
    """Return what is in a part; None if it is not there, is damaged, or has other rows than the span."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = part_path(target, span)
    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path) as file:
            table = file.read([id_column, ERROR], use_threads=False)
        ids, error = table.column(id_column).combine_chunks(), table.column(ERROR)
    except (pa.ArrowException, OSError, KeyError):
        return None
    if digest_of(ids) != span.ids:
        return None
    return PartReport(len(ids), ids.filter(error.combine_chunks().is_valid()).to_pylist())
