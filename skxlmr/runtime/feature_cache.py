"""The cache of text features in a process: bounded in bytes, the least recently used are evicted first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skxlmr.hardware.free_memory import available_memory
from skxlmr.model.transfer import Download
from skxlmr.system.forks import after_fork

ENTRY_BYTES = 400  # of Python's objects around an array
SHARE_OF_FREE_MEMORY = 4
STREAM_BYTES = 32 * 2**20  # of features of streams of rows, which rarely come again

_is_stream: ContextVar[bool] = ContextVar("is_stream", default=False)


@contextmanager
def streaming() -> Iterator[None]:
    """Within the block, keep new features only in the small part of the cache that is for streams of rows."""
    token = _is_stream.set(True)
    try:
        yield
    finally:
        _is_stream.reset(token)


class ArrayCache:
    """A thread-safe LRU cache of at most `max_bytes`; None is a quarter of the memory free at the first `put`.

    What is stored within `streaming` takes at most `STREAM_BYTES` of them, evicts nothing else, and is evicted before
    anything else. It becomes an ordinary entry when it is used outside `streaming`.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.renew_lock()
        self.clear()

    def renew_lock(self) -> None:
        """Replace the lock, which another thread may have held when the process was forked."""
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Evict everything."""
        with self._lock:
            self._arrays: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()  # array, last use
            self._of_streams: OrderedDict[Hashable, Any] = OrderedDict()
            self.nbytes, self.nbytes_of_streams, self.now = 0, 0, 0

    def resize(self, max_bytes: int | None) -> None:
        """Set the bound, and evict what exceeds it."""
        with self._lock:
            self.max_bytes = max_bytes
            self._make_room(0)

    def __len__(self) -> int:
        return len(self._arrays) + len(self._of_streams)

    def get(self, keys: Sequence[Hashable]) -> list[Any]:
        """Return the arrays of the keys, None for those that are not cached."""
        with self._lock:
            self.now += 1
            found = []
            for key in keys:
                if key in self._of_streams and not _is_stream.get():
                    array = self._of_streams.pop(key)
                    self.nbytes_of_streams -= _nbytes(array)
                    self._arrays[key] = array, self.now
                elif key in self._of_streams:
                    array = self._of_streams[key]
                    self._of_streams.move_to_end(key)
                else:
                    array = self._arrays[key][0] if key in self._arrays else None
                    if array is not None:
                        self._arrays[key] = array, self.now
                        self._arrays.move_to_end(key)
                found.append(array)
            return found

    def put(self, keys: Sequence[Hashable], arrays: Sequence[Tensor | np.ndarray], spare: int | None = None) -> None:
        """Store arrays, which must not be changed afterwards.

        Never evict entries used after the clock value `spare`; if nothing else can go, do not store. In repeated passes
        over the same texts, LRU eviction alone would always evict the texts that come next.
        """
        with self._lock:
            if self.max_bytes is None:
                free = available_memory(torch.device("cpu"))
                self.max_bytes = 2**30 if free is None else free // SHARE_OF_FREE_MEMORY
            self.now += 1
            for key, array in zip(keys, arrays, strict=True):
                if _is_stream.get():
                    self._put_of_stream(key, array)
                    continue
                self._evict(key)
                nbytes = _nbytes(array)
                if self._make_room(nbytes, spare):
                    self._arrays[key] = array, self.now
                    self.nbytes += nbytes

    def _put_of_stream(self, key: Hashable, array: Tensor | np.ndarray) -> None:
        if key in self._arrays:
            return  # another thread has just stored it
        self._evict(key)
        nbytes = _nbytes(array)
        assert self.max_bytes is not None
        if nbytes > min(STREAM_BYTES, self.max_bytes - self.nbytes + self.nbytes_of_streams):
            return
        while self.nbytes_of_streams + nbytes > STREAM_BYTES or self.nbytes + nbytes > self.max_bytes:
            self._evict(next(iter(self._of_streams)))
        self._of_streams[key] = array
        self.nbytes += nbytes
        self.nbytes_of_streams += nbytes

    def _evict(self, key: Hashable) -> None:
        if key in self._of_streams:
            nbytes = _nbytes(self._of_streams.pop(key))
            self.nbytes_of_streams -= nbytes
            self.nbytes -= nbytes
        elif key in self._arrays:
            self.nbytes -= _nbytes(self._arrays.pop(key)[0])

    def _make_room(self, nbytes: int, spare: int | None = None) -> bool:
        """Evict those of streams, then the oldest, until so many bytes are free; return whether they are."""
        if self.max_bytes is not None and nbytes > self.max_bytes:
            return False
        while self.max_bytes is not None and self.nbytes + nbytes > self.max_bytes:
            if self._of_streams:
                self._evict(next(iter(self._of_streams)))
                continue
            if not self._arrays:
                return False
            oldest, (_, last_used) = next(iter(self._arrays.items()))
            if spare is not None and last_used > spare:
                return False
            self._evict(oldest)
        return True


def _nbytes(array: Tensor | np.ndarray) -> int:
    return array.nbytes + ENTRY_BYTES


cache = ArrayCache()
after_fork(cache.renew_lock)


def set_feature_cache(max_bytes: int | None = None) -> None:
    """Set the maximum size of the cache of text features.

    With `tuning="head"`, in `XLMRXLEmbedder`, and for the layers below `LoRA(layers=...)`, the frozen base runs once
    per text and process; epochs, folds, candidates and clones reuse its features. When the cache is full, the least
    recently used features are evicted. Rows that `skxlmr.scale` or the command line predict in chunks rarely come
    again: of their features only the last 32 MiB are kept, and they evict no others.

    Parameters
    ----------
    max_bytes : int or None, default=None
        0 disables the cache; None is a quarter of the memory that is free when it is first used.

    Raises
    ------
    TypeError
        If `max_bytes` is not a number.
    ValueError
        If it is negative.

    Examples
    --------
    >>> import skxlmr
    >>> skxlmr.set_feature_cache(2 * 10**9)
    >>> skxlmr.set_feature_cache()
    """
    if max_bytes is not None and (not isinstance(max_bytes, Real) or isinstance(max_bytes, bool)):
        raise TypeError(f"max_bytes must be None or a number of bytes, such as 2 * 10**9, got {max_bytes!r}.")
    if max_bytes is not None and not max_bytes >= 0:
        raise ValueError(f"max_bytes must be None or at least 0, got {max_bytes}.")
    cache.resize(max_bytes)


def clear_features() -> None:
    """Evict all features."""
    cache.clear()


class Keep:
    """Caches the hidden states of a training as they are computed.

    For them only what was not used since this object was made is evicted. From a GPU they are copied while the training
    goes on, so that they are in the cache a little later.
    """

    def __init__(self) -> None:
        self._began = cache.now
        self._copies: list[tuple[Sequence[Hashable], list[int], bool, Download]] = []
        self._lock = threading.Lock()  # several GPUs compute states in threads

    def put(self, keys: Sequence[Hashable], states: Tensor, lengths: list[int], *, check: bool = False) -> None:
        """Cache the states (T, H) of texts of these lengths; with `check`, only if they are finite."""
        with torch.inference_mode(False):
            copied = Download(states)
        with self._lock:
            self._copies.append((keys, lengths, check, copied))
        self.store()

    def store(self) -> None:
        """Store what has been copied by now."""
        while (copied := self._next()) is not None:
            keys, lengths, check, states = copied
            if check and not states.isfinite().all():
                continue
            with torch.inference_mode(False):  # tensors made in it could not be trained on
                parts = [part.clone() for part in states.split(lengths)]
            cache.put(keys, parts, spare=self._began)

    def _next(self) -> tuple[Sequence[Hashable], list[int], bool, Tensor] | None:
        """Remove the first copy if it is there, and return it."""
        with self._lock:
            if not self._copies or (states := self._copies[0][-1].poll()) is None:
                return None
            return (*self._copies.pop(0)[:-1], states)
