"""Linear layers with frozen weights in 8-bit floating point: e4m3, of arXiv:2209.05433.

A number has a sign, four bits of exponent and three of mantissa, so the largest one is 448. Each output channel has a
row of them and a float32 scale. `skxlmr.model.float8_engines` multiplies them.

Notation: T tokens, K input features, N output features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skxlmr.model.float8_engines import E4M3, ENGINES, choose_engine, decoded, round_rows
from skxlmr.model.frozen_product import FrozenProduct
from skxlmr.model.quantized_input import Engine, QuantizedInput
from skxlmr.model.settings import Settings


@dataclass
class Float8(Settings):
    """Settings of weights in 8-bit floating point (e4m3), for `load_in_8bit`.

    They take as much memory as those of `Int8`. GPUs of compute capability 8.9 or higher (L4, RTX 40, H100 and later)
    multiply them, with inputs that are rounded to e4m3, too, each token with its own scale. No columns of the input
    keep 16 bits: a number keeps its bits of mantissa even if another one of its token is a thousand times as large.
    Elsewhere weights are converted to floating point for each product, which is slow, and inputs are not rounded.

    The integers of `Int8` are more accurate, and are what ``load_in_8bit=True`` takes on every device. Which of the two
    is faster on GPUs has not been measured yet.

    Parameters
    ----------
    engine : {"auto", "scaled_mm", "dequantize"}, default="auto"
        How to multiply. "scaled_mm" multiplies 8-bit numbers by `torch._scaled_mm`, on NVIDIA GPUs of compute
        capability 8.9 or higher; on any other device loading raises an error. "dequantize" converts weights to floating
        point for each product. "auto" is "scaled_mm" where it runs, otherwise "dequantize". Apple's GPUs have no 8-bit
        floating point at all.

    Examples
    --------
    >>> from skxlmr import Float8, XLMRXLEmbedder
    >>> embedder = XLMRXLEmbedder(model="nano", load_in_8bit=Float8(), device="cpu")
    >>> embedder.get_params()["load_in_8bit__engine"]
    'auto'
    >>> embedder.fit_transform(["good morning"]).shape
    (1, 192)
    """

    engine: str = "auto"

    def check(self) -> None:
        """Raise ValueError if a setting is invalid."""
        if self.engine not in ("auto", *ENGINES):
            raise ValueError(f"Float8 engine must be one of {('auto', *ENGINES)}, got {self.engine!r}.")

    def engine_on(self, device: torch.device) -> Engine:
        """Return the engine for a device; raise ValueError if there is none."""
        return choose_engine(self.engine, device)


class Float8Linear(nn.Module):
    """Linear layer with frozen weights in 8-bit floating point, (..., K) -> (..., N); gradients flow to its input.

    `weight` has the bytes of the numbers, since torch neither pickles tensors in 8-bit floating point nor leaves them
    as they are in `to(dtype)`. `values` is the same memory in their dtype.
    """

    quantized_parameters = ("weight", "scales")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        settings: Float8 | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.settings = settings or Float8()
        weight = torch.empty(out_features, in_features, dtype=torch.uint8, device=device)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scales = nn.Parameter(torch.empty(out_features, device=device), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features, device=device), requires_grad=False) if bias else None

    def allocate(self, device: torch.device | str) -> None:
        """Allocate the weight, which `load` fills: all at first, to avoid fragmented memory."""
        self.weight = nn.Parameter(torch.empty_like(self.weight, device=device), requires_grad=False)

    def load(self, name: str, tensor: Tensor) -> None:
        """Quantise the weight (N, K) of a checkpoint, which has no scales."""
        assert name == "weight"
        values, scales = round_rows(tensor, None if self.weight.is_meta else self.values)
        self.weight = nn.Parameter(values.view(torch.uint8), requires_grad=False)
        self.scales = nn.Parameter(scales[:, 0], requires_grad=False)

    @property
    def values(self) -> Tensor:
        """The numbers, to be multiplied by the scales: (N, K) float8_e4m3fn."""
        return self.weight.view(E4M3)

    @property
    def engine(self) -> Engine:
        """The engine for the device of the weights."""
        return self.settings.engine_on(self.weight.device)

    def unscaled(self, dtype: torch.dtype) -> Tensor:
        """Return the 8-bit numbers (N, K) in another floating-point dtype."""
        return decoded(self.values).to(dtype)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (N, K) in floating point."""
        return decoded(self.values).mul_(self.scales[:, None]).to(dtype)

    def prepare(self, x: Tensor) -> QuantizedInput:
        """Quantise an input (T, K), for this layer and for others with the same input."""
        with torch.no_grad():
            return self.engine.quantize(x, self)

    def forward(self, x: Tensor, quantized: QuantizedInput | None = None) -> Tensor:
        """Multiply, in the dtype of x; `quantized` is the result of `prepare(x)`, if it is there already."""
        flat = x.reshape(-1, self.in_features)  # (..., K) -> (T, K)
        if torch.is_grad_enabled() and x.requires_grad:
            y = FrozenProduct.apply(flat, self, quantized)
        else:
            y = self.engine.multiply(self.prepare(flat) if quantized is None else quantized, self)
        return y.view(*x.shape[:-1], self.out_features)  # (T, N) -> (..., N)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float8Linear:
        """Convert as `to` does, but keep the scales in float32."""
        scales = self.scales.detach()
        super()._apply(fn, recurse)
        if self.scales.dtype != torch.float32:
            self.scales = nn.Parameter(scales.to(self.scales.device), requires_grad=False)
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
