"""Products in floating point with dequantised weights, which run everywhere.

Notation: T tokens, K input features, N output features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.quantized_input import FrozenLayer, QuantizedInput


class Dequantize:
    """Engine of devices that have no products of the stored numbers, or none that are faster."""

    def quantize(self, x: Tensor, layer: FrozenLayer) -> QuantizedInput:
        return QuantizedInput(x.dtype, x)

    def multiply(self, inputs: QuantizedInput, layer: FrozenLayer) -> Tensor:
        bias = None if layer.bias is None else layer.bias.to(inputs.dtype)
        return F.linear(inputs.values, layer.dequantize(inputs.dtype), bias)
