"""Blocks of rows for elementwise steps, so that these need no whole copy of a matrix in floating point."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Elements that the elementwise steps take at a time: on a CPU few enough for a core's cache, elsewhere so many that the
# time to launch the steps does not matter.
BLOCK = {"cpu": 2**19}
LARGE_BLOCK = 2**24


def blocks(n_rows: int, width: int, *, device: torch.device) -> Iterator[slice]:
    """Yield slices of the rows of a matrix (n_rows, width), each of about `block_size` elements."""
    step = max(1, block_size(device) // width)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def block_size(device: torch.device) -> int:
    """Return the number of elements that elementwise steps take at a time."""
    return BLOCK.get(device.type, LARGE_BLOCK)
