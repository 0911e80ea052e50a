"""Errors of torch that say that the memory of a device does not suffice, as errors of one type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# torch.OutOfMemoryError is raised where torch itself allocates on CUDA. Other errors are told apart by their messages.
MESSAGES = (
    "CUDA error: out of memory",  # of the driver: for kernels, graphs and pinned memory
    "HIP error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",  # libraries allocate what they work in
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "DefaultCPUAllocator: can't allocate memory",
)


@contextmanager
def as_out_of_memory() -> Iterator[None]:
    """Raise torch.OutOfMemoryError in place of all other errors of torch with this meaning.

    Yields
    ------
    None

    Examples
    --------
    >>> with as_out_of_memory():
    ...     raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    Traceback (most recent call last):
        ...
    torch.OutOfMemoryError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`
    """
    message = None
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if not any(each in str(error) for each in MESSAGES):
            raise
        message = str(error)
    if message is not None:  # outside of the handler, whose traceback holds the tensors of the failed attempt
        raise torch.OutOfMemoryError(message)
