"""Columns of an input that keep 16 bits, and those of the weight that they are multiplied with.

Notation: T tokens, K input features, N output features, k outlier columns.
"""

from __future__ import annotations

from torch import Tensor

from skxlmr.model.dynamic_outliers import OutlierColumns
from skxlmr.model.quantized_input import IntegerLayer, QuantizedInput

HIGH = 256  # an outlier is `HIGH * high + low`, two int8
LARGEST = 127 * HIGH + 127


def outliers_of(x: Tensor, layer: IntegerLayer) -> tuple[OutlierColumns, bool]:
    """Return the columns of an input (T, K) that keep 16 bits, and whether the layer stores these."""
    if layer.settings.outliers != "dynamic":
        return OutlierColumns(layer.outliers), True
    return OutlierColumns.find(x, layer.settings.threshold), False


def outlier_weight_of(layer: IntegerLayer, inputs: QuantizedInput) -> Tensor:
    """Return the outlier columns of the weight of a layer for its quantised input, (k, N)."""
    assert inputs.columns is not None
    return layer.outlier_weight if inputs.fixed else outlier_weight(layer.weight, inputs.columns)


def outlier_weight(weight: Tensor, columns: Tensor) -> Tensor:
    """Return the outlier columns of a weight (N, K) as a new matrix, (k, N)."""
    # Copied into new memory: `contiguous` would keep the strides of a single column, which _int_mm misreads.
    return weight.new_empty(len(columns), len(weight)).copy_(weight[:, columns].t())
