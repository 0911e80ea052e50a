"""Copies between the host and a GPU for which the host does not wait.

A copy to or from ordinary memory makes the host wait until the device has done all that it was given before. Copies to
and from pinned memory are left to the device, which meanwhile always has something to compute. Torch reuses a pinned
buffer only after the copies that read it or write it are done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 16  # bytes, at least the size of a number
# Bytes; larger copies take long themselves, and torch would keep a pinned buffer of this size until the process ends.
LARGEST_PINNED = 2**27


def upload(arrays: Sequence[np.ndarray | Tensor], device: torch.device) -> list[Tensor]:
    """Copy arrays of the host to a device; to a GPU all together, from pinned memory.

    On CPUs the tensors share the memory of the arrays.

    Examples
    --------
    >>> upload([np.arange(3), np.ones((1, 2), np.float32)], torch.device("cpu"))
    [tensor([0, 1, 2]), tensor([[1., 1.]])]
    """
    tensors = [array if isinstance(array, Tensor) else torch.from_numpy(array) for array in arrays]
    if device.type != "cuda":
        has_double = device.type != "mps"
        return [
            tensor.to(device, None if has_double or not tensor.is_floating_point() else torch.float32)
            for tensor in tensors
        ]
    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors]
    if sum(sizes) > LARGEST_PINNED:
        return [tensor.to(device) for tensor in tensors]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
    for part, tensor in zip(buffer.split(sizes), tensors, strict=True):
        _as(part, tensor).copy_(tensor)
    uploaded = buffer.to(device, non_blocking=True)
    return [_as(part, tensor) for part, tensor in zip(uploaded.split(sizes), tensors, strict=True)]


def upload_one(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Copy an array of the host to a device; to a GPU from pinned memory."""
    return upload([array], device)[0]


def _as(part: Tensor, like: Tensor) -> Tensor:
    """View bytes as numbers of the dtype and shape of another tensor."""
    return part[: like.nbytes].view(like.dtype).view(like.shape)


class Download:
    """The copy of a tensor to the host, left to the device; a tensor of another device arrives at once.

    Parameters
    ----------
    tensor : Tensor
    """

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor.detach()
        self._copied: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self._host = self._host.cpu()
        else:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor.detach(), non_blocking=True)
            self._copied = torch.cuda.current_stream(tensor.device).record_event()

    def wait(self) -> Tensor:
        """Wait for the copy, and return it; it is in pinned memory, so not for keeping."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host

    def poll(self) -> Tensor | None:
        """Return the copy if it is there, else None."""
        return self._host if self._copied is None or self._copied.query() else None


def downloads(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Copy tensors to the host; from a GPU each arrives only after the next one has been requested from `tensors`.

    So the device computes the next one while the host uses a result.
    """
    waiting: Download | None = None
    for tensor in tensors:
        if not tensor.is_cuda:
            yield tensor.cpu()
            continue
        following = Download(tensor)
        if waiting is not None:
            yield waiting.wait()
        waiting = following
    if waiting is not None:
        yield waiting.wait()
