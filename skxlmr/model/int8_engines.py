"""Products with 8-bit weights: integer products on CPUs and on CUDA, floating point where neither runs.

The integer products are exact, and all other steps work row by row, so that the result for a token is the same, bit for
bit, whatever else is in the batch. benchmarks/NOTES.md compares `torch._int_mm` with other integer products.

Notation: T tokens, t tokens of one block, K input features, N output features, k outlier columns.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.avx import operators as avx_operators
from skxlmr.model.avx.library import library as avx_library
from skxlmr.model.dynamic_outliers import OutlierColumns, guessing
from skxlmr.system import bitsandbytes, triton
from skxlmr.system.bitsandbytes import bitsandbytes_ops

if TYPE_CHECKING:
    from skxlmr.model.int8 import Int8Linear

# Elements that the elementwise steps take at a time: on a CPU few enough for a core's cache, elsewhere so many that the
# time to launch the steps does not matter.
BLOCK = {"cpu": 2**19}
LARGE_BLOCK = 2**24
LARGEST_WORKSPACE = 2**25  # int32 numbers, 128 MiB: what a thread may keep for the sums of its products
BITSANDBYTES_MULTIPLE = 4  # of K; it computes other products in float32, where sums above 2**24 are rounded
LEAST_ROWS, MULTIPLE = 32, 16  # cuBLAS needs more than 16 rows, and multiples of 8 or 16 in the other dimensions
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


class IntMM:
    """Integer products by `torch._int_mm`; each token has its own scale, outliers have 16 bits.

    The inputs of an asymmetric layer are rounded after the middle of their row's range has been subtracted, so that
    the 255 steps cover the range and nothing else. The product of the middle is added to that of the steps.
    """

    def quantize(self, x: Tensor, layer: Int8Linear) -> QuantizedInput:
        outliers, fixed = outliers_of(x, layer)
        inputs = self._empty(len(x), layer, x.dtype, outliers.columns)
        inputs.fixed = fixed
        for rows in blocks(*inputs.values.shape, device=x.device):
            self._fill(inputs, rows, x[rows], outliers)
        return inputs

    def multiply(self, inputs: QuantizedInput, layer: Int8Linear) -> Tensor:
        y = inputs.values.new_empty(len(inputs.values), layer.out_features, dtype=inputs.dtype)
        for rows, product in self._products(inputs, layer):
            y[rows] = product
        return y

    def chain(
        self, inputs: QuantizedInput, layer: Int8Linear, activation: Callable[[Tensor], Tensor], following: Int8Linear
    ) -> QuantizedInput:
        """Multiply, apply the activation and quantise for the following layer, one block at a time in float32."""
        result = self._empty(len(inputs.values), following, inputs.dtype, following.outliers)
        for rows, product in self._products(inputs, layer):
            self._fill(result, rows, activation(product), OutlierColumns(following.outliers))
        return result

    def _empty(self, n_rows: int, layer: Int8Linear, dtype: torch.dtype, columns: Tensor) -> QuantizedInput:
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
        inputs.scales[rows] = columns.spoil(largest / 127)

    def _products(self, inputs: QuantizedInput, layer: Int8Linear) -> Iterator[tuple[slice, Tensor]]:
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

    def _outlier_weight(self, inputs: QuantizedInput, layer: Int8Linear) -> Tensor:
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
    return torch._int_mm(a, b) if out is None else torch._int_mm(a, b, out=out)


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


def weight_sums(weight: Tensor) -> Tensor:
    """Return the sum of each row of a weight (N, K), (N,) int32."""
    if weight.device.type != "cpu":
        return weight.sum(1, dtype=torch.int32)
    return int_mm(weight.new_ones(1, weight.shape[1]), weight.t())[0]  # takes an eighth of the time of `sum`


class Fused:
    """Integer products as of `IntMM`, in kernels that take in the steps before and after them.

    `operators` returns them: `skxlmr.model.int8_triton.operators` or the like. Inputs of asymmetric layers are rounded
    as those of symmetric ones.
    """

    def __init__(self, operators: Callable[[], Any]) -> None:
        self.operators = operators

    def quantize(self, x: Tensor, layer: Int8Linear) -> QuantizedInput:
        with guessing(False):  # the kernels take no columns that are not outliers
            outliers, fixed = outliers_of(x, layer)
        columns = outliers.columns
        is_outlier = layer.is_outlier
        if not fixed:
            is_outlier = torch.zeros_like(is_outlier, device=x.device).index_fill_(0, columns, True)
        values, scales, high, _ = self.operators().quantize_rows(x, is_outlier, columns, None, None, 0.0, False)
        return _quantized(x.dtype, values, scales, columns, high, fixed)

    def normalise(self, x: Tensor, norm: nn.LayerNorm, layer: Int8Linear, keep: bool) -> tuple[QuantizedInput, Tensor]:
        """Quantise the result of a LayerNorm (T, K) for a layer with fixed outliers; return it, too, if `keep`."""
        values, scales, high, normalised = self.operators().quantize_rows(
            x, layer.is_outlier, layer.outliers, norm.weight, norm.bias, norm.eps, keep
        )
        return _quantized(x.dtype, values, scales, layer.outliers, high), normalised

    def layer_norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Return the result of a LayerNorm that no product follows, (T, K)."""
        return norm(x)

    def multiply(self, inputs: QuantizedInput, layer: Int8Linear) -> Tensor:
        return self.products(inputs, [layer])

    def products(
        self,
        inputs: QuantizedInput,
        layers: Sequence[Int8Linear],
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

    def chain(self, inputs: QuantizedInput, layer: Int8Linear, following: Int8Linear) -> QuantizedInput:
        """Multiply, apply gelu and quantise for the following layer, which has fixed outliers."""
        return self.quantize(self.products(inputs, [layer], gelu=True), following)


class Avx(Fused):
    """Products on x86 CPUs, of which those with gelu are quantised while they are in a core's cache.

    Inputs of asymmetric layers are rounded as `IntMM` does.
    """

    def quantize(self, x: Tensor, layer: Int8Linear) -> QuantizedInput:
        outliers, fixed = outliers_of(x, layer)
        columns, middles = outliers.columns, _empty_middles(x.shape[0], layer)
        values, scales, high, _ = self.operators().quantize_rows(
            x, layer.is_outlier, columns, None, None, 0.0, False, middles
        )
        return _quantized(x.dtype, values, scales, columns, high, fixed, middles)

    def layer_norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return self.operators().layer_norm(x, norm.weight, norm.bias, norm.eps)

    def chain(self, inputs: QuantizedInput, layer: Int8Linear, following: Int8Linear) -> QuantizedInput:
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


def _empty_middles(n_rows: int, layer: Int8Linear) -> Tensor | None:
    return torch.empty(n_rows, 1, dtype=torch.float32, device="cpu") if layer.asymmetric else None


def triton_operators() -> Any:
    """Return `torch.ops.skxlmr`."""
    from skxlmr.model.int8_triton import operators  # noqa: F401 - registers its operators

    return torch.ops.skxlmr


class BitsAndBytes:
    """Integer products by the kernel of bitsandbytes; outlier columns are multiplied in floating point.

    The kernels of bitsandbytes that quantise inputs and scale products are not used: on CUDA they read and write
    float16 only, in which numbers above 65504 are infinite, whatever the dtype of the model. The product of outlier
    columns is the one step that is not exact for any batch: the device chooses its kernel by the number of tokens.
    """

    def quantize(self, x: Tensor, layer: Int8Linear) -> QuantizedInput:
        outliers, fixed = outliers_of(x, layer)
        columns = outliers.columns
        values, scales = torch.empty_like(x, dtype=torch.int8), x.new_empty(len(x), 1, dtype=torch.float32)
        for rows in blocks(*x.shape, device=x.device):
            part = outliers.without(x[rows]) if len(columns) else x[rows]  # (t, K)
            largest = part.abs().amax(1, keepdim=True).float().clamp_(min=1e-30)  # a row may be zero
            values[rows] = torch.mul(part, 127 / largest).round_()
            scales[rows] = outliers.spoil(largest / 127)
        if not len(columns):
            return QuantizedInput(x.dtype, values, scales)
        return QuantizedInput(x.dtype, values, scales, columns, outliers.of(x), fixed)

    def multiply(self, inputs: QuantizedInput, layer: Int8Linear) -> Tensor:
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


class Dequantize:
    """Products in floating point with dequantised weights: run everywhere, and on CPUs without int8 instructions."""

    def quantize(self, x: Tensor, layer: Int8Linear) -> QuantizedInput:
        return QuantizedInput(x.dtype, x)

    def multiply(self, inputs: QuantizedInput, layer: Int8Linear) -> Tensor:
        bias = None if layer.bias is None else layer.bias.to(inputs.dtype)
        return F.linear(inputs.values, layer.dequantize(inputs.dtype), bias)


ENGINES: dict[str, Engine] = {
    "int_mm": IntMM(),
    "avx": Avx(lambda: avx_operators),
    "triton": Fused(triton_operators),
    "bitsandbytes": BitsAndBytes(),
    "dequantize": Dequantize(),
}
# Compute capabilities from which engines have integer products; cuBLAS multiplies them on tensor cores since Turing.
LEAST_CAPABILITY = {"int_mm": (7, 5), "triton": (8, 0), "bitsandbytes": (7, 5)}


def choose_engine(name: str, device: torch.device) -> Engine:
    """Return an engine by name; "auto" is the fastest that runs on the device.

    Raises ImportError for "triton" where it is not installed and for "avx" where its kernels are not, and ValueError
    for an engine on a device that it does not run on, or on a GPU for which it has no integer products.
    """
    if name == "auto":
        name = "dequantize"
        if device.type == "cuda":
            name = _fastest_on_cuda(device)
        elif device.type == "cpu":
            name = fastest_on_cpu()
    if name == "triton":
        triton.require()
        if device.type != "cuda" and not triton.is_interpreting():
            raise ValueError(
                f"Int8 engine='triton' runs on CUDA devices only, not on {device.type!r}. Use engine='auto'."
            )
    if name == "avx":
        _require_avx(device)
    least = LEAST_CAPABILITY.get(name)
    if least is not None and device.type == "cuda" and cuda_capability(device) < least:
        raise ValueError(
            f"Int8 engine={name!r} needs a GPU of compute capability {least[0]}.{least[1]} or higher, which "
            f"{torch.cuda.get_device_name(device)} does not have. Use engine='auto', which is "
            f"{_fastest_on_cuda(device)!r} there."
        )
    return ENGINES[name]


def fastest_on_cpu() -> str:
    """Return the name of the engine that "auto" is on this CPU."""
    if avx_library() is not None:
        return "avx"
    return "int_mm" if cpu_has_int8() else "dequantize"


def _require_avx(device: torch.device) -> None:
    if device.type not in ("cpu", "meta"):
        raise ValueError(f"Int8 engine='avx' runs on CPUs, but the device is {str(device)!r}. Use engine='auto'.")
    if avx_library() is None:
        raise ImportError(
            "Int8(engine='avx') needs an x86 CPU with AVX2 and the kernels that are compiled when skxlmr is installed, "
            "for which there must be a C compiler: install gcc or clang, then skxlmr again. Int8(engine='auto') runs "
            "without them."
        )


def _fastest_on_cuda(device: torch.device) -> str:
    if torch.version.hip is not None:  # GPUs of AMD, for which bitsandbytes comes as a build of its own
        return "dequantize"
    capability = cuda_capability(device)
    if capability >= LEAST_CAPABILITY["triton"] and triton.is_usable():
        return "triton"
    if capability < LEAST_CAPABILITY["int_mm"]:
        return "dequantize"
    return "bitsandbytes" if bitsandbytes.has_cuda() else "int_mm"


def cuda_capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a GPU; estimates for a GPU that is not there assume a recent one."""
    try:
        return torch.cuda.get_device_capability(device)
    except (AssertionError, RuntimeError):  # torch has no CUDA, or there is no such GPU
        return (9, 0)


@functools.cache
def cpu_has_int8() -> bool:
    """Whether this CPU has instructions for int8 products (VNNI or AMX); without them `torch._int_mm` is slow."""
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(flags.get(name) for name in ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"))


def blocks(n_rows: int, width: int, *, device: torch.device) -> Iterator[slice]:
    """Yield slices of the rows of a matrix (n_rows, width), each of about `block_size` elements."""
    step = max(1, block_size(device) // width)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def block_size(device: torch.device) -> int:
    """Return the number of elements that elementwise steps take at a time."""
    return BLOCK.get(device.type, LARGE_BLOCK)
