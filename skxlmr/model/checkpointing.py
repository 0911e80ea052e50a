"""Activation checkpointing: layers that run again in the backward pass instead of keeping what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

OPTIONS = {  # of torch.utils.checkpoint.checkpoint, and not arguments of the layer
    name for name, p in inspect.signature(checkpoint).parameters.items() if p.default is not inspect.Parameter.empty
}


@dataclass(frozen=True)
class Checkpointing:
    """How layers are run again in the backward pass, and which; see `activation_checkpointing_enable` of the models.

    Raises ValueError if an option is unknown or `every_n_layers` is not a positive integer.
    """

    options: Mapping[str, Any] = field(default_factory=lambda: {"use_reentrant": False})
    every_n_layers: int = 1
    offload: bool = False

    def __post_init__(self) -> None:
        unknown = self.options.keys() - OPTIONS
        if unknown:
            raise ValueError(
                f"Activation checkpointing has no option {', '.join(sorted(unknown))}; torch.utils.checkpoint has "
                f"{', '.join(sorted(OPTIONS))}."
            )
        if not isinstance(self.every_n_layers, int) or self.every_n_layers < 1:
            raise ValueError(f"every_n_layers must be a positive integer, got {self.every_n_layers!r}.")

    def applies_to(self, layer: int) -> bool:
        """Whether the layer of this number, from 0 on, is run again."""
        return layer % self.every_n_layers == 0

    def run(self, layer: nn.Module, x: Tensor, *arguments: Any) -> Tensor:
        """Run a layer on hidden states and other arguments, and keep only these for the backward pass."""
        with save_on_cpu(pin_memory=x.is_cuda) if self.offload else nullcontext():
            return checkpoint(layer, x, *arguments, **self.options)
