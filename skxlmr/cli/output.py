"""Standard output, whose errors differ from those of files and connections."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any


class OutputError(Exception):
    """Standard output cannot be written: its reader has ended, or its disk is full."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextlib.contextmanager
def _of_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(error) from error


class Output(io.TextIOBase):
    """A stream that raises `OutputError` in place of `OSError`; without a stream, it discards what is written.

    Parameters
    ----------
    stream : text stream or None
        None if the caller has closed standard output.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        if hasattr(stream, "reconfigure"):  # tables and JSON are in UTF-8, whatever the terminal's encoding is
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write text."""
        with _of_output():
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Write bytes, after the text so far."""
        self.flush()
        with _of_output():
            if self._stream is not None:
                self._stream.buffer.write(data)
                self._stream.buffer.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        with _of_output():
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether this is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def abandon(self) -> None:
        """Discard what is buffered; otherwise Python tries to write it again, at its end."""
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
