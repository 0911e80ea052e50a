"""Tests of the kernels in Triton's interpreter, which `test_kernels.py` runs in a process with TRITON_INTERPRET=1."""

import pytest
import torch
import torch.nn.functional as F
from emulated_cuda import triton_kernels as reference
from quantized_layers import quantized_layer
from torch import nn
from torch.testing import assert_close

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.int8 import Int8
from skxlmr.model.int8_triton import operators
from skxlmr.model.packing import Packing
from skxlmr.model.quantized import linear_layers

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
PRECISION = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # the interpreter cuts bfloat16 off
# Outliers, K and N: less than a tile, more than one, and XL's hidden size
SHAPES = [((), 80, 40), ((3,), 200, 96), (tuple(range(0, 200, 5)), 200, 130), ((0, 7, 2559), 2560, 24)]


def inputs(n_rows, width, columns=(), dtype=torch.float32):
    x = torch.randn(n_rows, width, generator=torch.Generator().manual_seed(1))
    x[:, list(columns)] *= 60
    return x.to(dtype)


def mask(columns, width):
    columns = torch.tensor(columns, dtype=torch.int64)
    return torch.zeros(width, dtype=torch.bool).index_fill_(0, columns, True), columns


def layer_of(columns, width, n_columns, seed=0, bias=True):
    torch.manual_seed(seed)
    layer = quantized_layer(nn.Linear(width, n_columns, bias=bias), Int8(engine="triton"))
    layer.set_outliers(torch.tensor(columns, dtype=torch.int64))
    return layer


def exact(x, layer):
    """Return the product in float64 with the weights as they are."""
    y = x.double() @ layer.dequantize(torch.float64).t()
    return y if layer.bias is None else y + layer.bias.double()


def relative(x, y):
    return float((x.double() - y).norm() / y.norm())


@pytest.fixture(params=operators.TILES, ids=lambda tiles: f"{tiles.m}x{tiles.n}")
def tiles(request, monkeypatch):
    monkeypatch.setattr(operators, "candidates", lambda *_: [request.param])


