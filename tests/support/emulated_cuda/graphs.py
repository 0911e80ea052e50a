"""CUDA graphs of the emulated device: a capture records the operators, a replay runs them on the same storages."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from emulated_cuda.streams import Stream
from emulated_cuda.tensor import current


class CUDAGraph:
    """A `torch.cuda.CUDAGraph`. What it recorded keeps its memory until the graph is gone."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._gpu = current()
        self._records: list[tuple[Callable[[], Any], list[Tensor]]] = []
        self.captured = False

    def record(self, call: Callable[[], Any], result: Any) -> None:
        """Append an operator, and the tensors of the CPU that it returned during the capture."""
        self._records.append((call, [x for x in tree_leaves(result) if isinstance(x, Tensor)]))

    def replay(self) -> None:
        if not self.captured:
            raise RuntimeError("CUDAGraph::replay called without a preceding successful capture.")
        for counts in self._gpu._counts:
            counts.replays += 1
        with torch.inference_mode():
            for call, outputs in self._records:
                for output, new in zip(outputs, [x for x in tree_leaves(call()) if isinstance(x, Tensor)], strict=True):
                    if new is not output:  # else the operator works in place
                        output.copy_(new)

    def pool(self) -> tuple[int, int]:
        return (0, 1)


class Capture:
    """A `torch.cuda.graph`: operators in the `with` statement are recorded for the graph. The host may not wait.

    An error ends the capture, and the graph cannot be replayed.
    """

    def __init__(
        self,
        graph: CUDAGraph,
        pool: tuple[int, int] | None = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
    ) -> None:
        self.gpu, self.graph = current(), graph
        # Torch keeps one stream for all captures, on the device that was current at the first of them.
        self.stream = stream or Stream(torch.device("cuda", 0))
        self.thread = 0

    def __enter__(self) -> None:
        self.gpu.count_wait("synchronize")
        index = self.gpu.current
        if self.stream.index != index:
            raise RuntimeError(f"a stream of cuda:{self.stream.index} cannot capture on cuda:{index}")
        if self.gpu.capture is not None:
            raise RuntimeError("only one capture may be underway at a time in the process")
        self.memory = self.gpu.memories[index]
        self.peak_before, self.memory.peak = self.memory.peak, self.memory.allocated
        self.thread = threading.get_ident()
        self.gpu.capture = self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.gpu.capture = None
        self.graph.captured = kind is None
        nbytes = self.memory.peak - self.memory.allocated
        if self.graph.captured:
            self.memory.reserve(nbytes)
            weakref.finalize(self.graph, self.memory.reserve, -nbytes)
        self.memory.peak = max(self.memory.peak, self.peak_before)
