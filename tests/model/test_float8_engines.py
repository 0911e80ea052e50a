"""Rounding to 8-bit floating point, its products, and which device gets which."""

import sys

import pytest
import torch
import torch.nn.functional as F
from emulated_cuda import GPUS, Gpu
from quantized_layers import quantized_layer
from torch import nn
from torch.testing import assert_close

from skxlmr.model import blocks, float8_engines
from skxlmr.model.float8 import Float8
from skxlmr.model.float8_engines import E4M3, ENGINES, choose_engine, decoded, round_rows, takes_row_scales

ALL = torch.arange(256, dtype=torch.uint8).view(E4M3)
CODES = ALL.double()[ALL.double().isfinite()].unique()  # the 253 numbers, zero once
WITH_PRODUCTS = ["L4", "H100", "B200"]
HALF_DTYPES = [torch.bfloat16, torch.float16]


def layer_of(in_features, out_features, bias=True, **settings):
    torch.manual_seed(0)
    return quantized_layer(nn.Linear(in_features, out_features, bias=bias), Float8(**settings))


def rounded(x):
    """Return a matrix in float64 with each row rounded to the nearest multiples of its scale, by definition."""
    steps = (x.abs().amax(1, keepdim=True).float().clamp(min=1e-30) / 448).double()
    quotients = (x / steps).float().double().clamp(-448, 448)  # what is exactly between two depends on its last bits
    above = torch.searchsorted(CODES, quotients)
    below = (above - 1).clamp(min=0)
    up, down = CODES[above] - quotients, quotients - CODES[below]
    takes_above = (up < down) | ((up == down) & (above % 2 == 0))  # the number with an even mantissa
    return torch.where(takes_above, CODES[above], CODES[below]) * steps


def expected(x, layer):
    """Return the product of an input (T, K) with the weights of a layer in float64, with both as they are rounded."""
    bias = None if layer.bias is None else layer.bias.double().cpu()
    return F.linear(rounded(x.double().cpu()), layer.dequantize(torch.float32).double().cpu(), bias)


def inputs(n_rows, width, dtype=torch.float32):
    return torch.randn(n_rows, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_e4m3_has_253_numbers_up_to_448():
    assert len(CODES) == 253
    assert float8_engines.LARGEST == CODES.max() == 448


def test_decoded_equals_every_number():
    finite = ALL[ALL.double().isfinite()]
    assert torch.equal(decoded(finite), finite.float())
    assert decoded(finite).dtype == torch.float32
    assert torch.equal(decoded(finite.view(2, 127)), finite.view(2, 127).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF_DTYPES])
def test_round_rows_equals_definition(dtype):
    x = inputs(23, 40, dtype)
    x[3] = 0
    x[4, 7] *= 1000
    x[5] *= 1e-4
    values, scales = round_rows(x)
    assert (values.dtype, scales.dtype, scales.shape) == (E4M3, torch.float32, (23, 1))
    assert_close(values.double() * scales, rounded(x.double()), rtol=1e-6, atol=1e-12)
    assert (values.double().abs().amax(1) == 448).sum() == 22  # all but the row of zeros
    assert not values[3].double().any()


def test_round_rows_error_is_at_most_a_sixteenth_of_each_number():
    """Also of small numbers beside one that is a thousand times as large."""
    x = inputs(50, 64).double()
    x[:, 9] *= 1000
    values, scales = round_rows(x)
    normal = x.abs() / scales >= 2**-6  # smaller ones have fewer bits
    error = (values.double() * scales - x).abs() / x.abs()
    assert normal.double().mean() > 0.9
    assert error[normal].max() <= 1 / 16 + 1e-6


