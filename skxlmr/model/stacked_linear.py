"""Linear layers with the same input as one product, on CUDA and for inference: their weights are parts of one matrix.

Notation: T tokens, K input features, N output features of each of n layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StackedLinear:
    """The weights of linear layers one below the other.

    Making it moves the weights there, so that they take no more memory than before: the parameters of the layers become
    views of parts of the matrix, with the values that they had. Whatever changes a parameter in place changes the
    matrix. `holds` tells whether the parameters still are these parts.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        # Tensors of inference mode could not be trained later.
        with torch.inference_mode(False), torch.no_grad():
            self.weight = torch.cat([layer.weight for layer in layers])  # (n * N, K)
            self.bias = torch.cat([layer.bias for layer in layers])  # (n * N,)
            self._parts = [*self.weight.chunk(len(layers)), *self.bias.chunk(len(layers))]
            for parameter, part in zip(_parameters(layers), self._parts, strict=True):
                parameter.data = part

    def holds(self, layers: Sequence[nn.Linear]) -> bool:
        """Whether the parameters of the layers are parts of the matrix."""
        return all(
            parameter.data_ptr() == part.data_ptr() and parameter.shape == part.shape
            for parameter, part in zip(_parameters(layers), self._parts, strict=True)
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Return the products with all layers, (T, K) -> (T, n * N)."""
        return F.linear(x, self.weight, self.bias)


def can_stack(layers: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether `StackedLinear` can take the place of layers for an input x, (T, K).

    On CPUs weights stay where they are, which may be a file, and results the same, bit for bit, as they were.
    """
    return (
        x.is_cuda
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and all(
            type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks for layer in layers
        )
        and all(
            layer.bias is not None and layer.weight.is_cuda and layer.weight.dtype == layer.bias.dtype == x.dtype
            for layer in layers
        )
    )


def _parameters(layers: Sequence[nn.Linear]) -> list[Tensor]:
    return [layer.weight for layer in layers] + [layer.bias for layer in layers]
