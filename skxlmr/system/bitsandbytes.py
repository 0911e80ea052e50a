"""The operators of bitsandbytes, imported when they are first needed."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch


@functools.cache
def bitsandbytes_ops() -> Any:
    """Return `torch.ops.bitsandbytes`.

    Raises
    ------
    ImportError
        If bitsandbytes is not installed.
    """
    # It warns of an optional package that it would take a CPU kernel from, which is not used here.
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401 - registers its operators
    except ImportError as error:
        raise ImportError(
            "This needs bitsandbytes, which is not installed: run `pip install bitsandbytes`. "
            "On a CPU, load_in_8bit=True does without it."
        ) from error
    finally:
        logger.setLevel(level)
    return torch.ops.bitsandbytes
