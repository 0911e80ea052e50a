"""Progress of a run on standard error: a bar in a terminal, otherwise a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from skxlmr.system.progress import HiddenBar, progress_bar

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts rows."""

    def __init__(self, total: int, bar: object, shown: bool) -> None:
        self._total, self._bar, self._shown = total, bar, shown and isinstance(bar, HiddenBar)
        self._before, self._done, self._started = 0, 0, time.monotonic()
        self._next = self._started + SECONDS_BETWEEN_LINES

    def skip(self, rows: int) -> None:
        """Count rows that an earlier run has predicted."""
        self._bar.update(rows)  # type: ignore[attr-defined]
        self._before = rows

    def update(self, rows: int) -> None:
        """Count more rows."""
        self._done += rows
        self._bar.update(rows)  # type: ignore[attr-defined]
        now = time.monotonic()
        if self._shown and now >= self._next:
            self._next = now + SECONDS_BETWEEN_LINES
            rate = self._done / (now - self._started)
            print(
                f"{self._before + self._done:,} of {self._total:,} rows, {rate:,.0f} rows/s",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def progress_of(total: int, verbose: int) -> Iterator[Progress]:
    """Show the progress of a run over so many rows, if `verbose` is not 0."""
    with progress_bar(total, "predict", unit=" rows", shown=bool(verbose)) as bar:
        yield Progress(total, bar, bool(verbose))
