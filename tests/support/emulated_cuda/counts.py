"""What the host and the emulated device did."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Counts of a `with gpu.counting() as counts:` block.

    An upload from pageable memory is a wait as well, since it can only be left to the device from pinned memory
    (`tensor.pin_memory().to(device, non_blocking=True)`). A download with `non_blocking=True` is not a wait; the
    `synchronize` of an event or stream that it needs is one.

    Attributes
    ----------
    waits : Counter
        How often the host waited for the device, by (reason, place). A reason is the name of an operator, "upload",
        "download" or "synchronize"; a place is a line of skxlmr such as "runtime/run.py:60".
    uploads : Counter
        Copies to the device, by (kind of memory, place); the kind is "pinned" or "pageable".
    downloads : Counter
        Copies to the host, by place.
    upload_bytes : int
        Sum over all uploads.
    operators : Counter
        Operators that ran on the device, by name, views included; those of the backward pass, too.
    kernels : Counter
        Special kernels, by name: "flash", "cudnn", "sdpa", "int8 product" and others of `emulated_cuda.kernels`.
    unordered : Counter
        Sums whose order the device does not fix (atomic additions to one place), by (operator, place).
    operators_of_layers : list of Counter
        As `operators`, one for each run of an encoder layer in the forward pass, in order.
    """

    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    uploads: Counter[tuple[str, str]] = field(default_factory=Counter)
    downloads: Counter[str] = field(default_factory=Counter)
    upload_bytes: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    unordered: Counter[tuple[str, str]] = field(default_factory=Counter)
    operators_of_layers: list[Counter[str]] = field(default_factory=list)

    @property
    def n_waits(self) -> int:
        return self.waits.total()

    @property
    def n_uploads(self) -> int:
        return self.uploads.total()

    @property
    def n_pinned_uploads(self) -> int:
        return sum(n for (kind, _), n in self.uploads.items() if kind == "pinned")

    @property
    def n_downloads(self) -> int:
        return self.downloads.total()

    @property
    def n_operators(self) -> int:
        return self.operators.total()

    def __str__(self) -> str:
        lines = [f"{n:6} waits    {reason} at {place}" for (reason, place), n in self.waits.most_common()]
        lines += [f"{n:6} uploads  {kind} at {place}" for (kind, place), n in self.uploads.most_common()]
        lines += [f"{n:6} runs     {name}" for name, n in self.kernels.most_common()]
        lines += [f"{n:6} unordered sums  {name} at {place}" for (name, place), n in self.unordered.most_common()]
        per_layer = [each.total() for each in self.operators_of_layers]
        if per_layer:
            lines.append(f"{max(per_layer):6} operators per layer at most, in {len(per_layer)} runs of layers")
        return "\n".join(lines)


def place() -> str:
    """Return the innermost line of skxlmr that is running, such as "runtime/run.py:60"."""
    frame = sys._getframe(1)
    while frame is not None:
        _, in_package, name = frame.f_code.co_filename.rpartition("/skxlmr/")
        if in_package:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside of skxlmr"
