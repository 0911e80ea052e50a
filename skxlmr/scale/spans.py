"""Spans of files: ranges of consecutive rows, and what reads them.

`scan` cuts a file into spans and reads the ids; `read` reads spans again, without what lies before them, where the
format allows it. Never more than about one span is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from skxlmr.system.schema import COUNT, POSITIVE

if TYPE_CHECKING:
    import pyarrow as pa


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


def check_columns(path: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    """Raise a ValueError unless each of the wanted columns is there once."""
    for name in wanted:
        if list(there).count(name) != 1:
            several = f"several columns {name!r}" if name in there else f"no column {name!r}"
            raise ValueError(f"{path} has {several}, but {', '.join(list(there)[:20])}.")
