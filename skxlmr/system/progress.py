"""Progress: bars in terminals and notebooks, lines elsewhere, and the loggers under "skxlmr"."""

from __future__ import annotations

import functools
import itertools
import logging
import multiprocessing
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from typing_extensions import Self

from skxlmr.system.forks import after_fork

if TYPE_CHECKING:
    from tqdm import tqdm

LOGGER = logging.getLogger("skxlmr")
LOGGER.addHandler(logging.NullHandler())  # what is logged is for the handlers of users

SECONDS_BETWEEN_LINES = 30.0  # of progress without a terminal


class HiddenBar:
    """A progress bar that is not shown. It takes no lock, which one of tqdm does even if it is disabled."""

    def update(self, n: float = 1) -> None:
        """Do nothing."""

    def set_postfix(self, **values: object) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class Lines(HiddenBar):
    """Lines in place of a bar where stderr is a file: at most one every `SECONDS_BETWEEN_LINES`, with the time left."""

    def __init__(self, total: int, description: str, unit: str) -> None:
        self._total, self._description, self._unit = total, description, unit
        self._n = 0.0
        self._began = self._latest = time.monotonic()

    def update(self, n: float = 1) -> None:
        """Add to what is done; write a line if the latest is old."""
        self._n += n
        now = time.monotonic()
        if now - self._latest >= SECONDS_BETWEEN_LINES and 0 < self._n < self._total:
            self._latest = now
            passed = now - self._began
            left = passed * (self._total / self._n - 1)
            write_line(
                f"{self._description}: {self._n / self._total:.0%} of {self._total:,} {self._unit}, "
                f"{duration(passed)} passed, {duration(left)} left"
            )


def progress_bar(
    total: int,
    description: str,
    *,
    unit: str = "B",
    shown: bool = True,
    leave: bool = True,
    lines: bool = True,
    done: int = 0,
) -> tqdm | HiddenBar:
    """Return a progress bar for a `with` statement, if it is `shown`.

    The unit "B" counts bytes. With `leave` the bar remains visible when it is full. Where none can be drawn, there are
    lines instead, if `lines`. `done` is how far earlier work came.
    """
    if not shown:
        return HiddenBar()
    if not can_draw():
        return Lines(total, description, unit) if lines else HiddenBar()
    return _tqdm()(total=total, desc=description, unit=unit, unit_scale=unit == "B", leave=leave, initial=done)


def can_draw() -> bool:
    """Whether a bar can be drawn: in a terminal or a notebook, not in a worker process, since their bars would mix."""
    if sys.stderr is None or multiprocessing.parent_process() is not None:
        return False
    return sys.stderr.isatty() or _in_notebook()


def write_line(text: str) -> None:
    """Write a line to stderr, above the bars that are shown; nothing if a handler of the logger shows it already."""
    if sys.stderr is None or _is_handled(logging.INFO):
        return
    if _tqdm.cache_info().currsize:
        _tqdm().write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)


def _is_handled(level: int) -> bool:
    """Whether a user has set a handler that takes records of "skxlmr" of this level."""
    logger: logging.Logger | None = LOGGER
    if not LOGGER.isEnabledFor(level):
        return False
    while logger is not None:
        for handler in logger.handlers:
            if not isinstance(handler, logging.NullHandler) and handler.level <= level:
                return True
        logger = logger.parent if logger.propagate else None
    return False


def duration(seconds: float) -> str:
    """Return a duration to read.

    Examples
    --------
    >>> duration(4.56), duration(75), duration(7322)
    ('5 s', '1:15', '2:02:02')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


# Counters of fits: of the clones of an object, and the one by which a clone is counted. A search fits clones of one.
_counter_of_clones: WeakKeyDictionary[object, Iterator[int]] = WeakKeyDictionary()
_counter: WeakKeyDictionary[object, Iterator[int]] = WeakKeyDictionary()


def count_with_siblings(clone: object, original: object) -> None:
    """Let the fits of a clone be counted together with those of all other clones of its original."""
    _counter[clone] = _counter_of_clones.setdefault(original, itertools.count(1))


def number_of_fit(estimator: object) -> int | None:
    """Return the number of a fit that begins, from 1, among those of the clones of one estimator; None without one."""
    counter = _counter.get(estimator)
    return None if counter is None else next(counter)


@functools.cache
def _tqdm() -> type[tqdm]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets tqdm warns that the bar is plain text
        from tqdm.auto import tqdm

    return tqdm


@after_fork
def _renew_lock() -> None:
    """Renew the lock that all bars of a process share; the one between processes, where there is one, may stay."""
    bar = _tqdm() if _tqdm.cache_info().currsize else None
    lock: Any = getattr(bar, "_lock", None)  # made with the first bar; a user may have set another kind
    if bar is not None and getattr(lock, "th_lock", None) is not None:
        type(lock).th_lock = threading.RLock()
        bar.set_lock(type(lock)())


def _in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, where stderr is not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
