"""The current CUDA device of a thread, on which Triton and other libraries launch their kernels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def on_device(device: torch.device) -> AbstractContextManager:
    """Return a context in which a CUDA device is the current one; of other devices there is none.

    The operators of torch run where their tensors are. Kernels of Triton are launched on the current device, wherever
    their tensors are, and streams and events belong to it.

    Examples
    --------
    >>> with on_device(torch.device("cpu")):
    ...     pass
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
