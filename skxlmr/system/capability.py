"""The compute capability of a GPU, which says what products it has."""

from __future__ import annotations

import torch


def cuda_capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a GPU; estimates for a GPU that is not there assume a recent one."""
    try:
        return torch.cuda.get_device_capability(device)
    except (AssertionError, RuntimeError):  # torch has no CUDA, or there is no such GPU
        return (9, 0)
