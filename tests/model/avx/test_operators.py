"""The kernels for x86 CPUs against definitions in float64, each with AVX2 and with AVX-512 where the CPU has both.

T tokens, K input features, N output features, R outlier columns.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from x86_kernels import kernels

from skxlmr.model.attention import attend_by_length
from skxlmr.model.avx import operators
from skxlmr.model.avx.library import VARIANTS
from skxlmr.model.avx.operators import attention, int8_gelu_rows, int8_linear, quantize_rows
from skxlmr.model.packing import Packing

SIZES = [(1, 192, 96, 0), (7, 64, 64, 3), (13, 30, 70, 5), (201, 100, 130, 1)]  # T, K, N, R
LENGTHS = [1, 20, 3, 33, 20]
NONE = torch.empty(0, dtype=torch.int64)


def int8(*shape):
    return torch.randint(-127, 128, shape, dtype=torch.int8)


def padded(x):
    """Add zeros up to a multiple of 4 columns, (T, K) -> (T, K')."""
    return F.pad(x, (0, -x.shape[1] % 4))


def product(n_rows, width, n_outputs, n_outliers, n_layers=1, bias_dtype=torch.float32):
    """Return the arguments of `int8_linear` up to the residual, and its result in float64 (n_layers, T, N)."""
    torch.manual_seed(0)
    values, scales, high = int8(n_rows, width), torch.rand(n_rows, 1) / 100, int8(n_rows, n_outliers)
    weights = [int8(n_outputs, width) for _ in range(n_layers)]
    columns = torch.randperm(width)[:n_outliers]
    of_outliers = [weight[:, columns].t().contiguous() for weight in weights] if n_outliers else []
    scbs = [torch.rand(n_outputs) for _ in weights]
    biases = [torch.randn(n_outputs).to(bias_dtype) for _ in weights]
    inputs = values.double()
    inputs[:, columns] += 256 * high.double()
    expected = [
        inputs @ weight.double().t() * scb.double() / 127 * scales.double() + bias.double()
        for weight, scb, bias in zip(weights, scbs, biases, strict=True)
    ]
    arguments = (padded(values), scales, padded(high), weights, scbs, of_outliers, biases)
    return arguments, torch.stack(expected), columns


def rows_of(arguments, rows):
    return tuple(part[rows] if isinstance(part, torch.Tensor) else part for part in arguments)


@pytest.fixture(params=VARIANTS.values())
def variant(request, monkeypatch):
    """Run the operators with the kernels for each instruction set."""
    library = kernels(request.param)
    monkeypatch.setattr(operators, "_kernels", lambda: library)
    return request.param


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.usefixtures("variant")
def test_int8_linear_equals_definition(sizes, dtype):
    arguments, expected, _ = product(*sizes, n_layers=3, bias_dtype=dtype)
    y = int8_linear(*arguments, None, dtype, False)
    assert y.dtype == dtype
    tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}[dtype]
    assert_close(y.double(), expected, rtol=tolerance, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("variant")
def test_int8_linear_adds_residual_before_it_rounds(dtype):
    arguments, expected, _ = product(13, 30, 70, 5)
    residual = torch.randn(13, 70).to(dtype)
    y = int8_linear(*arguments, residual, dtype, False)
    assert torch.equal(y, (int8_linear(*arguments, None, torch.float32, False) + residual.float()).to(dtype))
    without_bias = int8_linear(*arguments[:-1], [], None, torch.float32, False)
    assert_close(without_bias.double(), expected[0] - arguments[-1][0].double(), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("variant")
def test_largest_sums_are_exact():
    width = 16384
    values, weight = torch.full((1, width), 127, dtype=torch.int8), torch.full((3, width), -127, dtype=torch.int8)
    values[0, -1] = -128  # the low byte of an outlier
    scales, scb = torch.ones(1, 1), torch.full((3,), 127.0)
    y = int8_linear(values, scales, None, [weight], [scb], [], [], None, torch.float32, False)
    assert torch.equal(y, (values.long() @ weight.long().t()).float())


@pytest.mark.usefixtures("variant")
def test_error_of_gelu_is_at_most_1e_6():
    x = torch.cat([torch.linspace(-8, 8, 40_001), torch.tensor([0.0, -1e-20, 1e30, -1e30, 5.5, -5.5])])
    values, weight = torch.ones(len(x), 4, dtype=torch.int8), torch.tensor([[1, 0, 0, 0]], dtype=torch.int8)
    y = int8_linear(
        values, x[:, None].clone(), None, [weight], [torch.full((1,), 127.0)], [], [], None, torch.float32, True
    )[:, 0]
    assert_close(y.double(), F.gelu(x.double()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [(), (7,), (0, 5, 29)])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.usefixtures("variant")
def test_quantize_rows_equals_definition(norm, columns, dtype):
    torch.manual_seed(0)
    x, columns = torch.randn(9, 30), torch.tensor(columns, dtype=torch.int64)
    x[:, columns] *= 50
    weight, bias = torch.rand(30) + 0.5, torch.randn(30)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    affine = (weight, bias) if norm else (None, None)
    values, scales, high, normalised = quantize_rows(x, columns, columns, *affine, 1e-5, norm)
    expected = x.double()
    if norm:
        expected = F.layer_norm(expected, (30,), weight.double(), bias.double(), 1e-5)
        assert normalised.dtype == dtype
        assert_close(normalised.double(), expected, rtol=4e-3 if dtype != torch.float32 else 1e-5, atol=1e-5)
    regular = expected.index_fill(1, columns, 0).abs().amax(1, keepdim=True)
    outliers = expected[:, columns].abs().amax(1, keepdim=True) / 257 if len(columns) else torch.zeros(9, 1)
    assert_close(scales.double(), torch.maximum(regular, outliers) / 127, rtol=1e-5, atol=0)
    whole = values[:, :30].double()
    whole[:, columns] += 256 * high[:, : len(columns)].double()
    assert (whole * scales - expected).abs().max() <= 0.501 * scales.max()
    assert ((whole * scales - expected).abs() <= 0.501 * scales + 1e-5 * expected.abs()).all()
    assert values.shape == (9, 32)
    assert not values[:, 30:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [(), (7,), (0, 5, 29)])
@pytest.mark.parametrize("width", [10, 30, 64])
@pytest.mark.usefixtures("variant")
def test_quantize_rows_within_their_range_equals_definition(width, columns, dtype):
    torch.manual_seed(0)
    columns = torch.tensor([i for i in columns if i < width], dtype=torch.int64)
    x = torch.rand(9, width) * torch.arange(1, 10)[:, None] + 5  # zero is not in the range
    x[:, columns] *= 50
    x, middles = x.to(dtype), torch.empty(9, 1)
    values, scales, high, _ = quantize_rows(x, columns, columns, None, None, 0.0, False, middles)
    x = x.double()
    least, most = x.index_fill(1, columns, 0).aminmax(dim=1, keepdim=True)
    assert_close(middles.double(), (least + most) / 2, rtol=1e-6, atol=0)
    x = x - middles
    outliers = x[:, columns].abs().amax(1, keepdim=True) / 257 if len(columns) else torch.zeros(9, 1)
    assert_close(scales.double(), torch.maximum((most - least) / 2, outliers) / 127, rtol=1e-5, atol=0)
    whole = values[:, :width].double()
    whole[:, columns] += 256 * high[:, : len(columns)].double()
    assert ((whole * scales - x).abs() <= 0.501 * scales + 1e-5 * x.abs()).all()
    assert not values[:, width:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.usefixtures("variant")
def test_int8_linear_adds_products_of_middles(sizes, dtype):
    arguments, expected, _ = product(*sizes, n_layers=3)
    weights, scbs = arguments[3:5]
    middles, sums = torch.randn(len(expected[0]), 1), [weight.sum(1, dtype=torch.int32) for weight in weights]
    of_middles = [middles.double() * total.double() * scb.double() / 127 for total, scb in zip(sums, scbs, strict=True)]
    expected += torch.stack(of_middles)
    residual = torch.randn(expected.shape[1:]).to(dtype)
    for more in (None, residual):
        y = int8_linear(*arguments, more, dtype, False, middles, sums)
        right = expected if more is None else expected + more.double()
        tolerance = 1e-6 if dtype == torch.float32 else 4e-3
        assert_close(y.double(), right, rtol=tolerance, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.usefixtures("variant")
def test_quantize_rows_within_their_range_zero_and_not_finite():
    x = torch.ones(4, 20)
    x[0], x[1, 3], x[2, 19] = 0, torch.nan, torch.inf
    weight, middles = int8(5, 20), torch.empty(4, 1)
    for columns in (NONE, torch.tensor([3, 19])):
        values, scales, high, _ = quantize_rows(x, NONE, columns, None, None, 0.0, False, middles)
        of_outliers = [weight[:, columns].t().contiguous()] if len(columns) else []
        sums = [weight.sum(1, dtype=torch.int32)]
        factors = [torch.full((5,), 127.0)]
        y = int8_linear(
            values, scales, high, [weight], factors, of_outliers, [], None, torch.float32, False, middles, sums
        )
        assert not y[0].any()
        assert not y[1:3].isfinite().any()
        assert_close(y[3], weight.sum(1).float(), rtol=1e-2, atol=0.5)


@pytest.mark.usefixtures("variant")
def test_quantize_rows_zero_and_not_finite():
    x = torch.ones(4, 20)
    x[0], x[1, 3], x[2, 19] = 0, torch.nan, torch.inf
    values, scales, *_ = quantize_rows(x, NONE, NONE, None, None, 0.0, False)
    assert not values[0].any()
    y = int8_linear(values, scales, None, [int8(5, 20)], [torch.rand(5)], [], [], None, torch.bfloat16, True)
    assert not y[0].any()
    assert not y[1:3].isfinite().any()
    assert y[3].isfinite().all()
    columns = torch.tensor([3, 19])
    scales = quantize_rows(x, NONE, columns, None, None, 0.0, False)[1]
    assert scales.isfinite()[:, 0].tolist() == [True, False, False, True]
    assert not quantize_rows(x, NONE, NONE, x[0], x[0], 0.0, False)[1][1:3].isfinite().any()


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("many", [False, True], ids=["few rows", "many rows"])
@pytest.mark.usefixtures("variant")
def test_int8_gelu_rows_equals_its_steps(many, asymmetric, monkeypatch):
    monkeypatch.setattr(operators, "ROWS_IN_CACHE", 1 if many else 10**6)
    (*inputs, weights, scbs, of_outliers, biases), _, _ = product(201, 100, 130, 1)
    columns = torch.tensor([0, 129])
    middles, expected_middles = (torch.zeros(201, 1), torch.zeros(201, 1)) if asymmetric else (None, None)
    found = int8_gelu_rows(*inputs, weights[0], scbs[0], of_outliers[0], biases[0], columns, middles)
    y = int8_linear(*inputs, weights, scbs, of_outliers, biases, None, torch.float32, True)
    expected = quantize_rows(y, columns, columns, None, None, 0.0, False, expected_middles)
    for part, right in zip(found, expected, strict=False):
        assert torch.equal(part, right)
    if asymmetric:
        assert torch.equal(middles, expected_middles)
        assert middles.all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_size", [16, 24, 64, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_equals_definition(variant, dtype, head_size, causal):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, sum(LENGTHS) + 2, 3, head_size).to(dtype)
    packing = Packing.from_lengths(LENGTHS, causal=causal)
    y = attention(q, k * 3, v, packing.cu_seqlens, packing.max_length, causal)
    expected = attend_by_length(q.double(), (k * 3).double(), v.double(), packing, 0.0)
    rounded = dtype == torch.bfloat16 and variant == "avx512bf16"  # probabilities are
    assert_close(
        y[:-2].double(), expected[:-2], rtol=1e-5 if dtype == torch.float32 else 4e-3, atol=8e-3 if rounded else 3e-6
    )
    assert not y[-2:].any()
    if rounded:  # at most as much again as by rounding the results
        error, least = ((x.double() - expected[:-2]).norm() for x in (y[:-2], expected[:-2].to(dtype)))
        assert error < 1.7 * least


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("size", [1e3, 1e6, 1e12, 1e18])
def test_attention_with_huge_scores_takes_the_value_of_the_highest(size):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, sum(LENGTHS), 3, 32)
    packing = Packing.from_lengths(LENGTHS)
    y = attention(q * size, k * size, v, packing.cu_seqlens, packing.max_length, False)
    expected = attend_by_length(q.double() * size, k.double() * size, v.double(), packing, 0.0)
    assert_close(y.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("variant")
def test_attention_of_parts_of_one_matrix_equals_that_of_copies():
    torch.manual_seed(0)
    q, k, v = torch.randn(sum(LENGTHS), 3, 4, 16).unbind(1)
    packing = Packing.from_lengths(LENGTHS)
    whole = (packing.cu_seqlens, packing.max_length, False)
    expected = attention(q.clone(), k.clone(), v.clone(), *whole)
    assert torch.equal(attention(q, k, v, *whole), expected)
    apart = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v)]
    assert torch.equal(attention(*apart, *whole), expected)


@pytest.mark.usefixtures("variant")
def test_scores_of_any_size_and_not_finite():
    q, k, v = torch.randn(3, 5, 1, 16)
    q[:, 0] *= 1e6
    y = attention(q, k, v, torch.tensor([0, 5], dtype=torch.int32), 5, False)
    assert y.isfinite().all()
    k[3] = torch.nan
    assert attention(q, k, v, torch.tensor([0, 5], dtype=torch.int32), 5, False).isnan().all()


def runs():
    """Return functions of which each runs a kernel on some rows and returns its results for these."""
    (values, scales, high, *weights), _, _ = product(201, 100, 130, 1)
    torch.manual_seed(1)
    x, residual, columns = torch.randn(201, 100).bfloat16(), torch.randn(201, 130).bfloat16(), torch.tensor([3])
    norm, middles = (torch.rand(100), torch.randn(100)), torch.randn(201, 1)

    def linear(rows):
        inputs = rows_of((values, scales, high), rows)
        return [int8_linear(*inputs, *weights, residual[rows], torch.bfloat16, True)]

    def gelu_rows(rows):
        inputs = rows_of((values, scales, high), rows)
        return int8_gelu_rows(*inputs, *(part[0] for part in weights), columns)

    def normalise(rows):
        return quantize_rows(x[rows], columns, columns, *norm, 1e-5, True)

    def asymmetric_linear(rows):
        inputs, sums = rows_of((values, scales, high), rows), [weights[0][0].sum(1, dtype=torch.int32)]
        return [int8_linear(*inputs, *weights, residual[rows], torch.bfloat16, False, middles[rows], sums)]

    def asymmetric_gelu_rows(rows):
        inputs = rows_of((values, scales, high), rows)
        found = torch.empty(len(inputs[0]), 1)
        return *int8_gelu_rows(*inputs, *(part[0] for part in weights), columns, found), found

    def asymmetric_rows(rows):
        found = torch.empty(len(x[rows]), 1)
        return *quantize_rows(x[rows], columns, columns, None, None, 0.0, False, found)[:3], found

    def attend(rows):
        q, k, v = (part.view(-1, 4, 25) for part in (x[rows], 2 * x[rows], x[rows]))
        return [attention(q, k, v, torch.arange(len(q) + 1, dtype=torch.int32), 1, False)]

    asymmetric = (asymmetric_linear, asymmetric_gelu_rows, asymmetric_rows)
    return {run.__name__: run for run in (linear, gelu_rows, normalise, attend, *asymmetric)}


@pytest.mark.parametrize("name", runs())
@pytest.mark.usefixtures("variant", "three_threads")
def test_row_is_independent_of_batch_and_threads(name, monkeypatch):
    monkeypatch.setattr(operators, "ROWS_IN_CACHE", 4)
    run = runs()[name]
    whole = run(slice(None))
    for rows in (slice(0, 1), slice(5, 8), slice(3, 201), slice(190, 201)):
        for part, right in zip(run(rows), whole, strict=True):
            assert torch.equal(part, right[rows])
    torch.set_num_threads(1)
    for part, right in zip(run(slice(None)), whole, strict=True):
        assert torch.equal(part, right)


@pytest.mark.usefixtures("variant")
def test_text_is_independent_of_batch():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, sum(LENGTHS), 3, 24)
    packing = Packing.from_lengths(LENGTHS)
    whole = attention(q, k, v, packing.cu_seqlens, packing.max_length, False)
    start = 0
    for length in LENGTHS:
        text = slice(start, start + length)
        bounds = torch.tensor([0, length], dtype=torch.int32)
        assert torch.equal(attention(q[text], k[text], v[text], bounds, length, False), whole[text])
        start += length


def test_variants_agree_to_the_last_bit(monkeypatch):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, sum(LENGTHS), 3, 24)
    packing = Packing.from_lengths(LENGTHS)
    all_runs = {**runs(), "texts": lambda _: [attention(q, k, v, packing.cu_seqlens, packing.max_length, True)]}
    results = {}
    for variant in ("avx2", "avx512"):
        monkeypatch.setattr(operators, "_kernels", partial(kernels, variant))
        results[variant] = {name: run(slice(None)) for name, run in all_runs.items()}
    for name, parts in results["avx2"].items():
        for part, other in zip(parts, results["avx512"][name], strict=True):
            assert torch.equal(part, other), name


@pytest.mark.usefixtures("variant")
def test_no_rows():
    values, scales, high, _ = quantize_rows(torch.empty(0, 20), NONE, NONE, None, None, 0.0, False)
    y = int8_linear(values, scales, high, [int8(5, 20)], [torch.rand(5)], [], [], None, torch.float32, False)
    assert y.shape == (0, 5)
