"""Kernels with rules of their own on CUDA: they raise where a device would, and compute on the CPU.

Each takes the emulated device and the arguments of its operator, as tensors of the CPU.

Notation: T packed tokens, N heads, L tokens of one text, D head size.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from emulated_cuda.tensor import CudaTensor
from emulated_cuda.triton_kernels import int8_linear, quantize_rows

if TYPE_CHECKING:
    from emulated_cuda.device import EmulatedCuda

HALVES = (torch.float16, torch.bfloat16)
SPLITS = "num_splits" in inspect.signature(varlen_attn).parameters  # earlier torch splits no keys, and has no choice


def check(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


# -- products


def mm(gpu: EmulatedCuda, a: Tensor, b: Tensor, out_dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    """Multiply; `out_dtype` is that of the sums, which CPUs do not offer."""
    if out_dtype is None:
        return torch.mm(a, b, **kwargs)
    check(a.dtype == b.dtype, "expected m1 and m2 to have the same dtype")
    check(a.dtype in HALVES and out_dtype == torch.float32, "out_dtype must be float32 for products of 16 bits")
    gpu.count_kernel("product of 16 bits with float32 sums")
    return torch.mm(a.float(), b.float())


# -- integer products


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply int8 matrices as a GPU does; `torch._int_mm` is not exact on every CPU."""
    return (a.double() @ b.double()).int()


