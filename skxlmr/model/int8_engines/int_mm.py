"""Integer products by `torch._int_mm`, which other libraries of kernels are compared with in benchmarks/NOTES.md.

Notation: T tokens, t tokens of one block, K input features, N output features, k outlier columns.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.blocks import blocks
from skxlmr.model.dynamic_outliers import OutlierColumns
from skxlmr.model.int8_engines.outliers import HIGH, LARGEST, outlier_weight, outliers_of
from skxlmr.model.quantized_input import IntegerLayer, QuantizedInput

LARGEST_WORKSPACE = 2**25  # int32 numbers, 128 MiB: what a thread may keep for the sums of its products
EXACT_INNER = 2**10  # terms of at most 2**14, whose sums float32 holds exactly: up to 2**24
LEAST_ROWS, MULTIPLE = 32, 16  # cuBLAS needs more than 16 rows, and multiples of 8 or 16 in the other dimensions


class IntMM:
    """Integer products by `torch._int_mm`; each token has its own scale, outliers have 16 bits.

    The inputs of an asymmetric layer are rounded after the middle of their row's range has been subtracted, so that
    the 255 steps cover the range and nothing else. The product of the middle is added to that of the steps.
    """

    def quantize(self, x: Tensor, layer: IntegerLayer) -> QuantizedInput:
        outliers, fixed = outliers_of(x, layer)
        inputs = self._empty(len(x), layer, x.dtype, outliers.columns)
        inputs.fixed = fixed
        for rows in blocks(*inputs.values.shape, device=x.device):
            self._fill(inputs, rows, x[rows], outliers)
        return inputs

    def multiply(self, inputs: QuantizedInput, layer: IntegerLayer) -> Tensor:
        y = inputs.values.new_empty(len(inputs.values), layer.out_features, dtype=inputs.dtype)
        for rows, product in self._products(inputs, layer):
            y[rows] = product
        return y

    def chain(
        self,
        inputs: QuantizedInput,
        layer: IntegerLayer,
        activation: Callable[[Tensor], Tensor],
        following: IntegerLayer,
    ) -> QuantizedInput:
        """Multiply, apply the activation and quantise for the following layer, one block at a time in float32."""
        result = self._empty(len(inputs.values), following, inputs.dtype, following.outliers)
        for rows, product in self._products(inputs, layer):
            self._fill(result, rows, activation(product), OutlierColumns(following.outliers))
        return result

    def _empty(self, n_rows: int, layer: IntegerLayer, dtype: torch.dtype, columns: Tensor) -> QuantizedInput:
        values = torch.empty(n_rows, layer.in_features, dtype=torch.int8, device=columns.device)
        inputs = QuantizedInput(dtype, values, torch.empty(n_rows, 1, device=columns.device))
        if layer.asymmetric:
            inputs.middles = torch.empty(n_rows, 1, device=columns.device)
        if len(columns):
            inputs.columns, inputs.high = columns, values.new_empty(n_rows, len(columns))
            if columns.device.type != "cpu":
                width = -(-len(columns) // MULTIPLE) * MULTIPLE  # what a product takes, see `_filled_int_mm`
                inputs.high = values.new_zeros(n_rows, width)
        return inputs

    def _fill(self, inputs: QuantizedInput, rows: slice, x: Tensor, columns: OutlierColumns) -> None:
        """Quantise some rows (t, K)."""
        assert inputs.scales is not None
        regular = x if inputs.columns is None else columns.without(x)
        if inputs.middles is None:
            largest = regular.abs().amax(1, keepdim=True).float()
        else:
            # `aminmax` takes some fifteen times as long as both of these.
            least, most = regular.amin(1, keepdim=True).float(), regular.amax(1, keepdim=True).float()
            middle = inputs.middles[rows] = (least + most) / 2
            largest = (most - least) / 2
            x = x - middle
        if inputs.columns is not None:
            outliers = columns.of(x).float()  # (t, K) -> (t, k)
            largest = torch.maximum(largest, outliers.abs().amax(1, keepdim=True) * (127 / LARGEST))
        largest.clamp_(min=1e-30)  # a row may be zero
        steps = 127 / largest
        values = torch.mul(x, steps).round_()
        if inputs.columns is not None and inputs.high is not None:
            whole = outliers.mul_(steps).round_()
            high = torch.floor((whole + HIGH // 2) / HIGH)
            columns.put(whole - HIGH * high, values)
            inputs.high[rows, : len(inputs.columns)] = high
        inputs.values[rows] = values
        inputs.scales[rows] = columns.marked(largest / 127)

    def _products(self, inputs: QuantizedInput, layer: IntegerLayer) -> Iterator[tuple[slice, Tensor]]:
        """Yield the product in float32, one block of rows (t, N) after the other."""
        assert inputs.scales is not None
        out = _workspace.sums(len(inputs.values), layer.out_features, inputs.values.device)
        sums = int_mm(inputs.values, layer.weight.t(), out)
        weight = None if inputs.columns is None else self._outlier_weight(inputs, layer)
        scales = layer.scales
        bias = scales.new_zeros(()) if layer.bias is None else layer.bias.float()
        of_middles = None if inputs.middles is None else layer.weight_sums * scales  # (N,)
        for rows in blocks(*sums.shape, device=sums.device):
            part = sums[rows]
            if weight is not None and inputs.high is not None:
                part.add_(int_mm(inputs.high[rows], weight), alpha=HIGH)
            part = part.float().mul_(scales)
            torch.addcmul(bias, part, inputs.scales[rows], out=part)
            if inputs.middles is not None and of_middles is not None:
                part.addcmul_(inputs.middles[rows], of_middles)
            yield rows, part

    def _outlier_weight(self, inputs: QuantizedInput, layer: IntegerLayer) -> Tensor:
        """Return the outlier columns of the weight as the product takes them: (k, N), on CUDA filled up with zeros."""
        assert inputs.columns is not None
        if not inputs.fixed:
            assert inputs.columns is not None
            weight = outlier_weight(layer.weight, inputs.columns)
            return weight if weight.device.type == "cpu" else filled(weight)
        if layer.outlier_weight.device.type == "cpu":
            return layer.outlier_weight
        return layer.derived("filled outlier weight", lambda: filled(layer.outlier_weight))


class Workspace(threading.local):
    """A buffer per thread for the integer sums of a product, used for one product after the other.

    On other devices torch reuses memory itself. On a CPU the C library requests each large buffer from the system, page
    by page, which takes a fifth of the time of the product.
    """

    def __init__(self) -> None:
        self._take(0)

    def _take(self, size: int) -> None:
        with torch.inference_mode(False):  # an inference tensor could be written to in inference mode only
            self.buffer = torch.empty(size, dtype=torch.int32, device="cpu")

    def sums(self, n_rows: int, n_columns: int, device: torch.device) -> Tensor | None:
        """Return an int32 matrix, valid until the next call; None if the product should allocate its own."""
        size = n_rows * n_columns
        if device.type != "cpu" or size > LARGEST_WORKSPACE:
            return None
        if size > len(self.buffer):
            self._take(size)
        return self.buffer[:size].view(n_rows, n_columns)


_workspace = Workspace()


def int_mm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the exact product of int8 matrices (T, K) and (K, N), (T, N) int32; on a CPU in `out`, if it is given."""
    if a.device.type != "cpu":
        return _filled_int_mm(a, b)
    if not _is_exact_on_cpu():
        return _int_mm_in_floats(a, b, out)
    return torch._int_mm(a, b) if out is None else torch._int_mm(a, b, out=out)


