"""Bytes that are free on a device, or for a process in a container."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath

import torch

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated on a device; None if unknown.

    On CUDA these are the free bytes plus those that torch has reserved but does not use. On Linux they are what the
    kernel calls available, limited by the control groups of this process, which is how containers are limited.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    int or None
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    try:
        available = _numbers(PROC / "meminfo")["MemAvailable:"] * 1024
    except (OSError, KeyError, ValueError):
        return None
    return max(0, min([available, *_left_by_control_groups()]))


def _left_by_control_groups() -> list[int]:
    """Return the free bytes under each limit of the control groups of this process."""
    left: list[int] = []
    try:
        memberships = [line.split(":", 2) for line in (PROC / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return left
    for _, controllers, group in memberships:
        if not controllers:  # version 2: one hierarchy for everything
            root, limit, used, prefix = CGROUP, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            root, limit, used = CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            prefix = "total_"
        else:
            continue
        path = PurePosixPath(group.strip("/"))
        for folder in (root / path, *(root / parent for parent in path.parents)):
            # The limit of a group applies to all groups below. A container sees its own group as the root.
            with contextlib.suppress(OSError, ValueError):  # no such file, or the limit is "max"
                most, taken = (int((folder / name).read_text()) for name in (limit, used))
                # The page cache counts as free: the kernel reclaims it on demand.
                status = _numbers(folder / "memory.stat")
                files = sum(status.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
                left.append(most - max(0, taken - files))
    return left


def _numbers(path: Path) -> dict[str, int]:
    """Read lines that consist of a name and a number."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
