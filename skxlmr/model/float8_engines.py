"""Products with weights in 8-bit floating point: of 8-bit numbers on CUDA, in floating point elsewhere.

Notation: T tokens, t tokens of one block, K input features, N output features.
"""

from __future__ import annotations

import sys
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.blocks import block_size, blocks
from skxlmr.model.dequantize import Dequantize
from skxlmr.model.quantized_input import Engine, FrozenLayer, QuantizedInput
from skxlmr.system.capability import cuda_capability

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max  # 448
MULTIPLE = 16  # of K and of N, which `_scaled_mm` needs on CUDA
LEAST_CAPABILITY = (8, 9)  # the first tensor cores with 8-bit floating point: Ada, then Hopper
# Compute capabilities from which on `_scaled_mm` may refuse scales of rows: torch 2.10 does so with CUDA 13 on 12.0
# (pytorch/pytorch#192707). It takes scales of whole matrices on all of them.
WITHOUT_ROW_SCALES = (11, 0)


def round_rows(x: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Round each row of a matrix (T, K) to e4m3, in `out` if it is given, with 448 for its largest magnitude.

    Return the numbers (T, K) and the scales (T, 1) float32: the matrix is about ``numbers * scales``. No number exceeds
    448, beyond which the conversion of some devices gives NaN. A row with an infinity or NaN becomes NaN.
    """
    if out is None and x.numel() <= block_size(x.device):
        return _rounded(x)
    values = torch.empty(x.shape, dtype=E4M3, device=x.device) if out is None else out
    scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    for rows in blocks(*x.shape, device=x.device):  # never a float32 copy of a large matrix
        values[rows], scales[rows] = _rounded(x[rows])
    return values, scales


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.float() if x.dtype == torch.float64 else x
    largest = torch.linalg.vector_norm(x, torch.inf, 1, keepdim=True, dtype=torch.float32)
    scales = largest.clamp_(min=1e-30).div_(LARGEST)  # a row may be zero
    return (x / scales).to(E4M3), scales


def decoded(values: Tensor) -> Tensor:
    """Return e4m3 numbers in float32, as a new tensor."""
    if values.device.type != "cpu":
        return values.float()
    # Moved to their places in a float16, whose exponent counts from 15 instead of 7: the result is smaller by 2**8.
    # On a CPU torch converts one by one, which takes six times as long.
    bits = values.view(torch.int8).to(torch.int16)
    signs = bits & -(2**15)
    return bits.bitwise_and_(2**7 - 1).bitwise_left_shift_(7).bitwise_or_(signs).view(torch.float16).float().mul_(2**8)


class Float8Layer(FrozenLayer, Protocol):
    """What engines use of a `Float8Linear`."""

    @property
    def values(self) -> Tensor:
        """The numbers, to be multiplied by the scales: (N, K) float8_e4m3fn."""


class ScaledMM:
    """Products of 8-bit numbers by `torch._scaled_mm`, with a scale for each token and for each output channel.

    Fast accumulation is switched off. With it the tensor cores of Hopper add up all of K in registers of some 14 bits,
    where the order of the sums shows in the result, and the order depends on the kernel. Without it partial sums are
    added in float32. The kernel is still chosen by the number of tokens, so the last bits of a token's result may
    depend on its batch, as they do with weights in 16 bits; all other steps work row by row.

    In bfloat16 the kernel multiplies by the scales, adds the bias, and rounds once. With scales of rows it gives no
    other dtype on all GPUs (float32 only on some; float16 without a bias holds the bits of bfloat16 in some releases),
    and on Windows torch is built without these kernels. In these cases its sums are float32, and are scaled here.
    """

    def quantize(self, x: Tensor, layer: Float8Layer) -> QuantizedInput:
        values, scales = round_rows(x)
        return QuantizedInput(x.dtype, _filled(values, 0, -layer.in_features % MULTIPLE), scales)

    def multiply(self, inputs: QuantizedInput, layer: Float8Layer) -> Tensor:
        assert inputs.scales is not None
        weight, scales, bias = layer.values, layer.scales, layer.bias
        more_rows, more_columns = (-size % MULTIPLE for size in weight.shape)
        if more_rows or more_columns:
            weight, scales = _filled(weight, more_rows, more_columns), F.pad(scales, (0, more_rows))
            bias = None if bias is None else F.pad(bias, (0, more_rows))
        multiply = _with_row_scales if takes_row_scales(inputs.dtype, weight.device) else _with_own_scales
        y = multiply(inputs.values, inputs.scales, weight, scales, bias, inputs.dtype)
        return y[:, : layer.out_features] if more_rows else y


def _filled(values: Tensor, more_rows: int, more_columns: int) -> Tensor:
    """Append zeros to e4m3 numbers (R, C); return them as they are if there is nothing to append."""
    if not (more_rows or more_columns):
        return values
    return F.pad(values.view(torch.uint8), (0, more_columns, 0, more_rows)).view(E4M3)  # a zero has no bits set


def takes_row_scales(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `_scaled_mm` takes scales of rows and gives products of this dtype."""
    return dtype == torch.bfloat16 and cuda_capability(device) < WITHOUT_ROW_SCALES and sys.platform != "win32"


def _with_row_scales(
    x: Tensor, x_scales: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Multiply in one kernel: (T, K) and (T, 1), (N, K) and (N,), (N,) -> (T, N)."""
    bias = None if bias is None else bias.to(dtype)
    return torch._scaled_mm(x, weight.t(), x_scales, scales[None], bias=bias, out_dtype=dtype, use_fast_accum=False)


def _with_own_scales(
    x: Tensor, x_scales: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Multiply to sums in float32, and scale these: (T, K) and (T, 1), (N, K) and (N,), (N,) -> (T, N)."""
    one = scales.new_ones(1, 1)
    sums = torch._scaled_mm(x, weight.t(), one, one, out_dtype=torch.float32, use_fast_accum=False)  # (T, N)
    y = sums if dtype == torch.float32 else sums.new_empty(sums.shape, dtype=dtype)
    bias = scales.new_zeros(()) if bias is None else bias.float()
    for rows in blocks(*sums.shape, device=sums.device):
        torch.addcmul(bias, sums[rows] * scales, x_scales[rows], out=y[rows])  # rounded once, at the end
    return y


ENGINES: dict[str, Engine] = {"scaled_mm": ScaledMM(), "dequantize": Dequantize()}


def choose_engine(name: str, device: torch.device) -> Engine:
    """Return an engine by name; "auto" is the fastest that runs on the device.

    Raises ValueError if the device has no 8-bit floating point, or none of its products for engine "scaled_mm".
    """
    if device.type == "mps":
        raise ValueError(
            "Float8 needs a device with 8-bit floating point, which 'mps' does not have. Use load_in_8bit=True there, "
            "or device='cpu'."
        )
    multiplies = device.type == "cuda" and torch.version.hip is None and cuda_capability(device) >= LEAST_CAPABILITY
    if name == "scaled_mm" and not multiplies:
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else repr(device.type)
        raise ValueError(
            f"Float8 engine='scaled_mm' needs an NVIDIA GPU of compute capability 8.9 or higher (L4, RTX 40, H100 and "
            f"later), which {where} is not. Use engine='auto', which converts the weights for each product there, or "
            f"load_in_8bit=True, whose integers are multiplied on more devices."
        )
    if name == "auto":
        name = "scaled_mm" if multiplies else "dequantize"
    return ENGINES[name]
