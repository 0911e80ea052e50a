"""The GPUs that can be emulated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """What the software around a GPU asks about it."""

    name: str
    capability: tuple[int, int]  # compute capability, major and minor
    memory: int  # bytes


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("V100", (7, 0), 16 * 10**9),
        Gpu("T4", (7, 5), 16 * 10**9),
        Gpu("A100", (8, 0), 80 * 10**9),
        Gpu("A10", (8, 6), 24 * 10**9),
        Gpu("L4", (8, 9), 24 * 10**9),
        Gpu("H100", (9, 0), 80 * 10**9),
        Gpu("B200", (10, 0), 180 * 10**9),
    )
}
