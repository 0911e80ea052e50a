"""The operators of bitsandbytes, imported on first use."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch


@functools.cache
def bitsandbytes_ops() -> Any:
    """Return `torch.ops.bitsandbytes`; raises ImportError if bitsandbytes is not installed."""
    # Its import logs a warning about a missing optional CPU kernel, which is not used here.
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401 - registers its operators
    except ImportError as error:
        raise ImportError(
            "This needs bitsandbytes, which is not installed: run `pip install bitsandbytes`. "
            "On a CPU, load_in_8bit=True does not need it."
        ) from error
    finally:
        logger.setLevel(level)
    return torch.ops.bitsandbytes


@functools.cache
def has_cuda() -> bool:
    """Whether bitsandbytes is installed, and has a library for the CUDA of this torch, which its wheels may lack."""
    try:
        bitsandbytes_ops()
        from bitsandbytes.cextension import lib
    except ImportError:
        return False
    return bool(getattr(lib, "compiled_with_cuda", False))
