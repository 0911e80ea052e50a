"""Spans of files of Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from skxlmr.scale.ids import as_ids
from skxlmr.scale.spans import Rows, Scanned, Span, check_columns

if TYPE_CHECKING:
    import pyarrow as pa


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
        check_columns(path, columns, file.schema_arrow.names)
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
