"""Gradients of products with frozen weights in 8 bits.

Notation: T tokens, K input features, N output features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skxlmr.model.quantized_input import FrozenLayer, QuantizedInput


class FrozenProduct(torch.autograd.Function):
    """Forward with the engine of the layer; backward to the input alone, with the weights as they are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLayer, quantized: QuantizedInput | None) -> Tensor:
        ctx.layer = layer
        return layer.engine.multiply(layer.prepare(x) if quantized is None else quantized, layer)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        layer = ctx.layer
        if gradient.dtype == torch.float16:  # gradient times scale could underflow in float16
            return gradient @ layer.dequantize(gradient.dtype), None, None
        scaled = (gradient * layer.scales).to(gradient.dtype)
        return scaled @ layer.unscaled(gradient.dtype), None, None
