"""What the operators of `skxlmr.model.int8_triton` compute, in plain torch.

Notation: T tokens, K input features, N output features, R outlier columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from emulated_cuda.device import EmulatedCuda


def check(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


def quantize_rows(
    gpu: EmulatedCuda | None,
    x: Tensor,
    is_outlier: Tensor,
    columns: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Round each row to 127 steps on either side of zero, outliers to 257 times as many, in two bytes."""
    check(is_outlier.nonzero()[:, 0].tolist() == columns.sort().values.tolist(), "two opinions about the outliers")
    rows = x.reshape(len(x), -1).float()
    if norm_weight is not None and norm_bias is not None:
        rows = F.layer_norm(rows, rows.shape[1:], norm_weight.float(), norm_bias.float(), eps)
    outliers = rows[:, columns]
    largest = rows.masked_fill(is_outlier, 0).abs().amax(1, keepdim=True)
    if len(columns):
        largest = torch.maximum(largest, outliers.abs().amax(1, keepdim=True) * (127 / 32639))
    largest = largest.clamp(min=1e-30)
    values = (rows * (127 / largest)).round()
    whole = values[:, columns]
    high = ((whole + 128) / 256).floor()
    values[:, columns] = whole - 256 * high
    high = F.pad(high, (0, -len(columns) % 32))
    return values.to(torch.int8), largest / 127, high.to(torch.int8), rows.to(x.dtype) if keep else x.new_empty(0)


def int8_linear(
    gpu: EmulatedCuda | None,
    values: Tensor,
    scales: Tensor,
    high: Tensor | None,
    weights: Sequence[Tensor],
    scbs: Sequence[Tensor],
    outlier_weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    residual: Tensor | None,
    dtype: torch.dtype,
    gelu: bool,
) -> Tensor:
    """Multiply exactly, then scale, add and activate in float32."""
    check(gpu is None or gpu.capability >= (8, 0), "Triton compiles integer products for compute capability 8.0")
    check(all(x.dtype == torch.int8 and x.is_contiguous() for x in (values, *weights)), "contiguous int8 matrices")
    check(scales.dtype == torch.float32 and all(x.dtype == torch.float32 for x in scbs), "scales must be float32")
    check(len(weights) in (1, 3) and len({w.shape for w in weights}) == 1, "one layer or three of one shape")
    products = []
    for i, weight in enumerate(weights):
        sums = values.double() @ weight.double().t()
        if high is not None and outlier_weights:
            sums += 256 * (high[:, : len(outlier_weights[i])].double() @ outlier_weights[i].double())
        y = sums.float() * (scbs[i] / 127) * scales
        y = y + biases[i].float() if biases else y
        y = F.gelu(y) if gelu else y
        products.append((y if residual is None else y + residual.float()).to(dtype))
        if gpu is not None:
            gpu.count_kernel("int8 product")
    return products[0] if len(products) == 1 else torch.stack(products)
