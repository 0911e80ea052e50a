"""The files of a source, and what reads them: Parquet, JSON lines and CSV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skxlmr.scale.parquet_files import ParquetReader
from skxlmr.scale.spans import Reader
from skxlmr.scale.text_files import CsvReader, LinesReader
from skxlmr.system.schema import COUNT

READERS: dict[str, Reader] = {
    ".parquet": ParquetReader(),
    ".pq": ParquetReader(),
    ".jsonl": LinesReader(),
    ".ndjson": LinesReader(),
    ".csv": CsvReader(","),
    ".tsv": CsvReader("\t"),
}


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
        raise FileNotFoundError(f"The file {path} does not exist.")
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path}: the name of a file that is read ends in {', '.join(READERS)}.")
    return [SourceFile.of(path)]


def reader_of(path: str) -> Reader:
    """Return what reads a file, by its name."""
    return READERS[Path(path).suffix.lower()]
