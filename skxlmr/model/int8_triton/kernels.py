"""Triton kernels of products with 8-bit weights; this module needs triton.

Everything that is summed in floating point is summed within one program in an order that depends on the width of a row
alone, and products are sums of integers, which are exact. A row's result is therefore the same, bit for bit, whatever
else is in the batch, and whatever tiles are used.

Notation: T tokens, K input features, N output features, R outlier columns, S of these and zeros up to a multiple of 32;
a tile is M rows by N columns of a product.
"""

from __future__ import annotations

import triton
import triton.language as tl

from skxlmr.model.int8_engines.outliers import HIGH as HIGH_BYTE
from skxlmr.model.int8_engines.outliers import LARGEST as LARGEST_OUTLIER

HIGH = tl.constexpr(HIGH_BYTE)
LARGEST = tl.constexpr(LARGEST_OUTLIER)
TO_INTEGER = tl.constexpr(1.5 * 2**23)  # float32 numbers of this magnitude are integers
SQRT_HALF = tl.constexpr(0.5**0.5)


@triton.jit
def rounded(x):
    """Round float32 numbers below 2^22 to integers, halves to even ones, as torch does."""
    return (x + TO_INTEGER) - TO_INTEGER


@triton.jit(do_not_specialize=["R", "S"])
def quantize_rows(
    x_ptr,  # (T, K)
    weight_ptr,  # (K,), of a LayerNorm
    bias_ptr,  # (K,)
    is_outlier_ptr,  # (K,)
    columns_ptr,  # (R,)
    values_ptr,  # (T, K) int8
    scales_ptr,  # (T,)
    high_ptr,  # (T, S) int8
    normalised_ptr,  # (T, K)
    eps,
    K,
    R,
    S,
    BLOCK_K: tl.constexpr,
    BLOCK_S: tl.constexpr,
    NORM: tl.constexpr,
    KEEP: tl.constexpr,
    OUTLIERS: tl.constexpr,
):
    """Quantise one row, after a LayerNorm if `NORM`, whose result is stored if `KEEP`.

    A row that holds NaN or infinity has NaN as its scale, and so are the products with it.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK_K)
    inside = at < K
    x = tl.load(x_ptr + row * K + at, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        width = K * 1.0
        mean = tl.div_rn(tl.sum(x, 0), width)
        centred = tl.where(inside, x - mean, 0.0)
        variance = tl.div_rn(tl.sum(centred * centred, 0), width)
        inverse = tl.div_rn(1.0, tl.sqrt_rn(variance + eps))
        weight = tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = centred * inverse * weight + tl.load(bias_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if KEEP:
            tl.store(normalised_ptr + row * K + at, x.to(normalised_ptr.dtype.element_ty), mask=inside)
    regular = inside
    if OUTLIERS:
        regular = inside & (tl.load(is_outlier_ptr + at, mask=inside, other=0) == 0)
    largest = tl.max(tl.where(regular, tl.abs(x), 0.0), 0)
    if OUTLIERS:
        r = tl.arange(0, BLOCK_S)
        column = tl.load(columns_ptr + r, mask=r < R, other=0)
        outliers = tl.load(x_ptr + row * K + column, mask=r < R, other=0.0).to(tl.float32)
        if NORM:
            gain = tl.load(weight_ptr + column, mask=r < R, other=0.0).to(tl.float32)
            bias = tl.load(bias_ptr + column, mask=r < R, other=0.0).to(tl.float32)
            outliers = tl.where(r < R, (outliers - mean) * inverse * gain + bias, 0.0)
        largest = tl.maximum(largest, tl.max(tl.abs(outliers), 0) * (127 / LARGEST))
    largest = tl.maximum(largest, 1e-30)  # a row may be zero
    nan_or_zero = tl.sum(x * 0.0, 0)
    tl.store(scales_ptr + row, tl.div_rn(largest, 127.0) + nan_or_zero)
    steps = tl.div_rn(1.0, largest) * 127.0
    values = tl.where(nan_or_zero == 0.0, rounded(x * steps), 0.0)
    tl.store(values_ptr + row * K + at, values.to(tl.int8), mask=regular)
    if OUTLIERS:
        whole = tl.where(nan_or_zero == 0.0, rounded(outliers * steps), 0.0)
        high = tl.floor((whole + HIGH // 2) / HIGH)
        tl.store(values_ptr + row * K + column, (whole - HIGH * high).to(tl.int8), mask=r < R)
        tl.store(high_ptr + row * S + r, high.to(tl.int8), mask=r < S)


@triton.jit(do_not_specialize=["T", "R"])
def int8_linear(
    values_ptr,  # (T, K) int8
    scales_ptr,  # (T,)
    high_ptr,  # (T, S) int8
    weight_ptr,  # (N, K) int8
    second_weight_ptr,  # of the second and the third layer, if there are three
    third_weight_ptr,
    scb_ptr,  # (N,)
    second_scb_ptr,
    third_scb_ptr,
    outlier_weight_ptr,  # (R, N) int8
    second_outlier_weight_ptr,
    third_outlier_weight_ptr,
    bias_ptr,  # (N,)
    second_bias_ptr,
    third_bias_ptr,
    residual_ptr,  # (T, N)
    y_ptr,  # (T, N), or (3, T, N)
    T,
    N,
    K,
    R,
    S,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    TILE_R: tl.constexpr,
    GROUP: tl.constexpr,
    THREE: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GELU: tl.constexpr,
    WHOLE_K: tl.constexpr,
):
    """Compute one tile of a product, or of one of three: scaled, with bias, then gelu, then the residual."""
    if THREE:
        if tl.program_id(1) == 1:
            weight_ptr, scb_ptr = second_weight_ptr, second_scb_ptr
            outlier_weight_ptr, bias_ptr = second_outlier_weight_ptr, second_bias_ptr
        elif tl.program_id(1) == 2:
            weight_ptr, scb_ptr = third_weight_ptr, third_scb_ptr
            outlier_weight_ptr, bias_ptr = third_outlier_weight_ptr, third_bias_ptr
    # Programs that run at the same time compute `GROUP` rows of tiles, whose weights stay in the L2 cache.
    program, n_across = tl.program_id(0), tl.cdiv(N, TILE_N)
    first = program // (GROUP * n_across) * GROUP
    height = min(tl.cdiv(T, TILE_M) - first, GROUP)
    m = first + program % (GROUP * n_across) % height
    n = program % (GROUP * n_across) // height
    rows, columns = m * TILE_M + tl.arange(0, TILE_M), n * TILE_N + tl.arange(0, TILE_N)
    real_row, real_column = (rows < T)[:, None], (columns < N)[None, :]
    rows_64, columns_64 = rows.to(tl.int64), columns.to(tl.int64)

    # The high bytes of the outliers first, so that one accumulator suffices.
    sums = tl.zeros((TILE_M, TILE_N), tl.int32)
    r = tl.arange(0, TILE_R)
    for start in range(0, S, TILE_R):
        high = tl.load(high_ptr + rows_64[:, None] * S + (start + r)[None, :], mask=real_row, other=0)
        at = outlier_weight_ptr + (start + r)[:, None] * N + columns[None, :]
        weight = tl.load(at, mask=((start + r) < R)[:, None] & real_column, other=0)
        sums = tl.dot(high, weight, sums, out_dtype=tl.int32)
    sums *= HIGH
    k = tl.arange(0, TILE_K)
    values_at = values_ptr + rows_64[:, None] * K + k[None, :]
    weight_at = weight_ptr + columns_64[None, :] * K + k[:, None]
    for start in range(0, K, TILE_K):
        if WHOLE_K:
            values = tl.load(values_at, mask=real_row, other=0)
            weight = tl.load(weight_at, mask=real_column, other=0)
        else:
            values = tl.load(values_at, mask=real_row & (k < K - start)[None, :], other=0)
            weight = tl.load(weight_at, mask=real_column & (k < K - start)[:, None], other=0)
        sums = tl.dot(values, weight, sums, out_dtype=tl.int32)
        values_at += TILE_K
        weight_at += TILE_K

    scb = tl.load(scb_ptr + columns, mask=columns < N, other=0.0)
    y = sums.to(tl.float32) * tl.div_rn(scb, 127.0)[None, :]
    y = y * tl.load(scales_ptr + rows, mask=rows < T, other=0.0)[:, None]
    if BIAS:
        y += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    if GELU:
        y = y * 0.5 * (1.0 + tl.erf(y * SQRT_HALF))
    if RESIDUAL:
        at = residual_ptr + rows_64[:, None] * N + columns[None, :]
        y += tl.load(at, mask=real_row & real_column, other=0.0).to(tl.float32)
    if THREE:
        y_ptr += tl.program_id(1).to(tl.int64) * T * N
    at = y_ptr + rows_64[:, None] * N + columns[None, :]
    tl.store(at, y.to(y_ptr.dtype.element_ty), mask=real_row & real_column)
