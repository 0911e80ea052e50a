"""Text files of sentences, with one token per line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

Lines = list[tuple[int, str]]  # the number of each line, from 1, and its text

BYTE_ORDER_MARK = "\ufeff"
MARKS_OF_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: str | os.PathLike, encoding: str = "utf-8") -> str:
    """Read a whole file, without a byte order mark; an error of the encoding names the file."""
    try:
        return Path(path).read_text(encoding=encoding).removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:  # its repr would contain the whole file
        raise _not_in(path, encoding, error) from error


def sentences(path: str | os.PathLike, encoding: str = "utf-8") -> Iterator[Lines]:
    """Yield groups of consecutive lines that do not consist of spaces and tabs only; without a byte order mark."""
    lines: Lines = []
    with open(path, encoding=encoding) as file:
        try:
            for number, line in enumerate(file, start=1):
                content = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).rstrip("\r\n")
                if content.strip(" \t"):
                    lines.append((number, content))
                elif lines:
                    yield lines
                    lines = []
        except UnicodeDecodeError as error:
            raise _not_in(path, encoding, error) from error
    if lines:
        yield lines


def in_line(path: str | os.PathLike, number: int, line: str) -> str:
    """Name a line in an error."""
    return f"{os.fspath(path)}, line {number}: {line[:60]!r}"


def _not_in(path: str | os.PathLike, encoding: str, error: UnicodeDecodeError) -> ValueError:
    other = "utf-16" if error.object.startswith(MARKS_OF_UTF_16) else "latin-1"
    return ValueError(
        f"{os.fspath(path)} is not in {encoding}, but in another encoding: {error}. Pass it, for example "
        f"encoding={other!r}."
    )
