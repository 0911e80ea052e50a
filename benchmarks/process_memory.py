"""Memory of this process, as the kernel counts it; Linux only. All in GB (10^9 bytes)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

PAGE = 4096


def resident() -> dict[str, float]:
    """Return the peak resident, current resident and proportional set size of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    rollup = dict(line.split(":", 1) for line in lines)
    sizes = {"peak": fields["VmHWM"], "resident": fields["VmRSS"], "proportional": rollup["Pss"]}
    sizes |= {"private": fields["RssAnon"], "mapped": fields["RssFile"]}
    return {name: int(value.split()[0]) * 1024 / 1e9 for name, value in sizes.items()}


def forget_peak() -> None:
    """Let the peak begin anew at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def touch(tensors: Iterable[torch.Tensor]) -> None:
    """Read a byte of each page, so that all of a mapped file is resident."""
    for tensor in tensors:
        tensor.detach().contiguous().view(torch.uint8).flatten()[::PAGE].sum()
