"""Products in floating point, which run everywhere.

Notation: T tokens, K input features, N output features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.int8_engines.quantized_input import QuantizedInput

if TYPE_CHECKING:
    from skxlmr.model.int8 import Int8Linear


class Dequantize:
    """Products in floating point with dequantised weights: run everywhere, and on CPUs without int8 instructions."""

    def quantize(self, x: Tensor, layer: Int8Linear) -> QuantizedInput:
        return QuantizedInput(x.dtype, x)

    def multiply(self, inputs: QuantizedInput, layer: Int8Linear) -> Tensor:
        bias = None if layer.bias is None else layer.bias.to(inputs.dtype)
        return F.linear(inputs.values, layer.dequantize(inputs.dtype), bias)
