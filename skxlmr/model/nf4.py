"""Linear layers with frozen 4-bit weights: NormalFloat (QLoRA, arXiv:2305.14314), in the layout of bitsandbytes.

Notation: T tokens, K input features, N output features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.system.bitsandbytes import bitsandbytes_ops

BLOCK = 64  # weights that share a scale, the default of bitsandbytes
CHUNK = BLOCK * 2**15  # weights that are quantised at a time, because bitsandbytes makes several float32 copies
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # for others its CPU kernel returns uninitialised memory


class Linear4bit(nn.Module):
    """Linear layer with frozen NF4 weights, (..., K) -> (..., N); gradients flow to its input.

    The weights are converted to floating point for each product, forward and backward. Fused 4-bit kernels are not used
    because bitsandbytes selects them by the number of rows: the result for a text would depend on its batch.
    """

    quantized_parameters = ("weight", "absmax")

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        n = in_features * out_features
        weight = torch.empty(-(-n // 2), 1, dtype=torch.uint8, device=device)  # two weights in a byte
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.absmax = nn.Parameter(torch.empty(-(-n // BLOCK), device=device), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features, device=device), requires_grad=False) if bias else None

    def load(self, name: str, tensor: Tensor) -> None:
        """Set one of `quantized_parameters`; a floating-point weight (N, K) is quantised."""
        if name == "weight" and tensor.is_floating_point():
            weight, absmax = quantize_nf4(tensor)
            self.weight = nn.Parameter(weight, requires_grad=False)
            self.absmax = nn.Parameter(absmax, requires_grad=False)
        else:
            setattr(self, name, nn.Parameter(tensor, requires_grad=False))

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (N, K) in floating point."""
        n = self.out_features * self.in_features
        # One row per block, or one for all: if a block is in two rows, the CPU kernel of bitsandbytes may use the wrong
        # scale, and for an odd number of columns it compiles another kernel.
        shape = (n // BLOCK, BLOCK) if n % BLOCK == 0 else (1, 2 * self.weight.numel())
        computed = dtype if dtype in KERNEL_DTYPES else torch.float32
        values = bitsandbytes_ops().dequantize_4bit(self.weight, self.absmax, BLOCK, "nf4", shape, computed)
        return values.view(-1)[:n].view(self.out_features, self.in_features).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, in the dtype of x."""
        if torch.is_grad_enabled() and x.requires_grad:
            y = _FrozenProduct.apply(x.reshape(-1, self.in_features), self)  # (..., K) -> (T, K)
            return y.view(*x.shape[:-1], self.out_features)  # (T, N) -> (..., N)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.dequantize(x.dtype), bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Linear4bit:
        """Convert as `to` does, but keep the scales in float32."""
        absmax = self.absmax.detach()
        super()._apply(fn, recurse)
        if self.absmax.dtype != torch.float32:
            self.absmax = nn.Parameter(absmax.to(self.absmax.device), requires_grad=False)
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def quantize_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight (N, K) to NF4; return two numbers per byte, (n, 1) uint8, and the largest magnitudes of blocks."""
    quantize = bitsandbytes_ops().quantize_4bit
    parts = [quantize(chunk, BLOCK, "nf4", torch.uint8) for chunk in weight.reshape(-1).split(CHUNK)]
    return torch.cat([packed for packed, _ in parts]), torch.cat([absmax for _, absmax in parts])


class _FrozenProduct(torch.autograd.Function):
    """Forward and backward with weights that are dequantised twice instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Linear4bit) -> Tensor:
        ctx.layer = layer
        return layer(x.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantize(gradient.dtype), None