@pytest.mark.parametrize("large", [6e4, 3e38])
def test_round_rows_of_large_numbers_is_finite(large):
    x = inputs(4, 32)
    x *= large / x.abs().max()
    values, scales = round_rows(x)
    assert values.double().isfinite().all()
    assert_close((values.double() * scales).abs().max(), torch.tensor(large, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_row_with_infinity_or_nan_has_no_finite_result(wrong):
    """What is wrong in an input or a weight must not pass for a number."""
    x = inputs(3, 32)
    x[1, 5] = wrong
    values, scales = round_rows(x)
    of_rows = (decoded(values) * scales).isfinite().all(1)
    assert of_rows.tolist() == [True, False, True]


def test_round_rows_in_blocks_equals_whole(monkeypatch):
    x = inputs(37, 48)
    whole = round_rows(x)
    monkeypatch.setitem(blocks.BLOCK, "cpu", 5 * 48)
    for out in (None, torch.empty(37, 48, dtype=E4M3)):
        parts = round_rows(x, out)
        assert torch.equal(parts[0].view(torch.uint8), whole[0].view(torch.uint8))
        assert torch.equal(parts[1], whole[1])
        assert out is None or parts[0] is out


# (K, N): what `_scaled_mm` takes, and what is filled up in one dimension, or in both
SIZES = [(192, 96), (48, 20), (40, 32), (20, 7), (3, 1)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("in_features", "out_features"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF_DTYPES])
@pytest.mark.parametrize("gpu_name", WITH_PRODUCTS)
def test_scaled_mm_equals_float64(emulate, gpu_name, dtype, in_features, out_features, bias):
    gpu = emulate(gpu_name)
    layer = layer_of(in_features, out_features, bias).to("cuda")
    x = inputs(11, in_features, dtype)
    with gpu.counting() as counts, torch.no_grad():
        y = layer(x.cuda())
    assert counts.kernels == {"e4m3 product": 1}
    assert (y.dtype, y.shape) == (dtype, (11, out_features))
    tolerance = max(torch.finfo(dtype).eps, 1e-5)  # the result is rounded once
    assert_close(y.cpu().double(), expected(x, layer), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_mm_of_large_numbers_is_finite(emulate, dtype):
    """Inputs of 1e5, and outputs of 3e5, which float16 does not have."""
    emulate("H100")
    layer = layer_of(192, 96)
    layer.load("weight", torch.full((96, 192), 1 / 64))
    layer.to("cuda")
    x = torch.full((3, 192), 1e5, dtype=dtype)
    y = layer(x.cuda()).cpu().double()
    assert_close(y, torch.full((3, 96), 3e5, dtype=torch.float64), rtol=1e-2, atol=0)


def test_scaled_mm_adds_a_bias_in_the_dtype_of_the_product(emulate):
    emulate("H100")
    layer = layer_of(32, 16).to("cuda")
    layer.bias.data.fill_(1e-3 + 2**-20)  # float32, where the product is in 16 bits
    for dtype in HALF_DTYPES:
        zeros = torch.zeros(2, 32, dtype=dtype, device="cuda")
        assert_close(layer(zeros).cpu(), layer.bias.cpu().to(dtype).expand(2, 16), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_mm_row_is_independent_of_its_batch(emulate, dtype):
    """Bit for bit in all steps around the kernel, which the emulated device computes row by row."""
    emulate("H100")
    layer, x = layer_of(192, 96).to("cuda"), inputs(41, 192, dtype).cuda()
    x[3] *= 1000
    whole = layer(x).cpu()
    for rows in (slice(0, 1), slice(0, 2), slice(5, 8), slice(3, 40)):
        assert torch.equal(layer(x[rows]).cpu(), whole[rows])
    assert layer(x[:0]).shape == (0, 96)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scaled_mm_in_blocks_equals_whole(emulate, dtype, monkeypatch):
    emulate("H100")
    layer, x = layer_of(48, 96).to("cuda"), inputs(41, 48, dtype).cuda()
    whole = layer(x).cpu()
    monkeypatch.setattr(blocks, "LARGE_BLOCK", 4 * 96)
    assert torch.equal(layer(x).cpu(), whole)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_DTYPES])
def test_scaled_mm_where_rows_have_no_scales_in_the_kernel(emulate, dtype, monkeypatch):
    """On GPUs of compute capability 12.0 some releases of torch refuse them."""
    monkeypatch.setitem(GPUS, "RTX 5090", Gpu("RTX 5090", (12, 0), 32 * 10**9))
    emulate("RTX 5090")
    layer, x = layer_of(192, 96).to("cuda"), inputs(11, 192, dtype)
    tolerance = max(torch.finfo(dtype).eps, 1e-5)
    assert_close(layer(x.cuda()).cpu().double(), expected(x, layer), rtol=tolerance, atol=tolerance)


def test_takes_row_scales_depends_on_dtype_device_and_system(emulate, monkeypatch):
    emulate("L4")
    cuda = torch.device("cuda", 0)
    assert takes_row_scales(torch.bfloat16, cuda)
    assert not takes_row_scales(torch.float32, cuda)
    assert not takes_row_scales(torch.float16, cuda)
    monkeypatch.setattr(sys, "platform", "win32")
    on_windows = takes_row_scales(torch.bfloat16, cuda)
    monkeypatch.undo()
    assert not on_windows


@pytest.mark.parametrize("gpu_name", GPUS)
def test_choose_engine_on_cuda_depends_on_capability(emulate, gpu_name, monkeypatch):
    emulate(gpu_name)
    cuda = torch.device("cuda", 0)
    assert choose_engine("dequantize", cuda) is ENGINES["dequantize"]
    if gpu_name in WITH_PRODUCTS:
        assert choose_engine("auto", cuda) is choose_engine("scaled_mm", cuda) is ENGINES["scaled_mm"]
        monkeypatch.setattr(torch.version, "hip", "7.0")  # its 8-bit numbers are others
        assert choose_engine("auto", cuda) is ENGINES["dequantize"]
    else:
        assert choose_engine("auto", cuda) is ENGINES["dequantize"]
        with pytest.raises(ValueError, match=rf"8\.9 or higher .*, which {gpu_name} is not\. Use engine='auto'"):
            choose_engine("scaled_mm", cuda)


def test_choose_engine_on_other_devices():
    cpu = torch.device("cpu")
    assert choose_engine("auto", cpu) is choose_engine("dequantize", cpu) is ENGINES["dequantize"]
    with pytest.raises(ValueError, match=r"needs an NVIDIA GPU .*, which 'cpu' is not"):
        choose_engine("scaled_mm", cpu)
    for name in ("auto", "dequantize", "scaled_mm"):
        with pytest.raises(ValueError, match=r"'mps' does not have\. Use load_in_8bit=True"):
            choose_engine(name, torch.device("mps"))


def test_choose_engine_auto_for_a_gpu_that_is_not_there(monkeypatch):
    """Memory is estimated for CUDA on machines without it."""

    def fail(_: object) -> None:
        raise RuntimeError("no NVIDIA driver")

    monkeypatch.setattr(torch.cuda, "get_device_capability", fail)
    assert choose_engine("auto", torch.device("cuda")) is ENGINES["scaled_mm"]
