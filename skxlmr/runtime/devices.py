"""Several GPUs that work on one queue of batches, each in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from skxlmr.system.current_device import on_device

Item = TypeVar("Item")


class Queue(Generic[Item]):
    """An iterator that threads share: each item is taken once, and after `stop` there are no more.

    Examples
    --------
    >>> queue = Queue("abc")
    >>> next(queue)
    'a'
    >>> queue.stop()
    >>> list(queue)
    []
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()
        self._is_stopped = False

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._lock:
            if self._is_stopped:
                raise StopIteration
            return next(self._items)

    def stop(self) -> None:
        """End the iteration in all threads."""
        self._is_stopped = True


def share(
    devices: Sequence[torch.device], items: Iterable[Item], work: Callable[[torch.device, Iterator[Item]], None]
) -> None:
    """Call `work` once per device, with an iterator over items that they share, until all are done.

    The first device works in the calling thread, each other one in a thread of its own, with the device as its current
    one; which of them takes an item depends on which is free first. An exception in one thread ends the iteration for
    the others, which finish the item that they have; then it is raised here.
    """
    queue = Queue(items)

    def begin(device: torch.device) -> None:
        try:
            with on_device(device):
                work(device, queue)
        except BaseException:
            queue.stop()
            raise

    if len(devices) == 1:
        return begin(devices[0])
    others: list[Future[None]] = []
    with ThreadPoolExecutor(len(devices) - 1, thread_name_prefix="skxlmr-gpu") as threads:
        with contextlib.suppress(RuntimeError):  # after the end of the main thread, Python starts no new ones
            others = [threads.submit(begin, device) for device in devices[1:]]
        begin(devices[0])
    for other in others:
        other.result()