@functools.cache
def _is_exact_on_cpu() -> bool:
    """Whether `torch._int_mm` is exact here: on x86 CPUs without VNNI the sums of two products are cut to 16 bits."""
    with torch.inference_mode():
        largest = torch.full((64, 64), 127, dtype=torch.int8, device="cpu")
        return bool((torch._int_mm(largest, largest.t()) == 64 * 127**2).all())


def _int_mm_in_floats(a: Tensor, b: Tensor, out: Tensor | None) -> Tensor:
    """Return the exact product on a CPU from products in float32, whose sums are integers of at most 24 bits."""
    sums = a.new_empty(len(a), b.shape[1], dtype=torch.int32) if out is None else out
    sums.zero_()
    for start in range(0, a.shape[1], EXACT_INNER):
        part = slice(start, start + EXACT_INNER)
        sums += (a[:, part].float() @ b[part].float()).int()
    return sums


def _filled_int_mm(a: Tensor, b: Tensor) -> Tensor:
    """Multiply where sizes are restricted and b must be stored column by column: pad with zeros and cut them off.

    Weights that are `filled` have the right sizes and are not copied.
    """
    (n_rows, inner), n_columns = a.shape, b.shape[1]
    more_rows, more_inner, more_columns = max(0, LEAST_ROWS - n_rows), -inner % MULTIPLE, -n_columns % MULTIPLE
    a = F.pad(a, (0, more_inner, 0, more_rows)) if more_inner or more_rows else a
    if more_inner or more_columns or b.stride(0) != 1:
        b = F.pad(b.t(), (0, more_inner, 0, more_columns)).contiguous().t()
    return torch._int_mm(a, b)[:n_rows, :n_columns]


def filled(b: Tensor) -> Tensor:
    """Return an int8 matrix (K, N) as `_int_mm` takes it on CUDA: K filled up with zeros, stored column by column."""
    return F.pad(b.t(), (0, -len(b) % MULTIPLE)).contiguous().t()


def weight_sums(weight: Tensor) -> Tensor:
    """Return the sum of each row of a weight (N, K), (N,) int32."""
    if weight.device.type != "cpu":
        return weight.sum(1, dtype=torch.int32)
    return int_mm(weight.new_ones(1, weight.shape[1]), weight.t())[0]  # takes an eighth of the time of `sum`
