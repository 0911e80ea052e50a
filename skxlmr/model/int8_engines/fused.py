"""Integer products in kernels that take in the steps before and after them: on CUDA and on x86 CPUs.

Notation: T tokens, K input features, N output features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skxlmr.model.dynamic_outliers import guessing
from skxlmr.model.int8_engines.outliers import outlier_weight_of, outliers_of
from skxlmr.model.quantized_input import IntegerLayer, QuantizedInput


class Fused:
    """Integer products as of `IntMM`, in kernels that take in the steps before and after them.

    `operators` returns them: `skxlmr.model.int8_triton.operators` or the like. Inputs of asymmetric layers are rounded
    as those of symmetric ones.
    """

    def __init__(self, operators: Callable[[], Any]) -> None:
        self.operators = operators

    def quantize(self, x: Tensor, layer: IntegerLayer) -> QuantizedInput:
        with guessing(False):  # the kernels take no columns that are not outliers
            outliers, fixed = outliers_of(x, layer)
        columns = outliers.columns
        is_outlier = layer.is_outlier
        if not fixed:
            is_outlier = torch.zeros_like(is_outlier, device=x.device).index_fill_(0, columns, True)
        values, scales, high, _ = self.operators().quantize_rows(x, is_outlier, columns, None, None, 0.0, False)
        return _quantized(x.dtype, values, scales, columns, high, fixed)

    def normalise(
        self, x: Tensor, norm: nn.LayerNorm, layer: IntegerLayer, keep: bool
    ) -> tuple[QuantizedInput, Tensor]:
        """Quantise the result of a LayerNorm (T, K) for a layer with fixed outliers; return it, too, if `keep`."""
        values, scales, high, normalised = self.operators().quantize_rows(
            x, layer.is_outlier, layer.outliers, norm.weight, norm.bias, norm.eps, keep
        )
        return _quantized(x.dtype, values, scales, layer.outliers, high), normalised

    def layer_norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Return the result of a LayerNorm that no product follows, (T, K)."""
        return norm(x)

    def multiply(self, inputs: QuantizedInput, layer: IntegerLayer) -> Tensor:
        return self.products(inputs, [layer])

    def products(
        self,
        inputs: QuantizedInput,
        layers: Sequence[IntegerLayer],
        *,
        gelu: bool = False,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Multiply with one layer, (T, N), or with three of one shape, (3, T, N); apply gelu and add a residual."""
        assert inputs.scales is not None
        biases = [layer.bias for layer in layers if layer.bias is not None]
        assert len(biases) in (0, len(layers))
        of_middles = () if inputs.middles is None else (inputs.middles, [layer.weight_sums for layer in layers])
        return self.operators().int8_linear(
            inputs.values,
            inputs.scales,
            inputs.high,
            [layer.weight for layer in layers],
            [layer.SCB for layer in layers],
            [] if inputs.columns is None else [outlier_weight_of(layer, inputs) for layer in layers],
            biases,
            residual,
            inputs.dtype,
            gelu,
            *of_middles,
        )

    def chain(self, inputs: QuantizedInput, layer: IntegerLayer, following: IntegerLayer) -> QuantizedInput:
        """Multiply, apply gelu and quantise for the following layer, which has fixed outliers."""
        return self.quantize(self.products(inputs, [layer], gelu=True), following)


class Avx(Fused):
    """Products on x86 CPUs, of which those with gelu are quantised while they are in a core's cache.

    Inputs of asymmetric layers are rounded as `IntMM` does.
    """

    def quantize(self, x: Tensor, layer: IntegerLayer) -> QuantizedInput:
        outliers, fixed = outliers_of(x, layer)
        columns, middles = outliers.columns, _empty_middles(x.shape[0], layer)
        values, scales, high, _ = self.operators().quantize_rows(
            x, layer.is_outlier, columns, None, None, 0.0, False, middles
        )
        return _quantized(x.dtype, values, scales, columns, high, fixed, middles)

    def layer_norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return self.operators().layer_norm(x, norm.weight, norm.bias, norm.eps)

    def chain(self, inputs: QuantizedInput, layer: IntegerLayer, following: IntegerLayer) -> QuantizedInput:
        if inputs.middles is not None:
            return super().chain(inputs, layer, following)
        middles = _empty_middles(inputs.values.shape[0], following)
        values, scales, high = self.operators().int8_gelu_rows(
            inputs.values,
            inputs.scales,
            inputs.high,
            layer.weight,
            layer.SCB,
            None if inputs.columns is None else outlier_weight_of(layer, inputs),
            layer.bias,
            following.outliers,
            middles,
        )
        return _quantized(inputs.dtype, values, scales, following.outliers, high, True, middles)


def _quantized(
    dtype: torch.dtype,
    values: Tensor,
    scales: Tensor,
    columns: Tensor,
    high: Tensor,
    fixed: bool = True,
    middles: Tensor | None = None,
) -> QuantizedInput:
    if not columns.shape[0]:  # len takes longer
        return QuantizedInput(dtype, values, scales, middles=middles)
    return QuantizedInput(dtype, values, scales, columns, high, fixed, middles)


def _empty_middles(n_rows: int, layer: IntegerLayer) -> Tensor | None:
    return torch.empty(n_rows, 1, dtype=torch.float32, device="cpu") if layer.asymmetric else None


def triton_operators() -> Any:
    """Return `torch.ops.skxlmr`."""
    from skxlmr.model.int8_triton import operators  # noqa: F401 - registers its operators

    return torch.ops.skxlmr
