"""Features of texts that are remembered within a process: a bounded cache, least recently used first to go."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from skxlmr.hardware.free_memory import available_memory
from skxlmr.system.forks import after_fork

ENTRY_BYTES = 400  # of Python's objects around an array
SHARE_OF_FREE_MEMORY = 4


class ArrayCache:
    """Arrays by key, the least recently used ones forgotten first; bounded in bytes, for any number of threads.

    Parameters
    ----------
    max_bytes : int or None
        None is a quarter of the memory that is free when the first array comes.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.renew_lock()
        self.clear()

    def renew_lock(self) -> None:
        """Nobody holds it any more."""
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._arrays: OrderedDict[Hashable, tuple[Tensor | np.ndarray, int]] = OrderedDict()  # and when last used
            self.nbytes, self.now = 0, 0

    def resize(self, max_bytes: int | None) -> None:
        """Set the bound, and forget what is beyond it."""
        with self._lock:
            self.max_bytes = max_bytes
            self._make_room(0)

    def __len__(self) -> int:
        return len(self._arrays)

    def get(self, keys: Sequence[Hashable]) -> list[Tensor | np.ndarray | None]:
        """Return what is known of the keys, None for the others."""
        with self._lock:
            self.now += 1
            found = []
            for key in keys:
                array = self._arrays[key][0] if key in self._arrays else None
                if array is not None:
                    self._arrays[key] = array, self.now
                    self._arrays.move_to_end(key)
                found.append(array)
            return found

    def put(self, keys: Sequence[Hashable], arrays: Sequence[Tensor | np.ndarray], spare: int | None = None) -> None:
        """Remember arrays; nobody may change them any more.

        Parameters
        ----------
        keys, arrays : sequences of the same length
        spare : int, default=None
            Forget nothing that was used since then, a value that `now` had: rather do not remember these. Whoever
            goes through the same texts again and again would otherwise always find those forgotten that come next.
        """
        with self._lock:
            if self.max_bytes is None:
                free = available_memory(torch.device("cpu"))
                self.max_bytes = 2**30 if free is None else free // SHARE_OF_FREE_MEMORY
            self.now += 1
            for key, array in zip(keys, arrays, strict=True):
                self._forget(key)
                nbytes = array.nbytes + ENTRY_BYTES
                if self._make_room(nbytes, spare):
                    self._arrays[key] = array, self.now
                    self.nbytes += nbytes

    def _forget(self, key: Hashable) -> None:
        array, _ = self._arrays.pop(key, (None, 0))
        if array is not None:
            self.nbytes -= array.nbytes + ENTRY_BYTES

    def _make_room(self, nbytes: int, spare: int | None = None) -> bool:
        """Forget the oldest until so many bytes are free; whether they are."""
        if self.max_bytes is not None and nbytes > self.max_bytes:
            return False
        while self.max_bytes is not None and self.nbytes + nbytes > self.max_bytes:
            if not self._arrays:
                return False
            oldest, (_, last_used) = next(iter(self._arrays.items()))
            if spare is not None and last_used > spare:
                return False
            self._forget(oldest)
        return True


cache = ArrayCache()
after_fork(cache.renew_lock)


def set_feature_cache(max_bytes: int | None = None) -> None:
    """Bound the memory in which features of texts wait to be used again.

    With `tuning="head"`, in `XLMRXLEmbedder`, and for the layers below `LoRA(layers=...)`, the frozen base runs over
    a text once in a process; epochs, folds, candidates and clones take what it gave from there. When it is full, what
    was not used for longest is forgotten.

    Parameters
    ----------
    max_bytes : int or None, default=None
        0 remembers nothing; None is a quarter of the memory that is free when it is first used.

    Examples
    --------
    >>> import skxlmr
    >>> skxlmr.set_feature_cache(2 * 10**9)
    >>> skxlmr.set_feature_cache()
    """
    if max_bytes is not None and max_bytes < 0:
        raise ValueError(f"max_bytes must be None or at least 0, got {max_bytes}.")
    cache.resize(max_bytes)


def clear_features() -> None:
    """Forget all features of texts."""
    cache.clear()


def moment() -> int:
    """The present, for `frozen_states` to compare with."""
    return cache.now
