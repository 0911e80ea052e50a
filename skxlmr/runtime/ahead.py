"""Work that a thread does ahead, while the caller uses the result before."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Map a function over items in a thread, which works on the next item while the caller uses a result."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="skxlmr-ahead")
    try:
        waiting: Callable[[], Result] | None = None
        for item in items:
            following = _begin(thread, function, item)
            if waiting is not None:
                yield waiting()
            waiting = following
        if waiting is not None:
            yield waiting()
    finally:
        thread.shutdown(cancel_futures=True)


def _begin(thread: ThreadPoolExecutor, function: Callable[[Item], Result], item: Item) -> Callable[[], Result]:
    """Start a call in the thread, or prepare it if there can be no thread; returns a function that gets the result."""
    try:
        return thread.submit(function, item).result
    except RuntimeError:  # after the end of the main thread, Python starts no new ones
        return partial(function, item)
