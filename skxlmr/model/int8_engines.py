"""Products with 8-bit weights: integer products on the CPU, bitsandbytes on CUDA, floating point where neither runs.

The integer products are exact, and the steps around them see one row at a time, so that a token's result is the same,
bit for bit, whatever else is in the batch. Why `torch._int_mm` and no other product: see benchmarks/NOTES.md.

Notation: T tokens, K input features, N output features, k outlier columns.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.system.bitsandbytes import bitsandbytes_ops

if TYPE_CHECKING:
    from skxlmr.model.int8 import Int8Linear

# Elements of which the elementwise steps take one block at a time: on a CPU so few that they stay in the cache of a
# core, elsewhere so many that starting the steps takes no time.
BLOCK = {"cpu": 2**19}
LARGE_BLOCK = 2**24
LARGEST_WORKSPACE = 2**25  # numbers, 128 MiB: what a thread may keep for the sums of its products
LEAST_ROWS, MULTIPLE = 32, 16  # cuBLAS wants more than 16 rows, and of the other sizes whole eights or sixteens
HIGH = 256  # an outlier is `HIGH * high + low`, two int8
LARGEST = 127 * HIGH + 127


@dataclass
class Rows:
    """An input after an engine's `quantize`.

    Attributes
    ----------
    dtype : torch.dtype
        Of the result.
    values : Tensor of shape (T, K)
        int8; at outlier columns the low byte. The input itself where the engine does not quantise it.
    scales : Tensor of shape (T, 1), float32, or None
        What one step of the values stands for.
    columns : Tensor of shape (k,), int64, or None
        The outliers.
    high : Tensor of shape (T, k), or None
        High bytes of the outliers, int8; the outliers themselves with bitsandbytes.
    fixed : bool
        Whether the outliers are those that the layer holds.
    """

    dtype: torch.dtype
    values: Tensor
    scales: Tensor | None = None
    columns: Tensor | None = None
    high: Tensor | None = None
    fixed: bool = True


class Engine(Protocol):
    """A way to multiply."""

    def quantize(self, x: Tensor, layer: Int8Linear) -> Rows:
        """Prepare an input (T, K)."""

    def multiply(self, rows: Rows, layer: Int8Linear) -> Tensor:
        """Return (T, N), bias included."""


class IntMM:
    """Integer products by `torch._int_mm`; each token has a scale of its own, outliers have 16 bits."""

    def quantize(self, x: Tensor, layer: Int8Linear) -> Rows:
        columns = dynamic_outliers(x, layer) if layer.settings.outliers == "dynamic" else layer.outliers
        rows = self._empty(x.shape, x.dtype, columns)
        rows.fixed = layer.settings.outliers != "dynamic"
        for block in blocks(*x.shape, x.device):
            self._fill(rows, block, x[block])
        return rows

    def multiply(self, rows: Rows, layer: Int8Linear) -> Tensor:
        y = rows.scales.new_empty(len(rows.values), layer.out_features, dtype=rows.dtype)
        for block, part in self._parts(rows, layer):
            y[block] = part
        return y

    def chain(
        self, rows: Rows, layer: Int8Linear, activation: Callable[[Tensor], Tensor], following: Int8Linear
    ) -> Rows:
        """Multiply, activate and quantise for the layer that follows, one block at a time in float32."""
        result = self._empty((len(rows.values), layer.out_features), rows.dtype, following.outliers)
        for block, part in self._parts(rows, layer):
            self._fill(result, block, activation(part))
        return result

    def _empty(self, shape: tuple[int, int], dtype: torch.dtype, columns: Tensor) -> Rows:
        device = columns.device
        columns = columns if len(columns) else None
        high = None if columns is None else torch.empty(shape[0], len(columns), dtype=torch.int8, device=device)
        values = torch.empty(shape, dtype=torch.int8, device=device)
        return Rows(dtype, values, torch.empty(shape[0], 1, device=device), columns, high)

    def _fill(self, rows: Rows, block: slice, x: Tensor) -> None:
        """Quantise some rows (t, K)."""
        if rows.columns is None:
            largest = x.abs().amax(1, keepdim=True).float()
        else:
            outliers = x[:, rows.columns].float()  # (t, k)
            largest = x.index_fill(1, rows.columns, 0).abs().amax(1, keepdim=True).float()
            largest = torch.maximum(largest, outliers.abs().amax(1, keepdim=True) * (127 / LARGEST))
        largest.clamp_(min=1e-30)  # a row of zeros
        steps = 127 / largest
        values = torch.mul(x, steps).round_()
        if rows.columns is not None:
            whole = outliers.mul_(steps).round_()
            high = torch.floor((whole + HIGH // 2) / HIGH)
            values.index_copy_(1, rows.columns, (whole - HIGH * high).to(values.dtype))
            rows.high[block] = high
        rows.values[block] = values
        rows.scales[block] = largest / 127

    def _parts(self, rows: Rows, layer: Int8Linear) -> Iterator[tuple[slice, Tensor]]:
        """The product in float32, (t, N) for one block of rows after the other."""
        out = _workspace.sums(len(rows.values), layer.out_features, rows.values.device)
        sums = int_mm(rows.values, layer.weight.t(), out)
        outliers = None
        if rows.columns is not None:
            outliers = layer.outlier_weight if rows.fixed else outlier_weight(layer.weight, rows.columns)
        scales = layer.scales
        bias = scales.new_zeros(()) if layer.bias is None else layer.bias.float()
        for block in blocks(*sums.shape, sums.device):
            part = sums[block]
            if outliers is not None:
                part.add_(int_mm(rows.high[block], outliers), alpha=HIGH)
            part = part.float().mul_(scales)
            yield block, torch.addcmul(bias, part, rows.scales[block], out=part)


class Workspace(threading.local):
    """Memory for the sums of one product after the other, of each thread its own.

    Off the CPU torch keeps memory itself. On it the C library asks the system for a large buffer anew each time, page
    by page, which takes as long as a fifth of the product.
    """

    def __init__(self) -> None:
        self._take(0)

    def _take(self, size: int) -> None:
        with torch.inference_mode(False):  # else only other inference could write into it
            self.buffer = torch.empty(size, dtype=torch.int32, device="cpu")

    def sums(self, n_rows: int, n_columns: int, device: torch.device) -> Tensor | None:
        """An int32 matrix, valid until the next is asked for; None where the product takes memory itself."""
        size = n_rows * n_columns
        if device.type != "cpu" or size > LARGEST_WORKSPACE:
            return None
        if size > len(self.buffer):
            self._take(size)
        return self.buffer[:size].view(n_rows, n_columns)


_workspace = Workspace()


def int_mm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """The exact product of two int8 matrices (T, K) and (K, N), (T, N) int32; on a CPU in `out`, if that is given."""
    if a.device.type != "cpu":
        return _filled_int_mm(a, b)
    return torch._int_mm(a, b) if out is None else torch._int_mm(a, b, out=out)


def _filled_int_mm(a: Tensor, b: Tensor) -> Tensor:
    """The same where sizes are restricted, and b must lie in memory column by column: zeros are added and left out."""
    (n_rows, inner), n_columns = a.shape, b.shape[1]
    more_rows, more_inner, more_columns = max(0, LEAST_ROWS - n_rows), -inner % MULTIPLE, -n_columns % MULTIPLE
    a = F.pad(a, (0, more_inner, 0, more_rows)) if more_inner or more_rows else a
    if more_inner or more_columns or b.stride(0) != 1:
        b = F.pad(b.t(), (0, more_inner, 0, more_columns)).contiguous().t()
    return torch._int_mm(a, b)[:n_rows, :n_columns]


def outlier_weight(weight: Tensor, columns: Tensor) -> Tensor:
    """The columns of a weight (N, K) as a matrix of their own, (k, N)."""
    # Copied into fresh memory: of a single column, `contiguous` would keep strides that _int_mm misreads.
    return weight.new_empty(len(columns), len(weight)).copy_(weight[:, columns].t())


def dynamic_outliers(x: Tensor, layer: Int8Linear) -> Tensor:
    """Columns that exceed the threshold anywhere in the batch, (k,) int64."""
    return (x.abs().amax(0) >= layer.settings.threshold).nonzero()[:, 0]


class BitsAndBytes:
    """The kernels of bitsandbytes, which run on CUDA and, slowly, on CPUs."""

    def quantize(self, x: Tensor, layer: Int8Linear) -> Rows:
        ops = bitsandbytes_ops()
        columns, high = layer.outliers, None
        half = x.to(torch.float16)  # the only dtype that its kernels take
        if layer.settings.outliers == "dynamic":
            values, scales, columns = ops.int8_vectorwise_quant(half, layer.settings.threshold)
            columns = None if columns is None or not len(columns) else columns.long()
        else:
            columns = columns if len(columns) else None
            if columns is not None:
                half = half.index_fill(1, columns, 0)
            values, scales, _ = ops.int8_vectorwise_quant(half)
        if columns is not None:
            high = x[:, columns]
        return Rows(x.dtype, values, scales, columns, high)

    def multiply(self, rows: Rows, layer: Int8Linear) -> Tensor:
        ops = bitsandbytes_ops()
        bias = None if layer.bias is None else layer.bias.to(torch.float16)
        y = ops.int8_scaled_mm(rows.values, layer.weight, rows.scales, layer.SCB, bias, rows.dtype)
        if rows.columns is not None:
            weight = (layer.weight[:, rows.columns] * layer.scales[:, None]).to(rows.dtype)  # (N, k)
            y = torch.addmm(y, rows.high, weight.t())
        return y


class Dequantize:
    """Weights in floating point for each product: correct everywhere, and what a CPU without int8 instructions does."""

    def quantize(self, x: Tensor, layer: Int8Linear) -> Rows:
        return Rows(x.dtype, x)

    def multiply(self, rows: Rows, layer: Int8Linear) -> Tensor:
        bias = None if layer.bias is None else layer.bias.to(rows.dtype)
        return F.linear(rows.values, layer.dequantize(rows.dtype), bias)


ENGINES: dict[str, Engine] = {"int_mm": IntMM(), "bitsandbytes": BitsAndBytes(), "dequantize": Dequantize()}


def choose_engine(name: str, device: torch.device) -> Engine:
    """Return an engine by name; "auto" takes the fastest that runs on the device."""
    if name == "auto":
        name = "bitsandbytes" if device.type == "cuda" else "dequantize"
        if device.type == "cpu" and cpu_has_int8():
            name = "int_mm"
    return ENGINES[name]


@functools.cache
def cpu_has_int8() -> bool:
    """Whether this CPU has instructions for products of int8 (VNNI or AMX); without, `torch._int_mm` is slow."""
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(flags.get(name) for name in ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"))


def blocks(n_rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices of the rows of a matrix (n_rows, width), each of a block's elements."""
    step = max(1, block_size(device) // width)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def block_size(device: torch.device) -> int:
    """Elements in a block."""
    return BLOCK.get(device.type, LARGE_BLOCK)
