"""Integer products by the kernel of bitsandbytes.

Notation: T tokens, t tokens of one block, K input features, N output features, k outlier columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.blocks import blocks
from skxlmr.model.int8_engines.outliers import outlier_weight, outliers_of
from skxlmr.model.quantized_input import IntegerLayer, QuantizedInput
from skxlmr.system.bitsandbytes import bitsandbytes_ops

BITSANDBYTES_MULTIPLE = 4  # of K; it computes other products in float32, where sums above 2**24 are rounded


class BitsAndBytes:
    """Integer products by the kernel of bitsandbytes; outlier columns are multiplied in floating point.

    The kernels of bitsandbytes that quantise inputs and scale products are not used: on CUDA they read and write
    float16 only, in which numbers above 65504 are infinite, whatever the dtype of the model. The product of outlier
    columns is the one step that is not exact for any batch: the device chooses its kernel by the number of tokens.
    """

    def quantize(self, x: Tensor, layer: IntegerLayer) -> QuantizedInput:
        outliers, fixed = outliers_of(x, layer)
        columns = outliers.columns
        values, scales = torch.empty_like(x, dtype=torch.int8), x.new_empty(len(x), 1, dtype=torch.float32)
        for rows in blocks(*x.shape, device=x.device):
            part = outliers.without(x[rows]) if len(columns) else x[rows]  # (t, K)
            largest = part.abs().amax(1, keepdim=True).float().clamp_(min=1e-30)  # a row may be zero
            values[rows] = torch.mul(part, 127 / largest).round_()
            scales[rows] = outliers.marked(largest / 127)
        if not len(columns):
            return QuantizedInput(x.dtype, values, scales)
        return QuantizedInput(x.dtype, values, scales, columns, outliers.of(x), fixed)

    def multiply(self, inputs: QuantizedInput, layer: IntegerLayer) -> Tensor:
        assert inputs.scales is not None
        values, weight = inputs.values, layer.weight.detach()
        if more := -values.shape[1] % BITSANDBYTES_MULTIPLE:
            values, weight = F.pad(values, (0, more)), F.pad(weight, (0, more))
        sums = bitsandbytes_ops().int8_linear_matmul(values, weight)  # (T, K), (N, K) -> (T, N) int32
        y = sums.new_empty(sums.shape, dtype=inputs.dtype)
        scales = layer.scales
        bias = scales.new_zeros(()) if layer.bias is None else layer.bias.float()
        for rows in blocks(*sums.shape, device=sums.device):
            torch.addcmul(bias, sums[rows] * scales, inputs.scales[rows], out=y[rows])  # rounded once, at the end
        if inputs.columns is None or inputs.high is None:
            return y
        if inputs.fixed:
            key = ("outlier weight", y.dtype)
            outliers = layer.derived(key, lambda: (layer.outlier_weight * layer.scales).to(y.dtype))
        else:
            outliers = (outlier_weight(layer.weight, inputs.columns) * scales).to(y.dtype)
        return y.addmm_(inputs.high, outliers)  # (T, k), (k, N) -> (T, N)
