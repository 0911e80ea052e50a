"""The memory of the emulated device, and the pinned memory of the host."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from emulated_cuda.tensor import CudaTensor


class Memory:
    """Bytes of the living tensors; beyond `total` torch.OutOfMemoryError is raised."""

    def __init__(self, total: int) -> None:
        self.total, self.allocated, self.peak = total, 0, 0
        self._holders: Counter[int] = Counter()  # of each storage, by its address
        self._sizes: dict[int, int] = {}

    def hold(self, tensor: CudaTensor) -> None:
        """Count the storage of a tensor until no tensor uses it."""
        storage = tensor.inner.untyped_storage()
        key, nbytes = storage._cdata, storage.nbytes()
        if not self._holders[key]:
            if self.allocated + nbytes > self.total:
                raise torch.OutOfMemoryError(f"CUDA out of memory (emulated): {nbytes} more bytes than {self.total}")
            self.allocated += nbytes
            self._sizes[key] = nbytes
        self._holders[key] += 1
        self.peak = max(self.peak, self.allocated)
        before, tensor.release = tensor.release, weakref.finalize(tensor, self._release, key)
        if before is not None:  # `tensor.data = ...`
            before()

    def _release(self, key: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self.allocated -= self._sizes.pop(key)
            del self._holders[key]

    def reset_peak(self) -> None:
        self.peak = self.allocated


class Pinned:
    """The storages of the host that are pinned, by their addresses; views share the storage."""

    def __init__(self) -> None:
        self._storages: set[int] = set()

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self._storages.add(storage._cdata)
        weakref.finalize(storage, self._storages.discard, storage._cdata)
        return tensor

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages
