"""Functions over tensors that run the kernels for x86 CPUs: those of `skxlmr.model.int8_triton.operators`, and others.

Notation: T tokens, K input features, N output features, R outlier columns; K' and R' are rounded up to multiples of 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skxlmr.model.avx import library
from skxlmr.model.avx.library import DTYPES, Attention, Library, Product, Rows, Weight, address

MULTIPLE = 4  # of the width of what is multiplied
ROWS_IN_CACHE = 64  # for each thread, from which on products are quantised before they leave its cache


def quantize_rows(
    x: Tensor,
    is_outlier: Tensor,
    columns: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    keep: bool,
    middles: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantise the rows of an input (T, ...), after a LayerNorm with `norm_weight` and `norm_bias` (K,) if given.

    `columns` (R,) are the outlier columns; the mask `is_outlier` is not used here. Return int8 values (T, K'), in
    outlier columns the low byte; scales (T, 1) float32; the high bytes of outliers (T, R') int8; and, if `keep`, the
    result of the LayerNorm (T, K). What does not exist has no elements.

    If `middles` (T, 1) float32 is given, the middle of the range of each row is stored there, and is subtracted before
    the row is rounded.
    """
    given = x.flatten(1)
    x = _readable(given)
    results = values, scales, high = _empty_rows(x.shape[0], x.shape[1], columns)
    normalised = torch.empty_like(x if keep else x[:0])
    rows = _rows_of(x.shape[1], columns, results, middles)
    rows.x, rows.dtype = address(x), DTYPES[x.dtype]
    rows.normalised = address(normalised) if keep else None
    if norm_weight is not None:
        norm_weight, norm_bias = (None if part is None else _readable(part) for part in (norm_weight, norm_bias))
        assert norm_weight is not None
        rows.norm_weight, rows.norm_bias, rows.eps = address(norm_weight), address(norm_bias), eps
        rows.norm_dtype = DTYPES[norm_weight.dtype]
    _kernels().rows(rows)
    return values, scales, high, normalised if x is given else normalised.to(given.dtype)


def int8_linear(
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
    middles: Tensor | None = None,
    weight_sums: Sequence[Tensor] = (),
) -> Tensor:
    """Multiply a quantised input with the weights of one layer, (T, N), or of three of the same shape, (3, T, N).

    The arguments are those of `skxlmr.model.int8_triton.operators.int8_linear`, and `middles` (T, 1), those of
    `quantize_rows`, with which come `weight_sums` (N,) int32, the sums of the rows of the weights.
    """
    n_rows, n_outputs = values.shape[0], weights[0].shape[0]
    y = values.new_empty(len(weights), n_rows, n_outputs, dtype=dtype if dtype in DTYPES else torch.float32)
    biases = [_readable(bias) for bias in biases]
    product = _product(values, scales, high, weights, scbs, outlier_weights, biases)
    if middles is not None:
        product.middles = address(middles)
        for i, (weight, sums) in enumerate(zip(weights, weight_sums, strict=True)):
            assert sums.shape == weight.shape[:1]
            assert sums.dtype == torch.int32
            product.weights[i].weight_sums = address(sums)
    residual = None if residual is None else residual.to(y.dtype).contiguous()
    product.residual, product.dtype, product.gelu = address(residual), DTYPES[y.dtype], gelu
    for i in range(len(weights)):
        product.weights[i].y = address(y) + i * n_rows * n_outputs * y.itemsize  # type: ignore[operator]
    _kernels().products(product)
    y = y if y.dtype == dtype else y.to(dtype)
    return y[0] if len(weights) == 1 else y


def int8_gelu_rows(
    values: Tensor,
    scales: Tensor,
    high: Tensor | None,
    weight: Tensor,
    scb: Tensor,
    outlier_weight: Tensor | None,
    bias: Tensor | None,
    columns: Tensor,
    middles: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `quantize_rows` returns for the gelu of a product, of which only a few rows at a time are stored.

    `columns` are those of the product that are outliers, and `middles` those of its rows, to be stored. The product is
    not rounded to 16 bits.
    """
    outlier_weights, biases = ([] if part is None else [part] for part in (outlier_weight, bias))
    if values.shape[0] < ROWS_IN_CACHE * torch.get_num_threads():
        y = int8_linear(values, scales, high, [weight], [scb], outlier_weights, biases, None, torch.float32, True)
        return quantize_rows(y, columns, columns, None, None, 0.0, False, middles)[:3]
    biases = [_readable(part) for part in biases]
    product = _product(values, scales, high, [weight], [scb], outlier_weights, biases)
    product.gelu = True
    results = _empty_rows(values.shape[0], weight.shape[0], columns)
    _kernels().chain(product, _rows_of(weight.shape[0], columns, results, middles))
    return results


def attention(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, causal: bool) -> Tensor:
    """Compute scaled dot-product attention within each text; (T, N, D) thrice -> (T, N, D).

    Text b is the rows `bounds[b]` to `bounds[b + 1]`, (B + 1,) int32, and the longest text has `longest`. Rows after
    the last text become zero.
    """
    (n_rows, n_heads, head_size), n_texts = q.shape, bounds.shape[0] - 1
    q, k, v = (x if x.stride()[1:] == (head_size, 1) else x.contiguous() for x in (q, k, v))
    y = q.new_empty(n_rows, n_heads, head_size)
    bounds = bounds.contiguous()
    attention = Attention(address(q), address(k), address(v), address(y), address(bounds))
    attention.n_rows = n_rows
    attention.q_stride, attention.k_stride, attention.v_stride = q.stride(0), k.stride(0), v.stride(0)
    attention.n_texts, attention.n_heads, attention.head_size = n_texts, n_heads, head_size
    attention.longest, attention.dtype, attention.causal = longest, DTYPES[q.dtype], causal
    attention.scale = head_size**-0.5
    _kernels().attention(attention)
    return y


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Return the LayerNorm of rows (T, K), computed in float32, in the dtype of x."""
    given, x = x, _readable(x)
    y = torch.empty_like(x)
    weight, bias = _readable(weight), None if bias is None else _readable(bias)
    rows = Rows(address(x), address(weight), address(bias), normalised=address(y))
    rows.n_rows, rows.width = x.shape
    rows.eps, rows.dtype, rows.norm_dtype = eps, DTYPES[x.dtype], DTYPES[weight.dtype]
    _kernels().rows(rows)
    return y.to(given.dtype)


def pack(weight: Tensor, outlier_weight: Tensor) -> Tensor:
    """Return a weight (N, K) and its outlier columns (k, N), both int8, as the kernels of this CPU multiply them."""
    assert weight.is_contiguous()
    assert outlier_weight.is_contiguous()
    (n_outputs, width), n_columns = weight.shape, outlier_weight.shape[0]
    packed = torch.empty(packed_size(n_outputs, width, n_columns), dtype=torch.uint8, device="cpu")
    given = Weight(weight=address(weight), outlier_weight=address(outlier_weight))
    _kernels().pack(given, n_outputs, width, n_columns, packed.data_ptr())
    return packed


def packed_size(n_outputs: int, width: int, n_columns: int) -> int:
    """Return the number of bytes of the result of `pack`."""
    return _kernels().packed_size(n_outputs, width, n_columns)


def _kernels() -> Library:
    kernels = library.library()
    assert kernels is not None
    return kernels


def _readable(x: Tensor) -> Tensor:
    """Return a tensor as the kernels read it: contiguous, and in one of their dtypes."""
    x = x if x.dtype in DTYPES else x.float()
    return x if x.is_contiguous() else x.contiguous()


def _empty_rows(n_rows: int, width: int, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values = torch.empty(n_rows, width + -width % MULTIPLE, dtype=torch.int8, device="cpu")
    n_columns = columns.shape[0]
    high = values.new_empty(n_rows, n_columns + -n_columns % MULTIPLE)
    return values, values.new_empty(n_rows, 1, dtype=torch.float32), high


def _rows_of(width: int, columns: Tensor, results: tuple[Tensor, Tensor, Tensor], middles: Tensor | None) -> Rows:
    values, scales, high = results
    return Rows(
        columns=address(columns),
        values=address(values),
        scales=address(scales),
        high=address(high),
        middles=address(middles),
        n_rows=values.shape[0],
        width=width,
        n_columns=columns.shape[0],
    )


def _product(
    values: Tensor,
    scales: Tensor,
    high: Tensor | None,
    weights: Sequence[Tensor],
    scbs: Sequence[Tensor],
    outlier_weights: Sequence[Tensor],
    biases: Sequence[Tensor],
) -> Product:
    n_outputs, width = weights[0].shape
    n_columns = outlier_weights[0].shape[0] if outlier_weights else 0
    assert values.shape[1] == width + -width % MULTIPLE
    assert all(weight.is_contiguous() and weight.shape == (n_outputs, width) for weight in weights)
    product = Product(address(values), address(scales), address(high) if n_columns else None)
    product.n_rows, product.width, product.n_outputs, product.n_columns = values.shape[0], width, n_outputs, n_columns
    product.n_weights = len(weights)
    for i, (weight, scb) in enumerate(zip(weights, scbs, strict=True)):
        of_outliers, bias = (address(parts[i]) if parts else None for parts in (outlier_weights, biases))
        product.weights[i] = Weight(address(weight), None, address(scb), of_outliers, None, bias)
        product.weights[i].bias_dtype = DTYPES[biases[i].dtype] if biases else 0
    return product
