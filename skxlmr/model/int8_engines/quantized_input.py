"""What all engines share: the input that they multiply, and its outlier columns.

Notation: T tokens, K input features, N output features, k outlier columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from skxlmr.model.dynamic_outliers import OutlierColumns

if TYPE_CHECKING:
    from skxlmr.model.int8 import Int8Linear

HIGH = 256  # an outlier is `HIGH * high + low`, two int8
LARGEST = 127 * HIGH + 127


@dataclass
class QuantizedInput:
    """What an engine multiplies: the input of a layer after its `quantize`."""

    dtype: torch.dtype  # of the product
    values: Tensor  # (T, K) int8, in outlier columns the low byte; the unchanged input if the engine does not quantise
    scales: Tensor | None = None  # (T, 1) float32, value of one step of each row
    columns: Tensor | None = None  # (k,) int64, the outlier columns
    # (T, k) int8, high bytes of the outliers, with triton followed by zeros; with bitsandbytes the outliers themselves
    high: Tensor | None = None
    fixed: bool = True  # whether the outlier columns are those that the layer stores
    middles: Tensor | None = None  # (T, 1) float32, subtracted from each row before it was rounded


class Engine(Protocol):
    """Multiplies inputs with 8-bit weights."""

    def quantize(self, x: Tensor, layer: Int8Linear) -> QuantizedInput:
        """Prepare an input (T, K)."""

    def multiply(self, inputs: QuantizedInput, layer: Int8Linear) -> Tensor:
        """Return (T, N), with the bias added."""


def outliers_of(x: Tensor, layer: Int8Linear) -> tuple[OutlierColumns, bool]:
    """Return the columns of an input (T, K) that keep 16 bits, and whether the layer stores these."""
    if layer.settings.outliers != "dynamic":
        return OutlierColumns(layer.outliers), True
    return OutlierColumns.find(x, layer.settings.threshold), False


def outlier_weight_of(layer: Int8Linear, inputs: QuantizedInput) -> Tensor:
    """Return the outlier columns of the weight of a layer for its quantised input, (k, N)."""
    assert inputs.columns is not None
    return layer.outlier_weight if inputs.fixed else outlier_weight(layer.weight, inputs.columns)


def outlier_weight(weight: Tensor, columns: Tensor) -> Tensor:
    """Return the outlier columns of a weight (N, K) as a new matrix, (k, N)."""
    # Copied into new memory: `contiguous` would keep the strides of a single column, which _int_mm misreads.
    return weight.new_empty(len(columns), len(weight)).copy_(weight[:, columns].t())
