"""Workers on a CPU: threads that take batches from one queue, and among which the threads of torch are divided.

For a small model a batch on each of two cores takes less time than one batch on both, after another: the cores do not
wait for each other after each operator. On CPUs a row's result is the same in any batch, on any number of threads, so
that it does not matter which worker computes it, nor how many there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from joblib.parallel import get_active_backend

from skxlmr.hardware.footprint import default_batch_tokens
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.int8 import Int8
from skxlmr.model.int8_engines import ENGINES, choose_engine
from skxlmr.runtime.devices import Queue
from skxlmr.system.forks import after_fork

Item = TypeVar("Item")

LEAST_TOKENS = 512  # in a batch; smaller ones are slower on one thread, too
ROUNDS = 2  # batches for each worker at least, so that none waits long for the last one
SECONDS_TO_INTERRUPT = 0.2  # Windows does not interrupt a wait without a time limit

_setting = threading.Lock()  # held while the number of threads of new threads is another one
_busy = threading.Lock()  # held by the run that has several workers


@after_fork
def _renew_locks() -> None:
    global _setting, _busy
    _setting, _busy = threading.Lock(), threading.Lock()


def most_workers(
    config: XLMRobertaXLConfig, dtype: torch.dtype, storage: Int8 | str | None, device: torch.device
) -> int:
    """Return how many workers are at most faster than one.

    A worker takes one thread of torch at least, so `torch.set_num_threads`, `OMP_NUM_THREADS` and the limits of joblib
    bound them. There is one for large models, whose batches are as small as they should be; in threads of joblib, which
    are workers themselves; and for weights that are converted to floating point for each batch, or with outliers that
    depend on it.
    """
    if device.type != "cpu" or not _takes_any_batch(storage, device) or _in_thread_of_joblib():
        return 1
    return max(1, min(torch.get_num_threads(), default_batch_tokens(config, dtype, device) // LEAST_TOKENS))


def _takes_any_batch(storage: Int8 | str | None, device: torch.device) -> bool:
    """Whether the layers take smaller batches as fast, and with the same results."""
    if not isinstance(storage, Int8):
        return storage is None  # not "nf4"
    in_rows = (ENGINES["avx"], ENGINES["int_mm"])
    return storage.outliers != "dynamic" and choose_engine(storage.engine, device) in in_rows


def _in_thread_of_joblib() -> bool:
    # The workers of its processes are main threads, and torch has as many threads there as joblib allows.
    return get_active_backend()[0].nesting_level > 0 and threading.current_thread() is not threading.main_thread()


@contextmanager
def several_workers(most: int) -> Iterator[int]:
    """Return how many workers there may be, `most`, or one while another run in this process has several."""
    busy = _busy
    if most == 1 or not busy.acquire(blocking=False):
        yield 1
        return
    try:
        yield most
    finally:
        busy.release()


def divide(lengths: np.ndarray, batch_tokens: int, most: int) -> tuple[int, int]:
    """Return the number of workers, at most `most`, for windows of these lengths, and the tokens of their batches.

    Together the workers hold at most `batch_tokens` at a time, so that they need the memory of one batch of one worker.

    Examples
    --------
    >>> divide(np.full(100, 40), 2000, 4)
    (3, 666)
    >>> divide(np.full(100, 40), 800, 4)
    (1, 800)
    """
    total, longest = int(lengths.sum()), int(lengths.max(initial=0))
    n_workers = min(most, batch_tokens // max(LEAST_TOKENS, longest), total // LEAST_TOKENS)
    if n_workers <= 1:
        return 1, batch_tokens
    rounds = max(ROUNDS, -(-total // batch_tokens))
    even = max(-(-total // (n_workers * rounds)), LEAST_TOKENS, longest)  # all workers have as many batches
    return n_workers, min(even, batch_tokens // n_workers)


def share_threads(n_workers: int, items: Iterable[Item], work: Callable[[Iterator[Item]], None]) -> None:
    """Call `work` in `n_workers` threads, with an iterator over items that they share, until all are done.

    The threads that torch may use in the calling thread are divided among them. An exception in one of them ends the
    iteration for the others, which finish the item that they have; then it is raised here. So does an exception in the
    calling thread, such as KeyboardInterrupt.
    """
    queue = Queue(items)
    per_worker, rest = divmod(torch.get_num_threads(), n_workers)

    def begin(i: int) -> None:
        try:
            _set_threads_here(per_worker + (i < rest))
            work(queue)
        except BaseException:
            queue.stop()
            raise

    workers: list[Future[None]] = []
    with ThreadPoolExecutor(n_workers, thread_name_prefix="skxlmr-cpu") as threads:
        try:
            for i in range(n_workers):
                workers.append(threads.submit(begin, i))
            while wait(workers, SECONDS_TO_INTERRUPT, FIRST_EXCEPTION).not_done and not queue.is_stopped:
                pass
        except RuntimeError:  # after the end of the main thread, Python starts no new ones
            if not workers:
                return work(queue)
        except BaseException:
            queue.stop()
            raise
    for worker in workers:
        worker.result()


def _set_threads_here(n_threads: int) -> None:
    """Let torch use so many threads for what this thread computes.

    `torch.set_num_threads` sets the number for the calling thread (of OpenMP and of MKL), and the one with which each
    other thread starts when it uses torch for the first time. The latter is set back in a thread of its own.
    """
    torch.get_num_threads()  # the first use, which would otherwise come later and undo what is set
    with _setting:
        of_new_threads = _in_new_thread(torch.get_num_threads)
        torch.set_num_threads(n_threads)
        _in_new_thread(lambda: torch.set_num_threads(of_new_threads))


def _in_new_thread(function: Callable[[], Item]) -> Item:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()
