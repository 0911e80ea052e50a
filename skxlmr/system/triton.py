"""Whether triton is installed, which compiles kernels for GPUs."""

from __future__ import annotations

import functools
import importlib.util


@functools.cache
def is_installed() -> bool:
    """Whether triton is installed; torch for CUDA on Linux requires it, torch for CPUs does not."""
    return importlib.util.find_spec("triton") is not None


def require() -> None:
    """Raise ImportError if triton is not installed."""
    if not is_installed():
        raise ImportError(
            'Int8(engine="triton") needs triton, which is not installed: run `pip install triton`. '
            'Int8(engine="auto") multiplies without it, by bitsandbytes.'
        )
