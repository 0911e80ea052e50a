"""Streams and events of the emulated device: whatever they wait for is done, but waiting is counted."""

from __future__ import annotations

import time

import torch

from emulated_cuda.tensor import current


class Event:
    """A `torch.cuda.Event`."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._gpu = current()
        self._recorded = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self._recorded = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end._recorded - self._recorded)

    def wait(self, stream: Stream | None = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._gpu.count_wait("synchronize")


class Stream:
    """A `torch.cuda.Stream` of one device."""

    def __init__(self, device: torch.device | str | int | None = None, priority: int = 0) -> None:
        self._gpu = current()
        self.index = self._gpu.index_of(device)
        self.device = torch.device("cuda", self.index)

    def wait_stream(self, stream: Stream) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._gpu.count_wait("synchronize")