@pytest.mark.parametrize(("columns", "width", "_"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantize_rows_equals_definition(columns, width, _, dtype):
    x = inputs(5, width, columns, dtype)
    x[2] = 0
    given = (x, *mask(columns, width), None, None, 0.0, False)
    for ours, theirs in zip(operators.quantize_rows(*given), reference.quantize_rows(None, *given), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.flatten().tolist() == theirs.flatten().tolist()


@pytest.mark.parametrize(("columns", "width", "_"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantize_rows_after_layer_norm_is_within_one_step(columns, width, _, dtype):
    x, norm = inputs(5, width, dtype=dtype), nn.LayerNorm(width, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(width) + 0.5)
        norm.bias.copy_(torch.randn(width))
        norm.weight[list(columns)] *= 60
    norm = norm.to(dtype).requires_grad_(False)
    exactly = F.layer_norm(x.double(), (width,), norm.weight.double(), norm.bias.double(), norm.eps)
    given = (x, *mask(columns, width), norm.weight, norm.bias, norm.eps)
    values, scales, high, normalised = operators.quantize_rows(*given, True)
    assert normalised.dtype == dtype
    assert_close(normalised.double(), exactly, rtol=PRECISION[dtype], atol=1e-5)
    whole = values.double()
    whole[:, list(columns)] += 256 * high[:, : len(columns)].double()
    assert ((whole * scales.double() - exactly).abs() < 0.501 * scales).all()
    assert operators.quantize_rows(*given, False)[3].numel() == 0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, in the interpreter
def test_quantize_rows_of_nan_or_infinity_is_nan_in_this_row_alone():
    x, layer = inputs(5, 80, (3,)), layer_of((3,), 80, 40)
    expected = layer(x)
    x[1, 3], x[2, 70] = torch.nan, torch.inf
    y = layer(x)
    assert y[1:3].isnan().all()
    assert torch.equal(y[[0, 3, 4]], expected[[0, 3, 4]])


@pytest.mark.parametrize(("columns", "width", "n_columns"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_product_is_near_float64(columns, width, n_columns, dtype):
    """With inputs that are multiples of a step, rounding them loses nothing."""
    layer, x = layer_of(columns, width, n_columns), inputs(5, width).mul(40).round().clamp(-127, 127)
    x[:, -2] = 127
    x[:, list(columns)] = x[:, list(columns)].mul(257)
    x = (x / 64).to(torch.float32)
    quantized = layer.prepare(x)
    quantized.dtype = dtype
    y = layer.engine.multiply(quantized, layer)
    assert y.dtype == dtype
    assert relative(y, exact(x, layer)) < PRECISION[dtype]


@pytest.mark.parametrize(("columns", "width", "n_columns"), SHAPES[-2:])
@pytest.mark.usefixtures("tiles")
def test_product_of_a_row_is_the_same_in_any_batch_with_any_tiles(columns, width, n_columns):
    layer, x = layer_of(columns, width, n_columns), inputs(70 if width < 1000 else 20, width, columns)
    given = layer.prepare(x)
    weights = [layer.outlier_weight] if columns else []
    arguments = (given.values, given.scales, given.high, [layer.weight], [layer.SCB], weights, [layer.bias])
    expected = reference.int8_linear(None, *arguments, None, torch.float32, False)
    whole = layer(x)
    assert_close(whole, expected, rtol=1e-6, atol=1e-6)
    for rows in (slice(0, 1), slice(11, 12), slice(3, 20)):
        assert torch.equal(layer(x[rows]), whole[rows])


def test_product_with_gelu_and_residual_is_near_float64():
    layer, x, residual = layer_of((), 80, 40), inputs(5, 80), torch.randn(5, 40)
    engine, given = layer.engine, layer.prepare(x)
    plain = engine.multiply(given, layer).double()
    assert_close(engine.products(given, [layer], gelu=True).double(), F.gelu(plain), rtol=1e-5, atol=1e-6)
    y = engine.products(given, [layer], gelu=True, residual=residual)
    assert_close(y.double(), F.gelu(plain) + residual.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_three_products_equal_one_after_the_other(bias):
    layers = [layer_of((3, 9), 80, 40, seed, bias) for seed in range(3)]
    x = inputs(17, 80, (3, 9))
    three = layers[0].engine.products(layers[0].prepare(x), layers)
    for y, layer in zip(three, layers, strict=True):
        assert torch.equal(y, layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_above_the_range_of_float16_is_finite(dtype):
    layer = layer_of((3,), 80, 40)
    x = inputs(5, 80, (3,)) * 1e6
    y = layer(x.to(dtype))
    assert y.abs().max() > 65504
    assert relative(y, exact(x, layer)) < 0.02


def test_empty_input_has_empty_product():
    assert layer_of((3,), 80, 40)(torch.empty(0, 80)).shape == (0, 40)


def test_gradient_reaches_the_input():
    layer, x, weights = layer_of((3,), 80, 40), inputs(5, 80).requires_grad_(), torch.randn(5, 40)
    (layer(x) * weights).sum().backward()
    assert_close(x.grad, weights @ layer.dequantize(torch.float32), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_encoder_equals_the_engine_of_cpus_and_does_not_depend_on_the_batch(dtype):
    def model_of(engine):
        sizes = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 136, "num_hidden_layers": 1}
        torch.manual_seed(0)
        model = XLMRobertaXLModel(XLMRobertaXLConfig(vocab_size=50, **sizes), add_pooling_layer=False)
        settings = Int8(engine=engine)
        for name, linear in linear_layers(model).items():
            layer = quantized_layer(linear, settings)
            layer.set_outliers(torch.tensor([1, 5]))
            model.set_submodule(name, layer)
        return model.eval().to(dtype)

    @torch.inference_mode()
    def encode(model, lengths):
        ids, positions = torch.arange(sum(lengths)) + 4, torch.cat([torch.arange(n) for n in lengths]) + 2
        return model.encode(ids, positions, Packing.from_lengths(lengths))[-1].float()

    model = model_of("triton")
    y = encode(model, [12, 5, 3])
    assert relative(y, encode(model_of("int_mm"), [12, 5, 3]).double()) < {torch.float32: 1e-5}.get(dtype, 0.02)
    assert torch.equal(encode(model, [12]), y[:12])
