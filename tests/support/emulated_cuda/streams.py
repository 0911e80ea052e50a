"""Streams and events of the emulated device: whatever they wait for is done, but waiting is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emulated_cuda.device import EmulatedCuda


class Event:
    """A `torch.cuda.Event`."""

    def __init__(self, gpu: EmulatedCuda) -> None:
        self._gpu = gpu

    def record(self, stream: Stream | None = None) -> None:
        pass

    def wait(self, stream: Stream | None = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._gpu.count_wait("synchronize")


class Stream:
    """A `torch.cuda.Stream`."""

    def __init__(self, gpu: EmulatedCuda) -> None:
        self._gpu = gpu

    def wait_stream(self, stream: Stream) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event(self._gpu)

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._gpu.count_wait("synchronize")
