"""What a fast path relies on: parts of modules that must be what they were."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Watched:
    """Parts of modules, and what they were; comparing all of a model takes less time than a layer of a short text."""

    def __init__(self) -> None:
        self.packed: list[Tensor] = []  # those of which there are copies
        self._entries: dict[tuple[int, str], tuple[dict[str, Any], str, object]] = {}
        self._hooks: list[dict] = []
        self._tensors: list[Tensor] = []
        self._modules: list[nn.Module] = []

    def entries(self, of: dict[Any, Any], values: Mapping[str, object]) -> None:
        """Watch that entries of a dictionary are these objects."""
        self._entries |= {(id(of), name): (of, name, value) for name, value in values.items()}

    def attributes(self, module: nn.Module, **values: object) -> None:
        """Watch that attributes of a module are these objects."""
        self.entries(module.__dict__, values)

    def module(self, module: nn.Module, *children: str) -> None:
        """Watch that a module has its class, no hooks, and these children."""
        self._modules.append(module)
        self.entries(module._modules, {name: module._modules[name] for name in children})
        self._hooks += [module._forward_hooks, module._forward_pre_hooks]

    def tensors(self, of: dict[str, Any], *names: str) -> None:
        """Watch which tensors of a module there are, and where they are."""
        self.entries(of, {name: of[name] for name in names})
        self._tensors += [of[name] for name in names if of[name] is not None]

    def finish(self) -> None:
        """Begin to watch."""
        self._dicts, self._names, self._values = zip(*self._entries.values(), strict=True)
        self._addresses = list(map(Tensor.data_ptr, self._tensors))
        self._versions = list(map(_version, self.packed))
        self._types = list(map(type, self._modules))

    def is_unchanged(self) -> bool:
        """Whether everything is as it was, and what was packed has not been written to."""
        try:
            same = all(map(operator.is_, map(operator.getitem, self._dicts, self._names), self._values))
        except KeyError:
            return False
        return (
            same
            and not any(self._hooks)
            and list(map(type, self._modules)) == self._types
            and list(map(Tensor.data_ptr, self._tensors)) == self._addresses
            and list(map(_version, self.packed)) == self._versions
        )


_version = operator.attrgetter("_version")