def int_mm(gpu: EmulatedCuda, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    (m, k), n = a.shape, b.shape[1]
    check(gpu.capability >= (7, 5), "int8 products need compute capability 7.5")
    check(a.dtype == b.dtype == torch.int8, "_int_mm takes int8")
    check(m > 16, f"self.size(0) needs to be greater than 16, but got {m}")
    check(k > 0 and k % 8 == 0, f"self.size(1) needs to be greater than 0 and a multiple of 8, but got {k}")
    check(n > 0 and n % 8 == 0, f"mat2.size(1) needs to be greater than 0 and a multiple of 8, but got {n}")
    gpu.count_kernel("int8 product")
    return exact_product(a, b)


def int8_linear_matmul(gpu: EmulatedCuda, a: Tensor, b: Tensor) -> Tensor:
    check(gpu.capability >= (7, 5), "int8 products need compute capability 7.5")
    check(a.dtype == b.dtype == torch.int8 and a.ndim == b.ndim == 2, "int8 matrices")
    check(a.is_contiguous() and b.is_contiguous(), "cuBLASLt is given raw pointers: both must be contiguous")
    check(a.numel() > 0, f"Input tensor dimensions need to be > 0: {tuple(a.shape)}")
    gpu.count_kernel("int8 product" if a.shape[1] % 4 == 0 else "int8 product in float32")
    return exact_product(a, b.t())


def int8_vectorwise_quant(gpu: EmulatedCuda, a: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
    check(a.dtype == torch.float16, f"A must be float16, got {a.dtype}")
    check(a.is_contiguous(), "the kernel reads A by its pointer: it must be contiguous")
    outliers, columns = a.abs() >= threshold, None
    if threshold > 0:
        gpu.count_wait("any")
        columns = outliers.any(0).nonzero()[:, 0]
        a = a.masked_fill(outliers, 0)
    stats = a.abs().amax(1).float()
    values = torch.nan_to_num(a.float() * (127 / stats)[:, None]).round().to(torch.int8)
    if len(a) > 1 and columns is not None:
        values[:, columns] = 0
    return values, stats, columns


def int8_scaled_mm(
    gpu: EmulatedCuda,
    a: Tensor,
    b: Tensor,
    row_stats: Tensor,
    col_stats: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Write float16 whatever the dtype, as `cdequant_mm_int32_fp16` does."""
    sums = int8_linear_matmul(gpu, a, b)
    held = CudaTensor(sums)  # its memory is taken while the result is made
    check(row_stats.dtype == col_stats.dtype == torch.float32, "stats must be float32")
    check(row_stats.is_contiguous() and col_stats.is_contiguous(), "stats must be contiguous")
    y = held.inner.float() * (row_stats[:, None] * col_stats / (127 * 127))
    if bias is not None and bias.dtype == torch.float16:
        y = y + bias.float()
    y = y.to(torch.float16)
    if bias is not None and bias.dtype != torch.float16:
        y.add_(bias)
    return y.to(dtype or torch.float16)


# -- products of 8-bit floating point


def scaled_mm(
    gpu: EmulatedCuda,
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None = None,
    scale_result: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
) -> Tensor:
    """Multiply with one scale for each matrix, or one for each row of `a` and column of `b`, as in torch 2.11 to 2.14.

    Of what these take, only what all of them take on all GPUs.
    """
    gpu_has_it = gpu.capability == (8, 9) or gpu.capability >= (9, 0)
    check(gpu_has_it, "torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9")
    check(a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0], f"{tuple(a.shape)} and {tuple(b.shape)}")
    check(a.dtype == b.dtype == torch.float8_e4m3fn, f"e4m3 is what skxlmr has, got {a.dtype} and {b.dtype}")
    (m, k), n = a.shape, b.shape[1]
    check(k % 16 == 0, f"Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape: ({m}x{k})")
    check(n % 16 == 0, f"mat2 shape ({k}x{n}) must be divisible by 16")
    check(a.stride() == (k, 1) and b.stride() == (1, k), "mat1 must be row-major and mat2 column-major")
    check(not (a.storage_offset() % 16 or b.storage_offset() % 16), "cuBLAS needs pointers to 16 bytes")
    check(scale_a.dtype == scale_b.dtype == torch.float32, "scales must be float32")
    of_rows = scale_a.shape == (m, 1) and scale_b.shape == (1, n)
    check(of_rows or scale_a.numel() == scale_b.numel() == 1, "Invalid scaling configuration.")
    check(scale_a.is_contiguous() and scale_b.is_contiguous(), "scales must be contiguous")
    check(scale_result is None and out_dtype is not None, "the dtype of a has no room for products")
    if of_rows:
        check(out_dtype == torch.bfloat16, "Only bf16 high precision output types are supported for row-wise scaling.")
        check(gpu.capability < (11, 0), "CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmulAlgoGetHeuristic")
    if bias is not None:
        check(out_dtype != torch.float32, "Bias is not supported when out_dtype is set to Float32")
        check(bias.dtype == out_dtype, f"Bias must be {out_dtype} but got {bias.dtype}")
        check(bias.shape == (n,) and bias.is_contiguous(), f"Bias must be size {n} but got {bias.numel()}")
    gpu.count_kernel("e4m3 product with fast sums" if use_fast_accum else "e4m3 product")
    sums = (a.double() @ b.double()).float() * scale_a * scale_b  # (M, N)
    return (sums if bias is None else sums + bias).to(out_dtype)


# -- 4 bits


def quantize_4bit(gpu: EmulatedCuda, a: Tensor, blocksize: int, quant_type: str, storage: torch.dtype) -> Any:
    check(a.dtype in (*HALVES, torch.float32), f"quantize_4bit of {a.dtype}")
    return torch.ops.bitsandbytes.quantize_4bit(a.contiguous(), blocksize, quant_type, storage)


def dequantize_4bit(
    gpu: EmulatedCuda, a: Tensor, absmax: Tensor, blocksize: int, quant_type: str, shape: Any, dtype: torch.dtype
) -> Tensor:
    check(dtype in (*HALVES, torch.float32), f"dequantize_4bit to {dtype}")
    check(absmax.is_contiguous() and absmax.dtype == torch.float32, "absmax must be contiguous float32")
    return torch.ops.bitsandbytes.dequantize_4bit(a, absmax, blocksize, quant_type, shape, dtype)


# -- attention


def varlen_attention(
    gpu: EmulatedCuda,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds: Tensor,
    bounds_k: Tensor,
    longest: int,
    longest_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window: list[int] | None = None,
    enable_gqa: bool = False,
    used: Tensor | None = None,
    blocks: Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """FlashAttention for packed tokens (T, N, D), or cuDNN's, which torch prefers from 2.14 on."""
    window = list(window or (-1, -1))
    check(all(x.dtype in HALVES and x.dtype == q.dtype for x in (q, k, v)), "FlashAttention only support fp16 and bf16")
    check(gpu.capability >= (8, 0), "FlashAttention only supports Ampere GPUs or newer.")
    check(q.shape[-1] % 8 == 0, f"head dim must be a multiple of 8, got {q.shape[-1]}")
    check(q.shape[-1] <= 256, "FlashAttention forward only supports head dimension at most 256")
    check(all(x.stride(-1) == 1 for x in (q, k, v)), "Input tensor must have contiguous last dimension")
    check(bounds.dtype == torch.int32 and bounds.is_contiguous(), "cu_seqlens must be contiguous int32")
    check(type(longest) is int, "max_q must be an int")
    lengths = bounds.diff().tolist()
    check(max(lengths) <= longest and min(lengths) > 0 and int(bounds[-1]) == len(q), "bounds do not fit the tokens")
    check(window in ([-1, -1], [-1, 0]), f"window {window}")
    is_causal |= window == [-1, 0]
    chooses = SPLITS and num_splits is None
    takes_cudnn = chooses and gpu.cudnn_attends and gpu.capability[0] in (9, 10) and longest > 128
    gpu.count_kernel("cudnn" if takes_cudnn else "flash, split as it chooses" if chooses else "flash")
    outputs = [
        F.scaled_dot_product_attention(*(x.float().transpose(0, 1) for x in text), is_causal=is_causal, scale=scale)
        for text in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    ]
    out = torch.cat([x.transpose(0, 1) for x in outputs]).to(q.dtype)  # (N, L, D) of each -> (T, N, D)
    return out, q.new_zeros(q.shape[1], len(q), dtype=torch.float32), torch.zeros(2, dtype=torch.uint64)


def varlen_attention_backward(
    gpu: EmulatedCuda,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    bounds: Tensor,
    bounds_k: Tensor,
    longest: int,
    longest_k: int,
    is_causal: bool,
    rng: Tensor,
    scale: float | None = None,
    window: list[int] | None = None,
) -> tuple[Tensor, ...]:
    check(
        grad.dtype == q.dtype and grad.stride(-1) == 1,
        "the gradient must have q's dtype and a contiguous last dimension",
    )
    if q.shape[-1] > 192:
        has_room = gpu.capability in ((8, 0), (9, 0), (10, 0))
        check(has_room, "FlashAttention backward for head dim > 192 requires A100/A800 or H100/H800")
    causal = is_causal or list(window or ()) == [-1, 0]
    lengths, scale = bounds.diff().tolist(), scale or q.shape[-1] ** -0.5
    gradients = []
    for text in zip(*(x.float().split(lengths) for x in (grad, q, k, v)), strict=True):
        of_out, q1, k1, v1 = (x.transpose(0, 1) for x in text)  # (L, N, D) -> (N, L, D)
        scores = q1 @ k1.transpose(1, 2) * scale
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
        probs = scores.softmax(-1)
        of_probs = of_out @ v1.transpose(1, 2)
        of_scores = probs * (of_probs - (of_probs * probs).sum(-1, keepdim=True)) * scale
        gradients.append([of_scores @ k1, of_scores.transpose(1, 2) @ q1, probs.transpose(1, 2) @ of_out])
    return tuple(torch.cat([x.transpose(0, 1) for x in xs]).to(q.dtype) for xs in zip(*gradients, strict=True))


KERNELS = {
    "aten::mm": mm,
    "aten::_int_mm": int_mm,
    "aten::_scaled_mm": scaled_mm,
    "torch_attn::_varlen_attn": varlen_attention,
    "torch_attn::_varlen_attn_backward": varlen_attention_backward,
    "bitsandbytes::int8_vectorwise_quant": int8_vectorwise_quant,
    "bitsandbytes::int8_linear_matmul": int8_linear_matmul,
    "bitsandbytes::int8_scaled_mm": int8_scaled_mm,
    "bitsandbytes::quantize_4bit": quantize_4bit,
    "bitsandbytes::dequantize_4bit": dequantize_4bit,
    "skxlmr::quantize_rows": quantize_rows,
    "skxlmr::int8_linear": int8_linear,
}
